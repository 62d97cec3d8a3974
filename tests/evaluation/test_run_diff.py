"""What changed between two runs, counted again by hand from their published results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.evaluation.run_diff import diff_runs
from reranking.runs.listing import find_run
from reranking.runs.run import Run
from tests.support import judged
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, Run, Run]:
    """One collection, with a run of 12 and one of 6 candidates a leg."""
    config = judged.collection(tmp_path_factory.mktemp("diff"), cross_encoder)
    made = [walk_file(config)[0], walk_file(config, "search.limit=6", ingest=False)[0]]
    before, after = (find_run(run.database, run.run_id) for run in made)
    return config, before, after


def top(run: Run, query_id: str, k: int) -> list[str]:
    rows = [r for r in run.results().to_pylist() if r["query_type"] == "hybrid"]
    of_query = [r for r in rows if r["query_id"] == query_id and r["rank"] <= k]
    return [r["doc_id"] for r in sorted(of_query, key=lambda r: r["rank"])]


def test_documents_that_came_and_went_are_those_of_the_two_rankings(
    runs: tuple[Path, Run, Run],
) -> None:
    _, before, after = runs
    made = diff_runs(before, after, k=5)
    told = {q.query_id: q for q in made.changed}
    assert told and made.inputs == {"limit": (12, 6)}
    for query_id in before.query_rows["query_id"].to_pylist():
        old, new = top(before, query_id, 5), top(after, query_id, 5)
        assert (query_id in told) == (old != new)
        if query_id in told:
            assert told[query_id].came == tuple(d for d in new if d not in old)
            assert set(told[query_id].went) == set(old) - set(new)
            both = set(old) & set(new)
            moved = sum(old.index(d) != new.index(d) for d in both)
            assert told[query_id].reordered == moved
    assert not any(q.score_moves for q in made.queries)  # the same pairs, scored once


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Run, Run]) -> None:
    made = runs[1].diff(runs[1])
    assert made.queries == () and made.inputs == {}
    assert "the top 10 of 0 of 40 queries changed" in str(made)


def test_the_command_prints_a_table_and_json(runs: tuple[Path, Run, Run]) -> None:
    config, before, after = runs
    given = ["diff", before.run_id[:8], after.run_id[:8], "--config", str(config)]
    shown = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "limit: 12 there, 6 now" in shown.output
    told = CliRunner().invoke(app, [*given, "--json"])
    values = json.loads(told.stdout.splitlines()[-1])
    assert values["before"] == before.run_id and values["asked"] == 40
    assert {"query_id", "came", "went", "reordered", "changed"} <= set(values["queries"][0])
