"""Runs: planned, searched, scored, ranked, published, exported, promoted.

Public: `run.Run`, `run.find_run`, `run.list_runs`.
"""
