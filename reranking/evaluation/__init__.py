"""Measures, comparisons with a verdict, gates: all from tables, no model is loaded."""
