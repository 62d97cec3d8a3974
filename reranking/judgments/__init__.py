"""Relevance grades: stored lists, the wording they hold for, consensus of raters, files."""
