"""Composition only: one flow a file, and the command line."""
