"""Pairs that are longer than the model reads: counted from what is stored, reused ones too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.evaluation.run_comparison import Comparisons
from reranking.report.answers import write_for
from reranking.report.summary import markdown_of
from reranking.runs.candidates import candidates_of
from reranking.runs.lengths import in_words, lengths_of
from reranking.runs.listing import find_run
from reranking.runs.run import Run
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk_file

LIMIT = 16
TEXTS = ["river stone", "lamp garden winter paper", "winter"]
DOCUMENTS = {d["doc_id"]: d["text"] for d in tiny.documents(40)}


@pytest.fixture
def config(tmp_path: Path, cross_encoder: Path) -> Path:
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(40))
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(TEXTS))
    (tmp_path / "judgments.tsv").write_text("q000 0 d001 2\nq001 0 d003 1\n")
    source = {"format": "trec", "path": "judgments.tsv"}
    return tiny.write_config(
        tmp_path,
        cross_encoder,
        rerank__max_length=LIMIT,
        search__chunk_queries=2,
        judgments={"judgment_list": "j", "source": source, "measures": ["nDCG@10"]},
    )


def expected(run: Run, cross_encoder: Path) -> dict[str, tuple[int, int, int]]:
    """Pairs, cut ones and tokens lost by query type, as the model's own tokenizer counts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    rows = pl.concat([frame(candidates_of(run, chunk)) for chunk in run.chunks])
    views: dict[str, pl.Expr] = {
        "vector": pl.col("vector_rank").is_not_null(),
        "fts": pl.col("fts_rank").is_not_null(),
        "hybrid": pl.lit(True),
    }
    found = {}
    for name, condition in views.items():
        pairs = {
            (TEXTS[int(q[1:])], DOCUMENTS[d])
            for q, d in rows.filter(condition).select("query_id", "doc_id").rows()
        }
        tokens = [len(tokenizer(*pair)["input_ids"]) for pair in pairs]
        lost = [t - LIMIT for t in tokens if t > LIMIT]
        found[name] = (len(pairs), len(lost), sum(lost))
    return found | {"all": found["hybrid"]}


def counted(run: Run) -> dict[str, Any]:
    stored = find_run(run.database, run.run_id).stored
    lengths = lengths_of(stored["counts"], stored["query_types"])
    assert lengths is not None
    return lengths


def test_the_counts_are_the_tokenizers_by_query_type_and_for_reused_pairs(
    config: Path, cross_encoder: Path
) -> None:
    run, counts = walk_file(config)
    for repeated in (run, walk_file(config, "rerank.top_k=3")[0]):
        lengths = counted(repeated)
        told = {n: (r["pairs"], r["truncated"], r["tokens_lost"]) for n, r in lengths.items()}
        assert told == expected(run, cross_encoder)
        assert told["all"][0] == counts["pairs"] and 0 < told["fts"][1] < told["hybrid"][1]
        assert all(row["unknown"] == 0 for row in lengths.values())
    again, counts = walk_file(config, "rerank.top_k=4")
    assert counts["scored"] == 0 and again.run_id != run.run_id
    rows = run.database.read("pair_scores", columns=["tokens"])["tokens"]
    assert rows.null_count == 0 and max(rows.to_pylist()) > LIMIT


def test_people_are_told(config: Path, tmp_path: Path) -> None:
    def told(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code == 0, done.output
        return str(done.stdout)

    told("ingest", str(config))
    before = json.loads(told("run", str(config), "--dry-run", "--json").splitlines()[-1])
    ran = json.loads(told("run", str(config), "--json").splitlines()[-1])
    everything = ran["lengths"]["all"]
    assert (before["measured"], before["truncated"]) == (
        min(64, everything["pairs"]),
        pytest.approx(everything["share"], abs=0.1 if everything["pairs"] > 64 else 1e-9),
    )
    words = in_words(everything)
    assert "tokens lost" in words and f"{everything['share']:.1%}" in words
    run = told("run", str(config))
    assert words in run and f"{ran['lengths']['fts']['share']:.1%}" in run
    show = told("show", ran["run_id"][:8], "--config", str(config))
    for view, row in ran["lengths"].items():
        assert f"longer than the model reads, {view}" in show and in_words(row) in show
    assert "truncated_fts" not in show
    assert "longer than the model reads" in told("run", str(config), "--dry-run")
    assert words in markdown_of(ran)
    settings = load_config(config, [f"results.report={tmp_path}"])
    report = write_for(settings, Comparisons(Database(settings.database), ran["run_id"], settings))
    assert report is not None and words in report["markdown"]
    page = next(tmp_path.glob("*.html")).read_text()
    assert "Pairs that are longer than the model reads" in page


def test_what_is_not_known_is_said() -> None:
    assert lengths_of({"pairs": 3, "truncated": 1}, ("fts",)) is None  # an earlier version's
    row = {"pairs": 5, "truncated": 0, "tokens": 0, "tokens_lost": 0, "unknown": 5, "share": None}
    assert in_words(row) == "unknown"
    assert in_words(row | {"unknown": 2}) == "0 of 3 pairs; 2 unknown"
