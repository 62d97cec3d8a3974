"""Texts in, logits and vectors out: engines, packing, devices, encoders, rerankers.

Public: `crossencoder.find_reranker` (here or on a server), `find_cross_encoder` and their Protocol
`Reranker`, `encoder.SentenceEncoder`, `scorer.Scorer`.
"""
