"""Names of runs, and which runs may be forgotten."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from configs.schema import Keep
from flows.cli import app
from reranking.errors import ConfigError, MissingResource
from reranking.runs.promotion import promote, promoted_names, promoted_run
from reranking.runs.run import Run, results_name
from reranking.schemas import LABEL_SETS
from reranking.store import Database, equals
from reranking.upkeep.retention import forget_run, runs_to_drop
from tests.support import tiny
from tests.support.walk import database_of, walk_file

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, Run, Run]:
    """A folder with two runs of one search: they differ in what is published."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(20))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river stone", "winter lamp"]))
    (folder / "judgments.tsv").write_text("q000 0 d001 2\nq001 0 d003 1\n")
    judgments = {
        "judgment_list": "j",
        "source": {"format": "trec", "path": "judgments.tsv"},
        "measures": ["nDCG@10"],
    }
    config = tiny.write_config(folder, cross_encoder, judgments=judgments)
    return folder, walk_file(config)[0], walk_file(config, "rerank.top_k=3")[0]


@pytest.fixture
def config(tmp_path: Path, made: tuple[Path, Run, Run]) -> Path:
    """The config of a copy of that folder."""
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy" / "config.yaml"


@pytest.fixture
def two(config: Path, made: tuple[Path, Run, Run]) -> tuple[Run, Run]:
    """The two runs, in the copy."""
    uri = str(config.parent / "db.lancedb")
    return replace(made[1], database=Database(uri)), replace(made[2], database=Database(uri))


def tables_of(database: Database, run: Run) -> dict[str, int]:
    """How many rows each table has of the run."""
    found = {"results": len(database.read(results_name(run.run_id)))}
    for name in ("runs", "metrics"):
        found[name] = len(database.read(name, equals("run_id", run.run_id)))
    for name in ("searches", "candidates"):
        found[name] = len(database.read(name, equals("search_id", run.search_id)))
    for name in ("documents", "queries"):
        found[f"tags of {name}"] = f"run-{run.run_id}" in database.tags(name)
    return found


def test_a_name_moves_from_run_to_run(two: tuple[Run, Run]) -> None:
    first, second = two
    database = database_of(first)
    assert promoted_run(database, "production") is None
    assert promote(database, first.run_id[:6], "production").run.run_id == first.run_id
    promote(database, first.run_id, "last-year")
    assert promoted_run(database, "production") == first.run_id
    promote(database, second.run_id, "production")
    assert promoted_names(database) == {
        second.run_id: ["production"],
        first.run_id: ["last-year"],
    }


@pytest.mark.parametrize("name", ["first", "", "a b", "a:first", "../x", "n" * 129, "a\n"])
def test_a_name_is_a_name(two: tuple[Run, Run], name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be promoted as"):
        promote(database_of(two[0]), two[0].run_id, name)


def test_only_a_finished_run_is_promoted(two: tuple[Run, Run]) -> None:
    run = two[0]
    database = database_of(run)
    database.drop(results_name(run.run_id))
    with pytest.raises(ConfigError, match="is running, only a finished run"):
        promote(database, run.run_id, "production")
    with pytest.raises(MissingResource, match="no run 'ffff'"):
        promote(database, "ffff", "production")


def test_the_commands_promote_list_and_forget(config: Path, two: tuple[Run, Run]) -> None:
    first, second = two
    done = ask("promote", first.run_id[:8], "--as", "production", "--config", config)
    assert (done.exit_code, done.stdout) == (0, f"run {first.run_id[:8]} is now production\n")
    listed = json.loads(ask("runs", "--config", config, "--json").stdout)
    assert {r["run_id"]: r["promoted_as"] for r in listed} == {
        first.run_id: ["production"],
        second.run_id: [],
    }
    assert "production" in ask("runs", "--config", config).stdout
    assert "production" in ask("show", first.run_id, "--config", config).stdout
    refused = ask("forget", first.run_id, "--config", config)
    assert refused.exit_code == 2
    assert "promoted as production; promote another run first" in refused.stderr
    assert ask("forget", "ffff", "--config", config).exit_code == 4
    forgotten = ask("forget", second.run_id[:8], "--config", config, "--json")
    assert json.loads(forgotten.stdout) == {"forgotten": second.run_id}
    assert ask("forget", second.run_id, "--config", config).exit_code == 4


def test_what_runs_share_goes_with_the_last_of_them(two: tuple[Run, Run]) -> None:
    first, second = two
    database = database_of(first)
    before = tables_of(database, second)
    assert all(before.values())
    forget_run(database, first.run_id)
    gone = tables_of(database, first)
    assert (gone["searches"], gone["candidates"]) == (before["searches"], before["candidates"])
    assert not any(v for k, v in gone.items() if k not in ("searches", "candidates"))
    assert tables_of(database, second) == before
    scores = len(database.read("pair_scores"))
    forget_run(database, second.run_id)
    assert not any(tables_of(database, second).values())
    assert len(database.read("pair_scores")) == scores > 0


def test_a_run_under_a_label_set_stays(two: tuple[Run, Run]) -> None:
    database = database_of(two[0])
    row = {"label_set": "l", "runs": [two[0].run_id], "rule": "{}", "created_at": NOW}
    database.merge("label_sets", pa.Table.from_pylist([row], LABEL_SETS), LABEL_SETS)
    with pytest.raises(ConfigError, match="label set l rests on it"):
        forget_run(database, two[0].run_id)
    assert all(tables_of(database, two[0]).values())


@pytest.mark.parametrize("writes", range(7))
def test_forgetting_can_be_killed_and_repeated(
    two: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Killed before its n-th write; the run is still listed, and forgetting it again finishes."""
    run = two[0]
    database = database_of(run)
    forget_run(database, two[1].run_id)
    left = writes

    def limited(name: str) -> Any:
        real = getattr(Database, name)

        def write(self: Database, *arguments: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return real(self, *arguments)

        return write

    with monkeypatch.context() as patched:
        for name in ("drop", "delete", "untag"):
            patched.setattr(Database, name, limited(name))
        with pytest.raises(KeyboardInterrupt):
            forget_run(database, run.run_id)
    assert forget_run(database, run.run_id) == run.run_id
    assert not any(tables_of(database, run).values())


def test_a_forgotten_run_can_be_made_again_from_stored_scores(
    config: Path, two: tuple[Run, Run]
) -> None:
    before = database_of(two[0]).read(two[0].results_table)
    forget_run(database_of(two[0]), two[0].run_id)
    again, counts = walk_file(config)
    assert again.run_id == two[0].run_id
    assert counts["scored"] == 0 and counts["reused"] == counts["pairs"] > 0
    assert database_of(again).read(again.results_table).equals(before)


def test_a_killed_drop_of_the_results_is_repeated(two: tuple[Run, Run]) -> None:
    run = two[0]
    folder = Path(run.database.uri) / f"{results_name(run.run_id)}.lance"
    for path in (folder / "_versions").iterdir():
        path.unlink()
    forget_run(database_of(run), run.run_id)
    assert not folder.exists()


def test_a_results_table_of_somebody_else_is_not_dropped(two: tuple[Run, Run]) -> None:
    run = two[0]
    database = database_of(run)
    name = results_name(run.run_id)
    database.drop(name)
    database.publish(
        name, schema := pa.schema([("a", pa.int64())]), lambda: iter(()), replace=False
    )
    with pytest.raises(MissingResource, match="made by somebody else"):
        forget_run(database, run.run_id)
    assert database.need(name).schema == schema


def row(name: str, days: float, settings: str = "p") -> dict[str, Any]:
    return {"run_id": name, "settings": settings, "started_at": NOW - timedelta(days=days)}


def dropped(rows: list[dict[str, Any]], keep: Keep, **options: Any) -> list[str]:
    return [str(r["run_id"]) for r in runs_to_drop(rows, keep, NOW, **options)]


NIGHTS = [row(f"r{days}", days) for days in range(10)]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (Keep(runs=3, days=5), ["r9", "r8", "r7", "r6", "r5"]),
        (Keep(runs=7, days=5), ["r9", "r8", "r7"]),
        (Keep(runs=1, days=0), [f"r{d}" for d in range(9, 0, -1)]),
        (Keep(runs=10, days=0), []),
        (Keep(runs=1, days=30), []),
    ],
)
def test_a_run_stays_while_it_is_new_or_young(keep: Keep, expected: list[str]) -> None:
    assert dropped(NIGHTS, keep) == expected


def test_settings_are_counted_apart() -> None:
    rows = [row("a", 50), row("b", 60), row("c", 400, "other"), row("d", 500, "other")]
    assert dropped(rows, Keep(runs=1, days=7)) == ["d", "b"]


def test_held_runs_stay_and_count() -> None:
    assert dropped(NIGHTS, Keep(runs=3, days=0), held=["r0", "r9"]) == [
        f"r{d}" for d in range(8, 2, -1)
    ]


def test_unfinished_runs_may_be_at_work() -> None:
    waiting = {"unfinished": ["a", "b", "c"]}
    rows = [row("a", 40), row("b", 50), row("d", 60), row("e", 70), row("c", 0.5, "other")]
    rows.append(row("f", 0.1, "other"))
    # a is its pipeline's newest and c of today; b was overtaken; d is the newest finished one.
    assert dropped(rows, Keep(runs=1, days=0), **waiting) == ["e", "b"]
