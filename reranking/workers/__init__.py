"""The workers that `execution` asks for: threads, processes, or those of a Ray or Dask cluster.

A worker opens the tables itself, loads its model once, and commits its own chunks. Nobody holds a
lease: whether a chunk is searched and which of its pairs are scored is read from the tables, so
whoever works on a chunk again does only what is not done.
"""
