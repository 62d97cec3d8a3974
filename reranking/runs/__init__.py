"""Runs: planned, searched, scored, ranked, published, exported, promoted.

Public: `run.Run`, `listing.find_run`, `listing.list_runs`.
"""
