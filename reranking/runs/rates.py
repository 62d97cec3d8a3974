"""How fast this database's runs were scored."""

from __future__ import annotations

import json

from reranking.runs.rows import TABLE
from reranking.store import Database, equals


def scoring_rate(database: Database, reranker: str) -> float | None:
    """Return pairs per second of the newest run that scored with the reranker; None if none did."""
    columns = ["started_at", "counts_json", "seconds_json"]
    rows = database.read(TABLE, equals("reranker", reranker), columns).to_pylist()
    for row in sorted(rows, key=lambda r: r["started_at"], reverse=True):
        scored = json.loads(row["counts_json"]).get("scored", 0)
        seconds = json.loads(row["seconds_json"]).get("score", 0.0)
        if scored and seconds:
            return float(scored / seconds)
    return None
