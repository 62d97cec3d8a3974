"""Scored pairs and judgments for tests of labels."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from configs.labelling import LabelRule
from reranking.fingerprints import text_hash
from reranking.labelling.rules import (
    apply_rule,
)


def scored(*rows: tuple[Any, ...]) -> pa.Table:
    """Scored pairs from (query, doc, score[, vector_rank, fts_rank[, other_score]])."""
    full = [(*row, None, None, None)[:6] for row in rows]
    return pa.table(
        {
            "query_id": [r[0] for r in full],
            "doc_id": [r[1] for r in full],
            "query_hash": pa.array([text_hash(r[0]) for r in full], pa.binary(16)),
            "doc_hash": pa.array([text_hash(r[1]) for r in full], pa.binary(16)),
            "score": pa.array([r[2] for r in full], pa.float32()),
            "vector_rank": pa.array([r[3] for r in full], pa.int32()),
            "fts_rank": pa.array([r[4] for r in full], pa.int32()),
            "other_score": pa.array([r[5] for r in full], pa.float32()),
        }
    )


def judgments(*rows: tuple[Any, ...]) -> pa.Table:
    """Judgments from (query, doc, relevance[, source])."""
    full = [(*row, "ann")[:4] for row in rows]
    return pa.table(
        {
            "query_id": [r[0] for r in full],
            "doc_id": [r[1] for r in full],
            "relevance": pa.array([r[2] for r in full], pa.int32()),
            "source": [r[3] for r in full],
        }
    )


PAIRS = scored(
    ("q1", "a", 5.0, 1, 2, 4.0),
    ("q1", "b", 3.0, 2, None, -1.0),
    ("q1", "c", 3.0, 3, 1, 2.0),
    ("q1", "d", -2.0, None, 3, -3.0),
    ("q2", "a", 0.5, 1, 1, 1.0),
    ("q2", "b", -4.0, 2, None, None),
)


def labelled() -> pa.Table:
    calibrated = PAIRS.append_column("probability", pa.array([0.9, 0.6, 0.6, 0.05, 0.55, 0.01]))
    return apply_rule(calibrated, LabelRule(name="r", at_least=0.5, unsure=(0.5, 0.58)))
