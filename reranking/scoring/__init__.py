"""Texts in, logits and vectors out: engines, packing, devices, encoders, rerankers.

Public: `crossencoder.find_cross_encoder` and its Protocol `Reranker`, `encoder.SentenceEncoder`,
`scorer.Scorer`.
"""
