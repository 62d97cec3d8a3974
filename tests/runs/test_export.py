"""Exports: what a spreadsheet opens is text, and is taken back exactly."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from reranking.runs.export import export_results
from reranking.spreadsheets import unescaped


def test_a_csv_runs_no_formula_and_keeps_every_id(tmp_path: Path) -> None:
    ids = ["=1+1", "\tTAB=1", "\rCR", " =x", "@a", "-", "plain", " p "]
    rows = pa.table(
        {
            "query_id": ids,
            "query_type": ["fts"] * len(ids),
            "rank": pa.array([1] * len(ids), pa.int32()),
            "doc_id": ids,
            "_relevance_score": pa.array([-1.0] * len(ids), pa.float32()),
        }
    )
    run: Any = SimpleNamespace(
        search=SimpleNamespace(query_types=("fts",)),
        database=SimpleNamespace(read=lambda *_: rows),
        results_table="results_x",
        only_own=lambda rows: rows,
        run_id="x" * 32,
    )
    out = tmp_path / "out.csv"
    assert export_results(run, "csv", out) == len(ids)
    with out.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert sorted(unescaped(row["doc_id"]) for row in written) == sorted(ids)
    assert not [row for row in written if row["doc_id"].startswith(("=", "\t", "\r", "@", "-"))]
    assert {row["_relevance_score"] for row in written} == {"-1.0"}
