"""Gates on data: each refuses what it should, publishes nothing, and needs no judgment."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support import tiny

QUERIES = ["river stone", "winter lamp", "copper signal"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A night that was accepted."""
    folder = tmp_path_factory.mktemp("data-gates")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(40))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(QUERIES))
    config = tiny.write_config(
        folder,
        cross_encoder,
        search__query_types=["fts"],
        results__publish="shop",
        documents__delete_limit=1,
        documents__delete_missing=True,
    )
    assert (
        asked(config, "max_top10_change=0", "max_documents_change=0", "max_score_drift=0")[0] == 0
    )
    return config


def asked(config: Path, *gates: str) -> tuple[int, dict[str, Any]]:
    """The exit code and what `rescore run` tells."""
    sets = [f"data_gates.{gate}" for gate in gates]
    options = [part for gate in sets for part in ("--set", gate)]
    result = CliRunner().invoke(app, ["run", str(config), *options, "--publish", "--json"])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def served(config: Path) -> str:
    table = Database(str(config.parent / "db.lancedb")).need("shop")
    return str(table.schema.metadata[b"rescore.run_id"].decode())


def conditions(values: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {c["condition"]: (c["passed"], c["reason"]) for c in values["gates"]["conditions"]}


def test_a_night_of_other_documents_is_refused_until_somebody_accepts_it(config: Path) -> None:
    before = served(config)
    fewer = [d for d in tiny.documents(40) if int(d["doc_id"][1:]) < 20]
    tiny.write_jsonl(config.parent / "documents.jsonl", fewer)
    gates = ["max_documents_change=0.1", "max_top10_change=0.1", "max_score_drift=9"]
    code, values = asked(config, *gates)
    assert code == 1 and values["published"] is None
    assert served(config) == before != values["run_id"]
    said = conditions(values)
    assert said["max_documents_change"] == (
        False,
        f"20 documents, 40 in run {before[:8]}: a change of 50.0%, at most 10.0% may be",
    )
    assert not said["max_top10_change"][0] and said["max_score_drift"][0]
    assert "standard deviations" in said["max_score_drift"][1]

    # The next night is still compared with the accepted one, not with the refused one.
    tiny.write_jsonl(config.parent / "documents.jsonl", fewer[:19])
    code, values = asked(config, *gates)
    assert code == 1 and f"in run {before[:8]}" in conditions(values)["max_documents_change"][1]

    done = CliRunner().invoke(app, ["publish", values["run_id"], str(config)])
    assert done.exit_code == 0 and served(config) == values["run_id"]
    tiny.write_jsonl(config.parent / "documents.jsonl", fewer)
    code, again = asked(config, "max_documents_change=0.1")
    reason = conditions(again)["max_documents_change"][1]
    assert code == 0 and f"19 in run {values['run_id'][:8]}" in reason


def test_rejects_lost_queries_and_cut_pairs_have_limits(config: Path) -> None:
    long = {"query_id": "long", "text": " ".join(["river stone"] * 40), "vector": [0.1] * 8}
    asking = [*tiny.queries([*QUERIES, "zzz"]), long, {"query_id": "bad"}]
    tiny.write_jsonl(config.parent / "queries.jsonl", asking)
    code, values = asked(config, "max_rejected=0", "max_without_hits=0.1", "max_truncated=0.01")
    said = conditions(values)
    assert code == 1  # 7 for the rejected row is less
    assert said["max_rejected"] == (False, "1 rows are rejected, at most 0 may be")
    assert said["max_without_hits"][1].startswith("1 of 5 queries found nothing (20.0%)")
    assert not said["max_without_hits"][0] and not said["max_truncated"][0]
    code, values = asked(config, "max_rejected=1", "max_without_hits=0.2", "max_truncated=1")
    assert (code, values["gates"]["passed"]) == (7, True)


def test_limits_end_the_work_at_a_commit_and_the_next_start_goes_on(
    tmp_path: Path, cross_encoder: Path
) -> None:
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(60))
    tiny.write_jsonl(
        tmp_path / "queries.jsonl",
        tiny.queries(" ".join(pair) for pair in permutations(tiny.WORDS[:4], 2)),
    )
    config = tiny.write_config(tmp_path, cross_encoder, search__chunk_queries=3)
    database = str(tmp_path / "db.lancedb")

    def start(*options: str) -> tuple[int, dict[str, Any], str]:
        result = CliRunner().invoke(app, ["run", str(config), *options, "--json"])
        return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.stderr

    code, values, said = start("--set", "execution.max_pairs=10")
    assert code == 8 and values["status"] == "to be continued" and values["scored"] >= 10
    assert "to be continued: " in said and "Start the same command again" in said
    stored = Database(database).need("pair_scores").count_rows()
    assert stored == values["scored"]
    (row,) = list_rows(Database(database))
    assert (row["run_id"], row["status"]) == (values["run_id"], "to be continued")
    code, values, _ = start("--set", "execution.max_seconds=0.000001")
    assert code == 8 and "max_seconds" in values["reason"]
    code, values, _ = start()
    assert code == 0 and values["run_id"] == row["run_id"]
    assert values["reused"] == stored and values["scored"] == values["pairs"] - stored
    assert [r["status"] for r in list_rows(Database(database))] == ["done"]
