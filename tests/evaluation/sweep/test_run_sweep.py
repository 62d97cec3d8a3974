"""A swept setting is what a run with its config lines would be; only tables are read for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking.errors import ConfigError
from reranking.evaluation.run_measures import evaluate_run
from reranking.evaluation.sweep.run_sweep import Sweep, sweep_run
from reranking.runs.listing import find_run
from reranking.runs.run import Run
from tests.support import judged
from tests.support.judged import first_stage, refuse
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, Run, Sweep]:
    """A run of a meaningless reranker, judged by its first stage: there is much to gain."""
    folder = tmp_path_factory.mktemp("swept")
    config = judged.collection(folder, cross_encoder)
    with pytest.MonkeyPatch.context() as patch:
        judged.use_scorer(patch, judged.shuffled)
        judged.judge(folder, first_stage(walk_file(config)[0]))
    run = walk_file(config)[0]
    run = find_run(run.database, run.run_id)
    return config, run, sweep_run(run, load_config(config).comparison)


def overrides(keys: dict[str, Any], prefix: str = "") -> list[str]:
    """Config keys as --set takes them."""
    given = []
    for name, value in keys.items():
        if prefix == "" and isinstance(value, dict):
            given += overrides(value, f"{name}.")
        else:
            given.append(f"{prefix}{name}={json.dumps(value)}")
    return given


WANTED = [
    ("depth", "depth 5"),
    ("fusion", "convex, vector share 0.7"),
    *(
        pytest.param(*w, marks=pytest.mark.slow)
        for w in (
            ("legs", "vector reranked"),
            ("fusion", "rrf, k 5"),
            ("blend", "ranks, vector 1 fts 1, k 60"),
            ("cut", "top_k 3"),
        )
    ),
]


@pytest.mark.parametrize(("family", "name"), WANTED)
def test_a_setting_measures_as_a_run_of_its_config_lines(
    swept: tuple[Path, Run, Sweep], family: str, name: str
) -> None:
    config, _, made = swept
    chosen = next(f for f in made.to_dict()["families"] if f["family"] == family)
    point = next(p for p in chosen["points"] if p["name"] == name)
    run = walk_file(config, *overrides(point["config"]), ingest=False)[0]
    query_type = run.search.query_types[0] if len(run.search.query_types) == 1 else "hybrid"
    values = evaluate_run(run, "j", ["nDCG@10"]).metrics.to_pylist()
    stage = "first" if run.reranker is None else "reranked"
    own = [
        v["value"]
        for v in values
        if (v["query_type"], v["stage"], v["measure"]) == (query_type, stage, "nDCG@10")
    ]
    assert point["mean"] == pytest.approx(np.mean(own), abs=1e-9)


def test_a_score_blend_measures_as_its_run(swept: tuple[Path, Run, Sweep]) -> None:
    config, _, made = swept
    points = next(f for f in made.to_dict()["families"] if f["family"] == "blend")["points"]
    raw = [p for p in points if "cosine" in p["name"] and "BM25" in p["name"]]
    point = raw[len(raw) // 2]
    run = walk_file(config, *overrides(point["config"]), ingest=False)[0]
    assert run.blend is not None and run.run_id != made.run_id
    again = find_run(run.database, run.run_id)
    assert again.blend == run.blend  # read back from the stored plan
    own = next(m for m in again.measures("j").to_pylist() if m["query_type"] == "hybrid")
    assert (own["measure"], own["reranked"]) == ("nDCG@10", pytest.approx(point["mean"], abs=1e-9))
    assert again.explain("q003").documents[0].here.rank == 1  # type: ignore[union-attr]


def test_what_is_gained_is_told_on_held_out_queries(swept: tuple[Path, Run, Sweep]) -> None:
    _, run, made = swept
    fusion = next(c for c in made.choices if c.family == "fusion")
    assert fusion.verdict == "improved" and fusion.held.queries == 40
    assert made.best is not None and made.lancedb is not None
    assert made.lancedb.mean == pytest.approx(
        next(m for m in run.measures("j").to_pylist() if m["query_type"] == "hybrid")["first"]
    )
    assert (fusion.p_corrected or 1) >= (fusion.held.p or 0)
    cut = next(c for c in made.choices if c.family == "cut")
    assert cut.points[cut.chosen].option.name == "today's" and "today's setting" in cut.sentence
    depth = next(c for c in made.choices if c.family == "depth")
    assert depth.knee is not None and depth.points[0].pairs == run.stored["counts"]["pairs"]


def test_the_command_reads_tables_alone(
    swept: tuple[Path, Run, Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reranking.runs import search
    from reranking.scoring.crossencoder import CrossEncoderModel

    config = swept[0]
    monkeypatch.setattr(CrossEncoderModel, "load", refuse)
    monkeypatch.setattr(search, "search_chunk", refuse)
    given = ["sweep", str(config), "--run", swept[1].run_id[:8]]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0, shown.output
    assert "LanceDB's hybrid search" in shown.output and "knee" in shown.output
    told = CliRunner().invoke(app, [*given, "--tune-on", "odd", "--json"])
    values = json.loads(told.stdout.splitlines()[-1])
    assert values["how"] == "chosen on the 20 queries tagged 'odd', told on the other 20"
    assert values["families"][0]["held"]["queries"] == 20
    lines = CliRunner().invoke(app, [*given, "--write"])
    assert yaml.safe_load(lines.stdout) == yaml.safe_load(swept[2].lines)


@pytest.mark.slow
def test_torch_is_not_even_imported(swept: tuple[Path, Run, Sweep]) -> None:
    code = (
        "import sys\nfrom flows.cli import app\n"
        f"try: app(['sweep', {str(swept[0])!r}, '--run', {swept[1].run_id!r}, '--json'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'prefect'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_sweeps_itself(swept: tuple[Path, Run, Sweep]) -> None:
    assert swept[1].sweep().to_dict() == swept[2].to_dict()


def test_the_report_draws_the_curves(swept: tuple[Path, Run, Sweep], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    given = ["sweep", str(swept[0]), "--run", swept[1].run_id[:8], "--report", str(out)]
    done = CliRunner().invoke(app, [*given, "--json"])
    assert done.exit_code == 0, done.output
    page = out.read_text("utf-8")
    assert 'id="what-if"' in page and 'class="band"' in page and "held-out" in page
    fusion = next(c for c in swept[2].choices if c.family == "fusion")
    assert fusion.points[fusion.chosen].option.name in page


@pytest.mark.parametrize("given", ["even", "2"])
def test_queries_that_cannot_choose_are_refused(swept: tuple[Path, Run, Sweep], given: str) -> None:
    _, run, _ = swept
    rules = load_config(swept[0]).comparison
    if given == "even":
        given = "no such tag"
    with pytest.raises(ConfigError, match=r"of 40 judged queries would choose"):
        sweep_run(run, rules, tune_on=given)
