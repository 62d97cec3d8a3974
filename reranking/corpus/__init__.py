"""What is searched: documents, passages, queries, filters, indexes.

Public: `corpus.Corpus`, `ingest.ingest`, `queries`.
"""
