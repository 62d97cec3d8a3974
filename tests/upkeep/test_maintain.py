"""Maintenance: what it drops, what it must not, and that runs beside it come out the same."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from configs.load import load_config
from configs.schema import Keep
from flows.cli import app
from reranking import store
from reranking.errors import MissingResource
from reranking.maintenance import configured_of, maintain_database
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs.pairs import TABLE
from reranking.runs.plan import tag_of
from reranking.runs.run import Run, results_name
from reranking.schemas import CANDIDATES, RUNS, VERSION_KEY
from reranking.steps import Here
from reranking.store import Database
from reranking.upkeep import versions
from reranking.upkeep.maintain import Maintained, maintain
from reranking.upkeep.versions import our_tables, outdated, prune, upgrade
from tests.support import tiny
from tests.support.equal import assert_equal
from tests.support.stored_scores import look_after, stored_rows
from tests.support.walk import walk, walk_file

SOON = timedelta(milliseconds=1)
LONG_AGO = time.time() - 2 * 24 * 3600


def contents(database: Database) -> dict[str, Any]:
    """Every table's version and rows."""
    tables = {name: database.need(name) for name in database.names()}
    return {n: (t.version, t.count_rows(), database.tags(n)) for n, t in tables.items()}


class Followed(Here):
    """Carries out steps, each followed by something else."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__(unwatched)
        self.then = then

    def call(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        result = work(*args, **kwargs)
        self.then()
        return result

    def submit(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        done: Future[Any] = Future()
        done.set_result(self.call(work, *args, **kwargs))
        return done


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["new", "forced"])
def test_a_run_with_maintenance_between_its_steps_is_the_same(
    config: Path, tmp_path: Path, force: bool
) -> None:
    """The strictest settings: one run is kept, unused scores go, versions of a second ago too."""
    other = tmp_path / "other" / "config.yaml"
    shutil.copytree(config.parent, other.parent)
    overrides = [] if force else ["search.limit=7"]
    walk_file(other, *overrides, force=force)
    settings = load_config(config, [*overrides, "keep.runs=1", "keep.days=0", "keep.scores=used"])
    configured = configured_of(Pipeline(settings))
    reports: list[Maintained] = []

    def maintained() -> None:
        database = Database(settings.database, upgrading=True)
        reports.append(maintain(database, settings.keep, configured, versions=SOON))

    walk(settings, force=force, executor=Followed(maintained))
    assert len(reports) == 10 + 2 * 3  # before, between and after all steps
    assert sum(r.versions for r in reports) > 0
    assert_equal(settings.database, load_config(other).database)


@pytest.mark.slow
def test_a_run_beside_endless_maintenance_is_the_same(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "config.yaml"
    shutil.copytree(config.parent, other.parent)
    walk_file(other, "search.limit=7")
    database = Database(str(config.parent / "db.lancedb"))
    stop = threading.Event()
    rounds: list[Maintained] = []
    failures: list[Exception] = []

    def loop() -> None:
        try:
            while not stop.is_set():
                rounds.append(look_after(database, versions=timedelta(minutes=1)))
        except Exception as error:
            failures.append(error)

    keeper = threading.Thread(target=loop)
    keeper.start()
    try:
        walk_file(config, "search.limit=7")
    finally:
        stop.set()
        keeper.join()
    assert not failures
    assert rounds
    assert_equal(database.uri, load_config(other).database)


def test_a_run_over_unchanged_inputs_is_found_again_after_maintenance(
    config: Path, database: Database
) -> None:
    """Compaction makes new table versions and remaps the vector index; inputs stay the same."""
    tiny.write_jsonl(config.parent / "documents.jsonl", tiny.documents(40)[::2])
    run, counts = walk_file(config, "documents.delete_missing=true")
    assert counts
    before = indexes(database)
    look_after(database, versions=SOON)
    assert not indexes(database) & before
    again, counts = walk_file(config, "documents.delete_missing=true")
    assert (again.run_id, counts) == (run.run_id, {})


def indexes(database: Database) -> set[str]:
    return {index.index_uuid for index in database.need("documents").list_indices()}


# What is dropped, and what is not


def test_a_dry_run_changes_nothing_and_says_what_would_happen(
    run: Run, config: Path, database: Database
) -> None:
    walk_file(config, "rerank.top_k=3")
    database.append(TABLE, database.read(TABLE))
    lose_a_mark(database, run)
    before = contents(database)
    settings: dict[str, Any] = {"keep": Keep(runs=1, days=0, scores="used"), "versions": SOON}
    planned = look_after(database, dry_run=True, **settings)
    assert contents(database) == before
    done = look_after(database, **settings)
    assert planned.duplicates == len(database.read(TABLE)) > 0
    ignored = {"dry_run", "seconds", "versions", "bytes_after"}
    one, other = planned.as_dict(), done.as_dict()
    assert {k: one[k] for k in one if k not in ignored} == {
        k: other[k] for k in other if k not in ignored
    }


def lose_a_mark(database: Database, run: Run) -> None:
    """Candidates as a killed search leaves them: of an attempt that was never marked."""
    rows = database.read("candidates").slice(0, 5)
    at = rows.schema.get_field_index("attempt")
    lost = pa.array(["killed"] * len(rows))
    database.append("candidates", rows.set_column(at, CANDIDATES.field("attempt"), lost))


def test_candidates_of_killed_and_forgotten_work_go(run: Run, database: Database) -> None:
    whole = database.read("candidates")
    lose_a_mark(database, run)
    at = whole.schema.get_field_index("search_id")
    nobodys = pa.array(["nobody's"] * len(whole))
    database.append("candidates", whole.set_column(at, CANDIDATES.field("search_id"), nobodys))
    assert look_after(database).candidates == 5 + len(whole)
    assert database.read("candidates").sort_by("doc_id").equals(whole.sort_by("doc_id"))
    assert look_after(database).candidates == 0


def test_an_attempt_of_an_unfinished_run_is_left_alone(run: Run, database: Database) -> None:
    lose_a_mark(database, run)
    database.drop(results_name(run.run_id))
    assert look_after(database).candidates == 0
    assert "killed" in database.read("candidates")["attempt"].to_pylist()


def test_unused_scores_are_those_that_nobody_asks_for(
    run: Run, config: Path, database: Database
) -> None:
    """Every text is edited: the old ones are wanted while a kept run has them as candidates."""
    old = len(database.read(TABLE))
    edited = [{**d, "text": f"{d['text']} anchor"} for d in tiny.documents(40)]
    tiny.write_jsonl(config.parent / "documents.jsonl", edited)
    walk_file(config)
    new = len(database.read(TABLE)) - old
    assert old > 0 and new > 0
    kept = [f"keep.runs={n}" for n in (2, 1)]
    two, one = (load_config(config, [k, "keep.days=0", "keep.scores=used"]) for k in kept)
    everything = load_config(config, [kept[0], "keep.days=0"])
    for still in (everything, two):
        assert maintain(database, still.keep, configured_of(Pipeline(still))).unused == 0
    report = maintain(database, one.keep, configured_of(Pipeline(one)))
    assert (report.forgotten, report.unused) == ([run.run_id], old)
    assert len(database.read(TABLE)) == new


def test_without_keep_nothing_is_forgotten(config: Path, database: Database) -> None:
    walk_file(config, "rerank.top_k=3")
    assert maintain_database(Pipeline(load_config(config)))["forgotten"] == []
    assert len(database.read("runs")) == 2


def test_tags_of_a_run_that_was_killed_as_it_began_go(run: Run, database: Database) -> None:
    database.tag("documents", tag_of("f" * 32), 2)
    database.tag("queries", "mine", 1)
    assert look_after(database).tags == 1
    assert set(database.tags("documents")) == {"ready", tag_of(run.run_id)}
    assert set(database.tags("queries")) == {"mine", tag_of(run.run_id)}


def aged(path: Path) -> None:
    os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)


def test_files_of_killed_writers_go_in_our_tables_alone(database: Database, tmp_path: Path) -> None:
    database._connection.create_table("theirs", pa.table({"a": [1]}))
    root = Path(database.uri)
    killed = root / "candidates.lance" / "data" / ".tmpKilled"
    writing = root / "candidates.lance" / "data" / ".tmpWriting"
    theirs = root / "theirs.lance" / "data" / ".tmpTheirs"
    precious = tmp_path / "precious"
    link = root / "candidates.lance" / "data" / ".tmpLink"
    for path in (killed, writing, theirs, precious):
        path.write_bytes(b"1234")
    link.symlink_to(precious)
    for path in (killed, theirs, precious, link):
        aged(path)
    report = look_after(database)
    assert (report.files, report.bytes) == (1, 4)
    assert not killed.exists()
    assert writing.exists() and theirs.exists() and link.is_symlink() and precious.exists()


def test_half_created_tables_go_when_nobody_works_on_them(
    run: Run, database: Database, tmp_path: Path
) -> None:
    root = Path(database.uri)
    for name in ("results_dead", "results_begun", "labels", "theirs"):
        (root / f"{name}.lance" / "data").mkdir(parents=True)
        (root / f"{name}.lance" / "data" / "0.lance").write_bytes(b"half")
    for name in ("results_dead", "labels", "theirs", run.results_table):
        for path in [*(root / f"{name}.lance").rglob("*"), root / f"{name}.lance"]:
            aged(path)
    assert look_after(database).folders == ["labels", "results_dead"]
    left = {path.stem for path in root.iterdir()}
    assert {"theirs", "results_begun", run.results_table} <= left
    assert not {"labels", "results_dead"} & left


# Versions


def many_versions(database: Database, name: str, count: int) -> list[int]:
    made = []
    for _ in range(count):
        database.append(name, stored_rows(len(made), 10))
        made.append(int(database.need(name).version))
    return made


def test_old_versions_go_up_to_the_oldest_tag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_MARGINS", (0.1,))
    database = Database(str(tmp_path))
    first = many_versions(database, TABLE, 3)
    time.sleep(0.3)
    tagged, *later = many_versions(database, TABLE, 3)
    database.tag(TABLE, "pinned", tagged)
    assert prune(database, TABLE, timedelta(days=1)) == 0
    # Where compacting takes longer than the margin, nothing goes: a busy machine needs some more.
    pruned = next(filter(None, (prune(database, TABLE, SOON) for _ in range(100))), 0)
    assert pruned == len(first) + 1  # the empty one as well
    left = [v["version"] for v in database.need(TABLE).list_versions()]
    assert left[:3] == [tagged, *later]  # and what compaction made
    assert database.need(TABLE, tagged).count_rows() == 40
    database.untag(TABLE, "pinned")
    assert prune(database, TABLE, SOON) == len(left) - 1
    assert database.need(TABLE).count_rows() == 60


def test_a_pinned_run_reads_its_inputs_after_pruning(run: Run, database: Database) -> None:
    for day in range(3):
        documents = database.need("documents")
        documents.update(where="doc_id = 'd001'", values={"title": f"of day {day}"})
    look_after(database, versions=SOON)
    pinned = database.need("documents", run.corpus.version)
    assert pinned.count_rows("title like 'of day%'") == 0
    assert pinned.search("river", query_type="fts").limit(5).to_arrow().num_rows > 0


def test_tables_of_others_are_not_touched(database: Database) -> None:
    theirs = database._connection.create_table("theirs", pa.table({"doc_id": ["a"]}))
    for _ in range(3):
        theirs.add(pa.table({"doc_id": ["b"]}))
    assert "theirs" not in our_tables(database)
    assert {"documents", "runs", "pair_scores"} <= set(our_tables(database))
    look_after(database, versions=SOON)
    assert len(database.need("theirs").list_versions()) == 4


# Upgrades


@pytest.fixture
def newer_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rescore whose schema version is one above that of the stored tables."""
    version = store.SCHEMA_VERSION + 1
    for module in (store, versions):
        monkeypatch.setattr(module, "SCHEMA_VERSION", version)


def add_owner(name: str, table: Any) -> None:
    """The step of that rescore: runs get a column."""
    if name == "runs" and "owner" not in table.schema.names:
        table.add_columns(pa.field("owner", pa.string()))


def test_there_is_a_step_to_every_version() -> None:
    assert len(versions.STEPS) == store.SCHEMA_VERSION - 1


@pytest.mark.usefixtures("newer_code")
def test_an_older_database_is_refused_until_maintain_upgraded_it(
    run: Run, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingResource, match="has schema version 1.*Run `rescore maintain"):
        database.need("runs")
    monkeypatch.setattr(versions, "STEPS", (*versions.STEPS, add_owner))
    assert "runs" in look_after(database, dry_run=True).upgraded
    with pytest.raises(MissingResource):
        database.need("runs")
    report = look_after(database)
    assert set(report.upgraded) == set(database.names())
    assert look_after(database).upgraded == []
    runs = database.need("runs")
    assert "owner" in runs.schema.names
    keys = {n: (f.metadata or {}) for n, f in zip(RUNS.names, runs.schema, strict=False)}
    assert keys["run_id"] == {**RUNS.field("run_id").metadata, VERSION_KEY: b"2"}
    assert database.need("documents", run.corpus.version).count_rows() == 40


@pytest.mark.usefixtures("newer_code")
def test_a_killed_upgrade_goes_on(database: Database) -> None:
    opened = Database(database.uri, upgrading=True)
    done: list[str] = []

    def killed(name: str, table: Any) -> None:
        add_owner(name, table)
        if name == "runs":
            raise KeyboardInterrupt
        done.append(name)

    with pytest.raises(KeyboardInterrupt):
        upgrade(opened, [killed])
    assert "runs" in outdated(opened) and done
    assert not set(done) & set(outdated(opened))
    upgrade(opened, [add_owner])
    assert outdated(opened) == []
    assert "owner" in database.need("runs").schema.names


def test_a_newer_database_is_refused(database: Database) -> None:
    mark = {"path": "run_id", "metadata": {VERSION_KEY.decode(): "99"}}
    database.need("runs").update_field_metadata(mark)
    with pytest.raises(MissingResource, match="schema version 99.*Install a newer rescore"):
        look_after(database)


# The command


def test_the_command_says_what_it_does(run: Run, config: Path, database: Database) -> None:
    walk_file(config, "search.limit=7")
    row = {"run_id": run.run_id, "started_at": datetime(2020, 1, 1, tzinfo=UTC)}
    database.need("runs").update(where=f"run_id = '{run.run_id}'", values=row)
    walk_file(config, "search.limit=7", "rerank.top_k=2")
    database.append(TABLE, database.read(TABLE).slice(0, 10))
    dry = CliRunner().invoke(app, ["maintain", str(config), "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    said = json.loads(dry.stdout.splitlines()[-1])
    assert (said["dry_run"], said["duplicates"], said["forgotten"]) == (True, 10, [])
    done = CliRunner().invoke(app, ["maintain", str(config), "--set", "keep.runs=1"])
    assert done.exit_code == 0, done.output
    assert "of which duplicates" in done.stdout
    missing = CliRunner().invoke(app, ["maintain", str(config), "--set", "database=nowhere"])
    assert missing.exit_code == 4
    assert not (config.parent / "nowhere").exists()
