"""Looking after a database: retention, tidy scores, orphans, schema upgrades.

Public: `maintain.maintain`.
"""
