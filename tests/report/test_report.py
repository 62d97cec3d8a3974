"""The report: what it says, that it says it safely, and that it stands alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from configs.load import load_config
from flows.cli import app
from reranking.errors import ConfigError
from reranking.evaluation.run_comparison import Comparisons
from reranking.evaluation.run_measures import evaluate_run, means
from reranking.evaluation.sides import FIRST, find_side
from reranking.labelling.calibration import Uncalibrated
from reranking.pipeline import Pipeline
from reranking.report import words
from reranking.report.collect import collect
from reranking.report.content import Report
from reranking.report.page import TEMPLATES, changes, columns, render
from reranking.report.summary import markdown
from tests.support.reported import ATTACKS, Reported, reported
from tests.support.walk import walk_file

COMMANDS = CliRunner()
VOID = {"meta", "link", "input", "br", "img", "hr", "base"}


def ask(*arguments: object) -> Result:
    return COMMANDS.invoke(app, [str(a) for a in arguments])


class Reader(html.parser.HTMLParser):
    """Reads a page strictly: every tag is closed in order, no attribute stands twice."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.tags if name in a]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Iterator[Reported]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield reported(tmp_path_factory.mktemp("report"), cross_encoder, monkeypatch)


def collected(made: Reported, base: str | None = None, **changes: Any) -> Report:
    database = made.database
    other = find_side(database, base or f"{made.run.run_id}:{FIRST}")
    comparisons = Comparisons(database, made.run.run_id, None, changes.get("judgments"))
    comparisons.measures = ("RR@10",)
    return collect(comparisons, other)


@pytest.fixture(scope="module")
def report(made: Reported) -> Report:
    return collected(made)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def without_judgments(report: Report) -> Report:
    """The same report as if nobody had judged anything."""
    moved = tuple(dataclasses.replace(q, base=None, candidate=None) for q in report.moved)
    nothing: dict[str, Any] = {"comparison": None, "judgment_list": None, "history": None}
    return dataclasses.replace(report, moved=moved, per_query=(), slices=(), **nothing)


def test_the_page_is_well_formed(report: Report, page: str) -> None:
    found = Reader(page)
    assert found.tags[0] == ("html", {"lang": "en"})
    ids = found.attributes("id")
    assert len(ids) == len(set(ids))
    links = [a[1:] for a in found.attributes("href") if a.startswith("#")]
    assert links and set(links) <= set(ids)
    Reader(render(without_judgments(report)))


def test_hostile_text_stays_text(page: str) -> None:
    found = Reader(page)
    shown = "".join(found.text)
    assert ATTACKS[0] in shown and ATTACKS[2] in shown and "{{ 7*7 }}" in shown
    assert not {"img", "iframe", "base", "i", "b", "u", "s"} & {tag for tag, _ in found.tags}
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    assert not re.search("[\x00\u202e]", page)


def test_the_page_asks_for_nothing(page: str) -> None:
    found = Reader(page)
    assert not found.attributes("src") and not found.attributes("style")
    assert all(a.startswith(("#", "data:,")) for a in found.attributes("href"))
    style, script = ((TEMPLATES / n).read_text("utf-8") for n in ("report.css", "report.js"))
    assert not re.search(r"url\(|@import|https?:", style)
    assert not re.search(r"fetch|XMLHttp|import|innerHTML|eval|https?:", script)


def test_the_policy_names_the_only_style_and_script(page: str) -> None:
    policy = next(a["content"] or "" for _, a in Reader(page).tags if "Content-Security" in str(a))
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    for tag in ("style", "script"):
        text = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_picture_has_words_and_every_table_a_caption(page: str) -> None:
    found = Reader(page)
    for tag, attributes in found.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    tags = [tag for tag, _ in found.tags]
    assert tags.count("table") == tags.count("caption") >= 5
    assert all(a.get("scope") for tag, a in found.tags if tag == "th")


def test_the_headline_and_figures_are_the_comparisons(report: Report, page: str) -> None:
    assert report.comparison is not None and report.contrast is not None
    assert report.comparison.verdict == "regressed"  # the first stage was judged relevant
    assert words.headline(report) == "Reranking makes hybrid search worse"
    paired = report.comparison.primary.paired
    shown = " ".join("".join(Reader(page).text).split())
    assert f"nDCG@10 falls from {paired.base:.3f} to {paired.candidate:.3f}" in shown
    assert report.comparison.reason in shown
    assert len(report.per_query) == paired.queries == 40
    assert sum(v for _, v in report.per_query) / 40 == pytest.approx(paired.difference)


def test_moved_queries_carry_both_rankings(made: Reported, report: Report) -> None:
    query = report.moved[0]
    left, right = columns(query, report.shown_ranks)
    assert [d.base_rank for d in left if d] == list(range(1, 11))
    assert [d.candidate_rank for d in right if d] == list(range(1, 11))
    results = made.database.read(made.run.results_table).to_pylist()
    mine = [r for r in results if r["query_id"] == query.query_id and r["query_type"] == "hybrid"]
    wanted = [r["doc_id"] for r in sorted(mine, key=lambda r: r["rank"])[:10]]
    assert [d.doc_id for d in right if d] == wanted
    entered = sum(d.base_rank is None or d.base_rank > 10 for d in right if d)
    assert changes(query, 10).startswith(f"{entered} in, {entered} out")
    assert all(d.text for d in query.documents)


def test_history_and_cost_are_the_tables(made: Reported, report: Report) -> None:
    assert report.history is not None
    first, second = report.history.points  # another model is another night, with a mark
    assert not first.changed and second.changed
    point = next(p for p in report.history.points if p.run_id == made.run.run_id)
    done = evaluate_run(made.run, "j", ["nDCG@10"])
    mean = next(m for m in means(done.metrics).to_pylist() if m["query_type"] == "hybrid")
    assert (point.first, point.reranked) == (mean["first"], mean["reranked"])
    counts = report.run.counts
    assert counts["pairs"] == counts["scored"] + counts["reused"] > 0


def test_distributions_count_every_candidate_once(report: Report) -> None:
    pairs = report.run.counts["pairs"]
    by_type = {d.query_type: d for d in report.distributions}
    assert sum(g.total for g in by_type["hybrid"].groups) == pairs
    relevant = by_type["hybrid"].groups[0]
    assert (relevant.name, relevant.total) == ("judged relevant", 40 * 3)


def test_without_judgments_it_says_so_and_shows_agreement(made: Reported, report: Report) -> None:
    database = made.database
    stored = database.open("judgments").to_arrow()
    database.drop("judgments")
    try:
        found = collected(made)
    finally:
        database.merge("judgments", stored, stored.schema)
    assert found.comparison is None and found.judgment_list is None and found.history is None
    shown = " ".join("".join(Reader(render(found)).text).split())
    assert "There are no judgments for these queries" in shown
    assert words.headline(found) == "How much reranking changes the results"
    assert [a for a in found.agreements] == [a for a in report.agreements]
    assert [q.rbo for q in found.moved] == sorted(q.rbo for q in found.moved)
    assert len(found.moved) == found.moved_in_all <= 40
    assert [d.groups[0].name for d in found.distributions] == ["all pairs"] * 3


def test_two_runs_show_where_they_differ(made: Reported) -> None:
    found = collected(made, made.other.run_id)
    assert found.against is not None and found.contrast is not None
    assert found.contrast.base == f"run {made.other.run_id[:8]}"
    shown = "".join(Reader(render(found)).text)
    assert made.other.reranker is not None and made.other.reranker[:8] in shown
    assert words.headline(found).endswith("in hybrid search")
    (differing,) = found.differing
    assert differing[0] == "reranker" and differing[1].endswith(made.other.reranker[:8])


def test_labels_stand_with_their_evidence(made: Reported, report: Report) -> None:
    (evidence,) = report.labels
    assert evidence.label_set == made.label_set
    assert evidence.labels["label 1"] == 40 * 2
    assert evidence.rule == "best: on score, top n 2"
    lacking = Uncalibrated("all 9 judged pairs are relevant", 9, 9, 3)
    bare = dataclasses.replace(evidence, calibration=lacking)
    for shown, words_of in ((evidence, "Brier score"), (bare, f"Not calibrated: {lacking.reason}")):
        text = "".join(Reader(render(dataclasses.replace(report, labels=(shown,)))).text)
        assert words_of in text


def test_what_html_cannot_hold_is_replaced(report: Report) -> None:
    moved = dataclasses.replace(report.moved[0], text="a\x00b\ud800c\u202ed\x9be")
    found = render(dataclasses.replace(report, moved=(moved,)))
    assert "a\ufffdb\ufffdc\ufffdd\ufffde" in found
    found.encode("utf-8")


def test_the_command_writes_the_file(made: Reported, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    short = made.run.run_id[:8]
    result = ask("report", short, "--out", out, "--config", made.config, "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout.strip().splitlines()[-1])
    assert values["verdict"] == "regressed" and values["bytes"] == out.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    against = ["--against", made.other.run_id[:8], "--database", made.database.uri]
    told = ask("report", short, "--out", out, *against)
    assert told.exit_code == 0 and f"-> {out}" in told.stdout
    assert f"against {made.other.run_id[:8]}" in out.read_text("utf-8")


def test_a_run_without_a_reranker_has_nothing_to_compare(made: Reported, tmp_path: Path) -> None:
    run = walk_file(made.config, "rerank=null", ingest=False)[0]
    out = tmp_path / "report.html"
    done = ask("report", run.run_id, "--out", out, "--database", made.database.uri, "--json")
    assert json.loads(done.stdout.strip().splitlines()[-1])["verdict"] is None, done.stderr
    shown = " ".join("".join(Reader(out.read_text("utf-8")).text).split())
    assert "nothing to compare it with" in shown and "nothing was scored" in shown


def test_the_task_posts_an_artifact(
    made: Reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = tmp_path / "new" / "reports"
    config = load_config(made.config, [f"results.report={reports}"])
    comparisons = Pipeline(config).comparisons(made.run)
    assert Pipeline(load_config(made.config)).write_report(comparisons) is None
    report = Pipeline(config).write_report(comparisons)
    assert report is not None
    assert report["link"] == (reports / f"{made.run.run_id}.html").as_uri()
    assert f"[The whole report](<{report['link']}>)" in report["markdown"]
    (tmp_path / "file").touch()
    config = load_config(made.config, [f"results.report={tmp_path / 'file' / 'reports'}"])
    with pytest.raises(ConfigError, match="cannot be made"):
        Pipeline(config).write_report(comparisons)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--against", "ffff"], 4, "'ffff'"),
        (["--judgments", "nothing"], 4, "no judgment list 'nothing'"),
        (["--out", "no/such/folder/x.html"], 2, "does not exist"),
    ],
)
def test_what_is_missing_is_said(
    made: Reported, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    given = options if "--out" in options else [*options, "--out", str(tmp_path / "x.html")]
    result = ask("report", made.run.run_id, *given, "--config", made.config)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr


def test_the_summary_is_markdown_that_links(report: Report) -> None:
    text = markdown(report, "file:///reports/r.html")
    assert "## Reranking makes hybrid search worse" in text
    assert text.count("\n| ") == 1 + 6  # two measures on three query types, below the header
    assert "[The whole report](<file:///reports/r.html>)" in text
    assert "rank-biased overlap" in markdown(without_judgments(report))
