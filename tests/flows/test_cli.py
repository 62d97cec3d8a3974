"""The command line: commands about runs, exports, exit codes. No server is needed for these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from reranking.errors import worst
from reranking.runs.export import trec_lines
from reranking.runs.run import Run
from tests.support import tiny
from tests.support.walk import walk_file

COMMANDS = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    made = tmp_path_factory.mktemp("cli")
    tiny.write_jsonl(made / "documents.jsonl", tiny.documents())
    tiny.write_jsonl(made / "queries.jsonl", tiny.queries(["river stone", "winter lamp", ""]))
    tiny.write_config(made, cross_encoder)
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return walk_file(folder / "config.yaml")[0]


def ask(*arguments: object) -> Result:
    return COMMANDS.invoke(app, [str(a) for a in arguments])


def last_json(result: Result) -> Any:
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_runs_lists_the_run(folder: Path, run: Run) -> None:
    result = ask("runs", "--config", folder / "config.yaml", "--json")
    assert result.exit_code == 0
    assert [r["run_id"] for r in last_json(result)] == [run.run_id]
    assert last_json(result)[0]["status"] == "done"
    table = ask("runs", "--database", folder / "db.lancedb")
    assert run.run_id[:8] in table.stdout


def test_show_takes_the_beginning_of_an_id(folder: Path, run: Run) -> None:
    result = ask("show", run.run_id[:6], "--config", folder / "config.yaml", "--json")
    shown = last_json(result)
    assert shown["counts"]["queries"] == 3
    assert shown["reranker"] == run.reranker
    assert "lancedb" in shown["libraries_json"]
    assert run.run_id in ask("show", run.run_id, "--config", folder / "config.yaml").stdout


def test_an_unknown_run_is_exit_code_4(folder: Path, run: Run) -> None:
    result = ask("show", "ffff", "--config", folder / "config.yaml")
    assert result.exit_code == 4
    assert f"no run 'ffff' in {folder / 'db.lancedb'} (newest: {run.run_id[:8]})" in result.stderr


def test_a_missing_database_is_exit_code_4(tmp_path: Path) -> None:
    result = ask("runs", "--database", tmp_path / "nothing")
    assert result.exit_code == 4
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("arguments", [[], ["--config", "a.yaml", "--database", "b"]])
def test_the_database_is_named_once(arguments: list[str]) -> None:
    result = ask("runs", *arguments)
    assert result.exit_code == 2
    assert "either --config FILE or --database URI" in result.stderr


def test_a_broken_config_is_exit_code_2_with_every_fault(folder: Path) -> None:
    changes = ["--set", "search.limit=0", "--set", "nonsense=1"]
    result = ask("run", folder / "config.yaml", *changes)
    assert result.exit_code == 2
    assert "2 faults" in result.stderr
    assert "nonsense: unknown key" in result.stderr and "search.limit" in result.stderr


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_tables_are_exported_whole(folder: Path, run: Run, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"results.{form}"
    result = ask(
        "export", run.run_id, "--format", form, "--out", out, "--config", folder / "config.yaml"
    )
    assert result.exit_code == 0, result.stderr
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[form]
    rows = read(out)
    assert rows.columns == [
        *("query_id", "query_type", "rank", "doc_id", "_relevance_score", "_distance", "_score")
    ]
    assert f"{len(rows)} rows" in result.stdout
    assert set(rows["query_type"]) == {"vector", "fts", "hybrid"}
    assert [p.name for p in tmp_path.iterdir()] == [out.name]  # no temporary file is left


def test_a_trec_run_is_read_by_evaluators_in_rank_order(
    folder: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run.trec"
    chosen = ["--query-type", "hybrid", "--config", folder / "config.yaml"]
    assert ask("export", run.run_id, "--format", "trec", "--out", out, *chosen).exit_code == 0
    lines = [line.split(" ") for line in out.read_text().splitlines()]
    assert all(len(line) == 6 and line[1] == "Q0" for line in lines)
    read = list(ir_measures.read_trec_run(str(out)))
    ours: dict[str, list[str]] = {}
    for query_id, _, doc_id, rank, _, tag in lines:
        ours.setdefault(query_id, []).append(doc_id)
        assert int(rank) == len(ours[query_id])
        assert tag == f"rescore-{run.run_id[:8]}"
    for query_id, documents in ours.items():
        mine = sorted((r for r in read if r.query_id == query_id), key=lambda r: -r.score)
        assert [r.doc_id for r in mine] == documents
        assert len({r.score for r in mine}) == len(mine)


def test_ties_are_written_as_strictly_decreasing_scores() -> None:
    values = np.array([1, 1, 1, 0.5, 0.5, -3], np.float32)
    rows = pa.table(
        {
            "query_id": ["q"] * 6,
            "doc_id": list("fedcba"),
            "rank": range(1, 7),
            "_relevance_score": values,
        }
    )
    written = [np.float32(line.split()[4]) for line in trec_lines(rows, "t")]
    assert all(a > b for a, b in zip(written, written[1:], strict=False))
    assert np.allclose(written, values, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "trec"], "choose --query-type"),
        (["--format", "xml"], "none of trec, parquet, csv, jsonl"),
        (["--format", "csv", "--query-type", "dense"], "has query types vector, fts, hybrid"),
    ],
)
def test_bad_exports_say_why(
    folder: Path, run: Run, tmp_path: Path, options: list[str], message: str
) -> None:
    out = tmp_path / "x"
    result = ask("export", run.run_id, *options, "--out", out, "--config", folder / "config.yaml")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not out.exists()


def test_ids_with_blanks_cannot_be_a_trec_run(tmp_path: Path, cross_encoder: Path) -> None:
    tiny.write_jsonl(
        tmp_path / "documents.jsonl",
        [d | {"doc_id": f"a {d['doc_id']}"} for d in tiny.documents(9)],
    )
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river"]))
    config = tiny.write_config(tmp_path, cross_encoder, search__query_types=["vector"])
    run_id = walk_file(config)[0].run_id
    result = ask("export", run_id, "--format", "trec", "--out", tmp_path / "x", "--config", config)
    assert result.exit_code == 5
    assert "has white space, which a TREC run cannot hold" in result.stderr


def test_the_worst_exit_code_wins() -> None:
    assert worst(7, 1, 4) == 4
    assert worst(7, 0) == 7
    assert worst(5, 6, 2) == 6
    assert worst() == 0
