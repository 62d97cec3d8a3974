"""Several query sets in one config: searched and scored once, measured and gated each by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from configs.load import ConfigFault, load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.errors import InputError, MissingResource
from reranking.evaluation.run_measures import evaluate_run
from reranking.order import rescore
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs.listing import find_run
from reranking.runs.settings import settings_digest
from reranking.steps import Here
from reranking.store import Database
from tests.support import judged, tiny
from tests.support.walk import walk_file

MEASURES = ["nDCG@10", "RR@10"]
HEAD, TAIL, REGRESSION = range(20), range(15, 40), range(0, 40, 4)
SETS = {"head": HEAD, "tail": TAIL, "regression": REGRESSION}


def trec(path: str) -> dict[str, str]:
    return {"format": "trec", "path": path}


def jsonl(name: str) -> dict[str, str]:
    return {"format": "jsonl", "path": f"{name}.jsonl"}


def sets(**changes: Any) -> dict[str, Any]:
    """Three sets: head and tail share the config's list, regression has its own and a gate."""
    own = {"judgment_list": "must", "source": trec("must.tsv"), "measures": ["RR@10"]}
    return {
        "head": {"source": jsonl("head"), "gates": [{"metric": "RR@10", "threshold": 0.0}]},
        "tail": {"source": jsonl("tail")},
        "regression": {
            "source": jsonl("regression"),
            "judgments": own,
            "gates": [{"metric": "RR@10", "threshold": 0.0}],
        },
    } | changes


def make_world(folder: Path, model: Path, **changes: Any) -> Path:
    """A judged collection whose queries lie in three files that overlap; the config's path."""
    path = judged.collection(folder, model, search__limit=6, search__query_types=["hybrid"])
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    for name, numbers in SETS.items():
        tiny.write_jsonl(folder / f"{name}.jsonl", [asked[n] for n in numbers])
    grades = [f"q{q:03} 0 d{(q * 7 + d) % 80:03} {d % 3}\n" for q in range(40) for d in range(12)]
    (folder / "judgments.tsv").write_text("".join(grades))
    must = [line for line in grades if int(line[1:4]) in REGRESSION]
    (folder / "must.tsv").write_text("".join(must[::2]))
    values = yaml.safe_load(path.read_text())
    values["queries"] = {"query_set": "all", "sets": sets(**changes)}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def alone(path: Path, name: str, numbers: Any, **changes: Any) -> Path:
    """The config of one of the sets by itself, in a database of its own."""
    values = yaml.safe_load(path.read_text())
    values |= {"database": f"alone-{name}", "queries": {"query_set": name, "source": jsonl(name)}}
    if name == "regression":
        values["judgments"] = sets()["regression"]["judgments"]
    made = path.with_name(f"{name}.yaml")
    made.write_text(yaml.safe_dump(values | changes, sort_keys=False))
    return made


class World:
    """The config, and what one run of it left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = load_config(path, ["results.report=reports"])
        pipeline = Pipeline(self.config, Here(unwatched))
        self.values = rescore(pipeline).as_dict()
        self.database = Database(self.config.database)
        self.run = find_run(self.database, self.values["run_id"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Iterator[World]:
    yield World(make_world(tmp_path_factory.mktemp("sets"), cross_encoder))


def command(*given: str) -> Result:
    return CliRunner().invoke(app, list(given))


def told(*given: str) -> Any:
    done = command(*given, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def by_itself(world: World) -> dict[str, Any]:
    """Each set's run by itself: the oracle."""
    made = {}
    for name, numbers in SETS.items():
        config = load_config(alone(world.path, name, numbers))
        pipeline = Pipeline(config, Here(unwatched))
        made[name] = rescore(pipeline), config
    return made


def test_each_set_measures_and_ranks_as_a_run_of_it_alone(
    world: World, by_itself: dict[str, Any]
) -> None:
    for told_of in world.values["sets"]:
        summary, config = by_itself[told_of["query_set"]]
        assert told_of["measures"] == summary.measures
        assert told_of["judgment_list"] == config.judgments.judgment_list
        assert told_of["queries"] == summary.run.queries.count
        own = world.run.of_set(told_of["query_set"])
        keys = ["query_type", "query_id", "rank"]
        mine, theirs = (frame(r.results()).sort(keys) for r in (own, summary.run))
        assert mine.select(*keys, "doc_id").equals(theirs.select(*keys, "doc_id"))
        gap = mine["_relevance_score"] - theirs["_relevance_score"]
        assert gap.abs().max() < 1e-5  # type: ignore[operator]
    assert [one["query_set"] for one in world.values["sets"]] == list(SETS)


def test_a_query_of_two_sets_is_searched_and_scored_once(
    world: World, by_itself: dict[str, Any]
) -> None:
    union = {n for numbers in SETS.values() for n in numbers}
    assert world.values["queries"] == len(union) == 40
    assert sum(s.counts["scored"] for s, _ in by_itself.values()) > world.values["scored"]
    stored = world.database.read("queries", columns=["query_set", "query_id"])
    counts = dict(frame(stored).group_by("query_set").len().iter_rows())
    assert counts == {"all": 40, **{name: len(numbers) for name, numbers in SETS.items()}}
    again, scored = walk_file(world.path)
    assert again.finished and scored == {} and again.run_id == world.run.run_id


def test_the_whole_is_a_run_of_all_queries_in_one_file(world: World) -> None:
    """Sets say what is measured; nothing that names a run or a search knows of them."""
    values = yaml.safe_load(world.path.read_text())
    values["queries"] = {"query_set": "all", "source": jsonl("queries")}
    single = world.path.with_name("single.yaml")
    single.write_text(yaml.safe_dump(values, sort_keys=False))
    run, counts = walk_file(single)
    assert run.run_id == world.run.run_id and counts == {}


def test_gates_hold_on_their_own_set_and_name_it(
    tmp_path: Path, cross_encoder: Path, world: World
) -> None:
    gates = world.values["gates"]
    assert gates["passed"] and {c["query_set"] for c in gates["conditions"]} == {
        "head",
        "regression",
    }
    changed = "queries.sets.tail.gates=[{metric: RR@10, threshold: 1.0}]"
    assert settings_digest(load_config(world.path, [changed])) == settings_digest(world.config)
    refused = command("evaluate", str(world.path), "--set", changed)
    assert refused.exit_code == 1
    assert "tail: RR@10 is" in refused.output and "head: RR@10" not in refused.stderr
    stopped = command("run", str(world.path), "--set", changed, "--summary", str(tmp_path / "s.md"))
    assert stopped.exit_code == 1, stopped.output
    summary = (tmp_path / "s.md").read_text()
    assert "### tail: 25 queries, judged by j" in summary and "FAILED: tail: RR@10" in summary
    assert "### regression: 10 queries, judged by must" in summary


def test_evaluate_tells_each_set_and_the_whole(world: World, by_itself: dict[str, Any]) -> None:
    values = told("evaluate", str(world.path))
    assert values["queries"] == 40 and values["judgment_list"] == "j"
    for one in values["sets"]:
        summary, config = by_itself[one["query_set"]]
        known = evaluate_run(
            find_run(Database(config.database), summary.run.run_id),
            config.judgments.judgment_list,
            [config.comparison.primary, *config.judgments.measures],
        )
        assert one["judgments"] == known.judgments_fp  # the same grades
        assert one["unjudged_queries"] == 0 and one["unknown"]["queries"] == 0
    shown = command("evaluate", str(world.path)).output
    assert "query set regression on judgment list must: 10 of 10 queries are judged" in shown
    assert "tail" in shown and "first stage" in shown


@pytest.mark.slow
def test_compare_tells_each_set_as_a_comparison_of_it_alone(
    world: World, by_itself: dict[str, Any]
) -> None:
    run = world.run.run_id[:8]
    values = told("compare", f"{run}:first", run, "--config", str(world.path))
    assert list(values["sets"]) == list(SETS)
    for name, (summary, config) in by_itself.items():
        own = summary.run.run_id
        path = str(world.path.with_name(f"{name}.yaml"))
        oracle = told("compare", f"{own}:first", own, "--config", path)["comparisons"][0]
        made = values["sets"][name]["comparisons"][0]
        for key in ("verdict", "reason", "rows", "agreement", "notices"):
            assert made[key] == oracle[key], (name, key)
        assert values["sets"][name]["judgment_list"] == config.judgments.judgment_list
    shown = command("compare", f"{run}:first", run, "--config", str(world.path)).output
    assert "By query set" in shown and "regression: " in shown
    bare = told("compare", f"{run}:first", run, "--database", world.config.database)
    assert [bare["sets"][n]["judgment_list"] for n in SETS] == ["j", "j", "must"]


def test_history_show_export_and_sweep_know_the_sets(world: World, tmp_path: Path) -> None:
    path, run = str(world.path), world.run.run_id[:8]
    rows = told("history", "--config", path, "--measure", "RR@10")
    assert {r["query_set"] for r in rows} == {"all", *SETS}
    shown = command("history", "--config", path).output
    assert "query set" in shown and "regression" in shown
    stored = told("show", run, "--config", path)["measures"]
    means = {
        (r["query_set"], r["query_type"]): r["reranked"] for r in stored if r["measure"] == "RR@10"
    }
    for row in rows:
        assert means[row["query_set"], row["query_type"]] == row["value"]
    out = tmp_path / "head.jsonl"
    told(
        "export",
        run,
        "--format",
        "jsonl",
        "--query-set",
        "head",
        "--out",
        str(out),
        "--config",
        path,
    )
    assert len({json.loads(line)["query_id"] for line in out.read_text().splitlines()}) == len(HEAD)
    unknown = command(
        "export", run, "--format", "csv", "--query-set", "haed", "--out", str(out), "--config", path
    )
    assert unknown.exit_code == 4 and "did you mean 'head'" in unknown.output
    swept = told("sweep", path, "--query-set", "regression", "--primary", "RR@10")
    assert (swept["judgment_list"], swept["queries"]) == ("must", len(REGRESSION))


def test_the_report_has_a_section_of_the_sets(world: World, tmp_path: Path) -> None:
    written = Path(world.values["report"].removeprefix("file://"))
    page = written.read_text()
    assert 'id="sets"' in page and "regression" in page and "Measures of tail" in page
    out = tmp_path / "r.html"
    told("report", world.run.run_id[:8], "--out", str(out), "--database", world.config.database)
    assert 'id="sets"' in out.read_text()


@pytest.mark.slow
def test_a_bakeoff_tells_each_set(world: World) -> None:
    path = str(world.path)
    model = world.config.rerank.model_name  # type: ignore[union-attr]
    values = told("bakeoff", path, "--reranker", "none", "--reranker", model)
    assert list(values["sets"]) == list(SETS)
    assert [r["mean"] for r in values["sets"]["head"]] != [r["mean"] for r in values["rows"]]


def test_prometheus_tells_sets_apart(world: World, tmp_path: Path) -> None:
    file = tmp_path / "rescore.prom"
    walk_file(world.path, f"results.metrics={file}")
    text = file.read_text()
    for name, count in {"all": 40, "head": 20, "regression": 10}.items():
        assert f'rescore_queries{{pipeline="all/documents",query_set="{name}"}} {count}\n' in text
    assert 'query_set="tail",measure="RR@10",query_type="hybrid",stage="reranked"' in text
    assert 'rescore_gates_failed{pipeline="all/documents",query_set="tail"} 0' in text


def test_a_set_is_what_it_holds_today(tmp_path: Path, cross_encoder: Path) -> None:
    """A query that moves to another set makes no other run, and no old membership stays."""
    path = make_world(tmp_path, cross_encoder)
    before, _ = walk_file(path, "search.query_types=[fts]")
    asked = (tmp_path / "head.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "head.jsonl").write_text("".join(asked[1:]))
    with (tmp_path / "tail.jsonl").open("a") as tail:
        tail.write(asked[0])
    after, counts = walk_file(path, "search.query_types=[fts]")
    assert after.run_id == before.run_id and counts == {}
    run = find_run(before.database, before.run_id)
    assert run.of_set("head").query_rows.num_rows == len(HEAD) - 1
    assert run.of_set("tail").query_rows.num_rows == len(TAIL) + 1
    told("erase", str(path), "--query", "q000")
    assert "q000" not in run.database.read("queries")["query_id"].to_pylist()
    command("queries", "drop", "tail", "--config", str(path))
    with pytest.raises(MissingResource, match="queries.sets.tail.source"):
        run.of_set("tail")
    still = told("compare", f"{run.run_id}:first", run.run_id, "--database", run.database.uri)
    assert list(still["sets"]) == ["head", "regression"]


@pytest.mark.slow
def test_sets_without_a_list_for_all(tmp_path: Path, cross_encoder: Path) -> None:
    """Only regression is judged: the whole and the others say so, nothing is chosen for them."""
    path = make_world(tmp_path, cross_encoder, head={"source": jsonl("head")})
    given = ["judgments=null", "search.query_types=[fts]", "results.report=reports"]
    values = rescore(Pipeline(load_config(path, given), Here(unwatched))).as_dict()
    assert values["measures"] == [] and values["gates"]["passed"]
    assert [bool(one["measures"]) for one in values["sets"]] == [False, False, True]
    page = Path(values["report"].removeprefix("file://")).read_text()
    assert "the query sets have one each" in page and "nothing is judged" in page
    run = values["run_id"][:8]
    made = told("compare", f"{run}:first", run, "--database", load_config(path).database)
    assert made["judgment_list"] is None and made["sets"]["head"]["judgment_list"] is None
    assert made["sets"]["regression"]["judgment_list"] == "must"
    rows = told("history", "--database", load_config(path).database, "--measure", "RR@10")
    assert {r["query_set"] for r in rows} == {"regression"}


def test_all_faults_of_the_sets_come_at_once_before_a_model_is_loaded(
    tmp_path: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_world(tmp_path, cross_encoder, extra={})
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", judged.refuse)
    monkeypatch.setattr(Pipeline, "ingest", judged.refuse)
    rows = [json.loads(line) for line in (tmp_path / "tail.jsonl").read_text().splitlines()]
    rows[0]["text"] = "something else"
    rows[1]["vector"] = [0.5] * tiny.WIDTH
    tiny.write_jsonl(tmp_path / "tail.jsonl", rows)
    (tmp_path / "regression.jsonl").write_text('{"query_id": "q1"}\n')
    with pytest.raises(InputError) as caught:
        walk_file(path)
    text = str(caught.value)
    assert "4 at fault" in text
    assert "1 query ids have one text in 'head' and another in 'tail' (such as q015)" in text
    assert "1 query ids have one vector in 'head' and another in 'tail' (such as q016)" in text
    assert "query set 'regression' has no usable queries: 1 rows rejected" in text
    assert "no query set 'extra'" in text


def test_faults_of_the_config_come_at_once(tmp_path: Path, cross_encoder: Path) -> None:
    path = make_world(tmp_path, cross_encoder)
    other = {"judgment_list": "j", "source": trec("must.tsv")}
    with pytest.raises(ConfigFault) as caught:
        load_config(
            path,
            [
                "judgments=null",
                f"queries.sets.tail.judgments={json.dumps(other)}",
                f"queries.sets.regression.judgments={json.dumps(other | {'source': trec('x')})}",
            ],
        )
    assert "the gates of query set 'head' need judgments" in str(caught.value)
    assert "judgment list 'j' is given two sources" in str(caught.value)
    for changed, message in {
        "queries.source={format: jsonl, path: x}": "give source or sets, not both",
        "queries.sets.all={}": "'all' is the name of all queries together",
        "queries.sets.head.source.formt=x": "queries.sets.head.source.formt: unknown key",
    }.items():
        with pytest.raises(ConfigFault, match=message):
            load_config(path, [changed])
