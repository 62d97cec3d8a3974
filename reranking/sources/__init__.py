"""Rows of any format in, Arrow out, rejects with their reasons. Public: `open`'s readers."""
