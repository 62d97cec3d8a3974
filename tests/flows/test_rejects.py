"""Rejected rows are listed with their reasons."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from flows.cli import app
from reranking.corpus.rejects import write_rejects
from reranking.sources.rows import Reject
from reranking.store import Database


def ask(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["rejects", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])
    return rows


def test_rejects_are_listed_by_source_and_reason(tmp_path: Path) -> None:
    uri = str(tmp_path / "db.lancedb")
    database = Database(uri)
    rejects = [Reject(2, "b", "duplicate id", None), Reject(1, "a", "no text", "{}")]
    write_rejects(database, rejects, "aa11", datetime(2026, 1, 1, tzinfo=UTC))
    write_rejects(
        database, [Reject(7, None, "No text", "x")], "bb22", datetime(2026, 1, 2, tzinfo=UTC)
    )

    def rows(*arguments: str) -> list[int]:
        return [row["row_number"] for row in ask("--database", uri, *arguments)]

    assert rows() == [7, 1, 2]
    assert rows("--source", "aa") == [1, 2]
    assert rows("--reason", "NO TEXT") == [7, 1]
    assert rows("--source", "cc") == []
    shown = CliRunner().invoke(app, ["rejects", "--database", uri])
    assert "3 rejected rows" in shown.output and "duplicate id" in shown.output
