"""The table for consumers: whose it is, when it is replaced, and the way back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lancedb
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from reranking.arrow import frame
from reranking.store import Database
from tests.conftest import REPOSITORY
from tests.support import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A folder with a config that publishes, and its first run."""
    folder = tmp_path_factory.mktemp("publish")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(40))
    for name, asked in {"queries": ["river", "stone bridge"], "others": ["bread"]}.items():
        tiny.write_jsonl(folder / f"{name}.jsonl", tiny.queries(asked))
    config = tiny.write_config(folder, cross_encoder, results={"publish": "shop"})
    assert ask("run", config).exit_code == 0
    return config


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values


def held(config: Path) -> str:
    table = Database(str(config.parent / "db.lancedb")).need("shop")
    return str(table.schema.metadata[b"rescore.run_id"].decode())


def test_a_what_if_leaves_the_table_and_says_so(made: Path) -> None:
    before = held(made)
    result = ask("run", made, "--set", "search.limit=4", "--json")
    values = said(result)
    assert values["run_id"] != before and values["consumers"] is None
    assert held(made) == before and "is left as it is" in result.stderr
    knob = said(ask("run", made, "--set", "rerank.batch_tokens=4096", "--json"))
    assert knob["consumers"]["table"] == "shop"  # a knob of the machine makes no other run
    asked_for = said(ask("run", made, "--set", "search.limit=4", "--publish", "--json"))
    assert held(made) == asked_for["run_id"] == values["run_id"]
    back = said(ask("publish", before[:8], made, "--json"))
    assert held(made) == before == back["run_id"] and back["changed"]
    assert back["rows"] == Database(str(made.parent / "db.lancedb")).need("shop").count_rows()
    assert not said(ask("publish", before[:8], made, "--json"))["changed"]


def test_every_summary_names_what_was_published(made: Path) -> None:
    values = said(ask("run", made, "--json"))["consumers"]
    table = Database(str(made.parent / "db.lancedb")).need("shop")
    assert values["rows"] == table.count_rows() and values["version"] == table.version
    assert values["queries"] == len(set(table.to_arrow()["query_id"].to_pylist())) == 2
    shown = " ".join(ask("run", made).output.replace("│", " ").split())
    assert f"table shop holds run {values['run_id'][:8]} already: {values['rows']} rows" in shown
    assert "rows of 2 queries, version" in shown


def test_an_index_of_query_id_is_there_before_the_command_ends(made: Path) -> None:
    said(ask("run", made, "--json"))
    table = lancedb.connect(made.parent / "db.lancedb").open_table("shop")
    (index,) = table.list_indices()
    assert index.columns == ["query_id"] and index.num_unindexed_rows == 0
    plan = table.search().where("query_id = 'q000'").explain_plan(verbose=True)
    assert "ScalarIndexQuery" in plan


def test_served_is_the_promoted_run(made: Path) -> None:
    promoted = ["--set", "results.serve=promoted"]
    result = ask("run", made, *promoted, "--set", "comparison.against=chosen", "--json")
    assert said(result)["consumers"] is None  # nobody is chosen yet
    assert "no run is promoted" in result.stderr
    chosen = said(ask("run", made, "--json"))["run_id"]
    said(ask("promote", chosen, "--as", "production", "--config", made, "--json"))
    newest = said(ask("run", made, "--set", "search.limit=5", *promoted, "--publish", "--json"))
    assert newest["run_id"] != chosen == newest["consumers"]["run_id"] == held(made)
    answer = ask("promote", newest["run_id"], "--as", "x", "--publish", "--config", made, "--json")
    assert said(answer)["consumers"]["run_id"] == newest["run_id"] == held(made)
    database = made.parent / "db.lancedb"
    refused = ask("promote", chosen, "--as", "x", "--publish", "--database", database)
    assert refused.exit_code == 2 and "--config FILE" in refused.output
    said(ask("publish", chosen, made, "--json"))


def others_of(made: Path) -> list[str]:
    changes = ["queries.query_set=others", "queries.source.path=others.jsonl"]
    return [part for change in changes for part in ("--set", change)]


def test_query_sets_share_a_table_each_replacing_its_own_rows(made: Path) -> None:
    shared = ["--publish", "--json"]
    for change in ("results.publish=both", "results.shared=true"):
        shared += ["--set", change]
    first = said(ask("run", made, *shared))["consumers"]
    second = said(ask("run", made, *others_of(made), *shared))["consumers"]
    table = lancedb.connect(made.parent / "db.lancedb").open_table("both")
    sets = frame(table.to_arrow())["query_set"].value_counts().rows_by_key("query_set")
    assert {k: v[0][0] for k, v in sets.items()} == {"q": first["rows"], "others": second["rows"]}
    others = frame(table.to_arrow()).filter(query_set="others").sort("query_type", "rank")
    version = table.version
    fewer = said(ask("run", made, "--set", "search.limit=3", *shared))["consumers"]
    assert fewer["rows"] < first["rows"]
    now = lancedb.connect(made.parent / "db.lancedb").open_table("both")
    assert (
        frame(now.to_arrow()).filter(query_set="others").sort("query_type", "rank").equals(others)
    )
    assert set(frame(now.to_arrow()).filter(query_set="q")["run_id"]) == {fewer["run_id"]}
    commits = [now.list_versions()[v]["version"] for v in range(version, now.version)]
    now.checkout(commits[0])  # the next version: all the new rows and none of the old
    assert now.count_rows("query_set = 'q'") == fewer["rows"]
    assert not said(ask("run", made, "--set", "search.limit=3", *shared))["consumers"]["changed"]
    wide = ask("run", made, *shared, "--set", "results.columns=[title]")
    assert wide.exit_code == 2 and "have the same" in wide.output
    alone = ask("run", made, "--set", "results.publish=both", "--publish")
    assert alone.exit_code == 2 and "is shared by several" in alone.output


def test_the_lines_of_the_docs_read_it(made: Path) -> None:
    said(ask("run", made, "--json"))
    lines = (REPOSITORY / "docs" / "consumers.md").read_text("utf-8").split("```python\n")[1]
    database, names = made.parent / "db.lancedb", dict[str, Any]()
    code = lines.split("```")[0].replace("DATABASE", repr(str(database))).replace("ranked", "shop")
    exec(code, names)  # noqa: S102
    assert sorted(hit["rank"] for hit in names["hits"]) == list(range(1, 11))


def test_it_may_stand_in_another_database(made: Path) -> None:
    place = '{"table": "shop", "database": "app.lancedb"}'
    values = said(ask("run", made, "--set", f"results.publish={place}", "--json"))
    assert values["consumers"]["database"] == str(made.parent / "app.lancedb")
    app_side, own = (
        lancedb.connect(made.parent / name).open_table("shop")
        for name in ("app.lancedb", "db.lancedb")
    )
    assert frame(app_side.to_arrow()).equals(frame(own.to_arrow()))
    assert app_side.list_versions()[0]["version"] == 1 and app_side.version == 2  # and its index
    assert lancedb.connect(made.parent / "app.lancedb").list_tables().tables == ["shop"]


def test_a_process_that_dies_before_publishing_is_made_good(made: Path) -> None:
    place = made.parent / "later.lancedb"
    code = (
        "import os, signal, sys\n"
        "import reranking.runs.consumers as consumers\n"
        "def dies(*given): os.kill(os.getpid(), signal.SIGKILL)\n"
        "consumers.publish_for_consumers = dies\n"
        "from flows.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    change = f'results.publish={{"table": "shop", "database": "{place}"}}'
    given = ["run", str(made), "--set", change, "--set", "search.limit=7", "--publish"]
    died = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not place.exists() or lancedb.connect(place).list_tables().tables == []
    again = said(ask(*given, "--json"))
    assert not again["computed"] and again["consumers"]["changed"]
    assert lancedb.connect(place).open_table("shop").count_rows() == again["consumers"]["rows"]


def test_another_query_set_does_not_erase_it(made: Path) -> None:
    before = held(made)
    result = ask("run", made, *others_of(made), "--publish")
    assert result.exit_code == 2 and "would erase" in result.output
    assert held(made) == before
