"""What a run tells others: a file for Prometheus, a Markdown summary, a link to its report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.load import ConfigFault, load_config
from flows.cli import app
from tests.support import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("told")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(20))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river stone", "winter lamp"]))
    (folder / "judgments.tsv").write_text("q000 0 d001 1\nq001 0 d002 1\n")
    return tiny.write_config(
        folder,
        cross_encoder,
        judgments={"judgment_list": "j", "source": {"format": "trec", "path": "judgments.tsv"}},
        results={"metrics": "rescore.prom", "report": "reports", "report_url": "https://r.test/x/"},
    )


def metrics(config: Path) -> dict[str, float]:
    """The lines of the file, by name and labels, the pipeline left out."""
    text = (config.parent / "rescore.prom").read_text("utf-8")
    pattern = re.compile(r'^([a-z_]+)\{pipeline="q/documents",?(.*)\} (\S+)$')
    matches = [pattern.match(line) for line in text.splitlines() if not line.startswith("#")]
    assert all(matches), text
    return {f"{m[1]} {m[2]}".strip(): float(m[3]) for m in matches if m}


def run(config: Path, *options: str) -> int:
    return CliRunner().invoke(app, ["run", str(config), *options, "--json"]).exit_code


def test_metrics_summary_and_link(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "summary.md"
    done = CliRunner().invoke(app, ["run", str(config), "--summary", str(out), "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout.splitlines()[-1])
    assert values["report"] == f"https://r.test/x/{values['run_id']}.html"
    text = out.read_text("utf-8")
    assert values["run_id"] in text and "| hybrid | nDCG@10 |" in text and values["report"] in text

    told = metrics(config)
    assert told['rescore_last_run state="done"'] == 1
    assert told["rescore_pairs"] == told["rescore_pairs_scored"] == values["pairs"]
    measured = next(
        m["reranked"]
        for m in values["measures"]
        if (m["query_type"], m["measure"]) == ("hybrid", "nDCG@10")
    )
    assert told['rescore_primary_measure measure="nDCG@10",query_type="hybrid"'] == pytest.approx(
        measured
    )
    assert told['rescore_stage_seconds stage="publish"'] >= 0
    success = told["rescore_last_success_timestamp_seconds"]

    # A refused run and one that fails are no success, and keep the time of the last one.
    gates = json.dumps([{"metric": "nDCG@10", "threshold": 1.1}])
    assert run(config, "--set", f"gates={gates}") == 1
    told = metrics(config)
    assert told['rescore_last_run state="refused"'] == 1 and told["rescore_gates_failed"] == 1
    assert told["rescore_last_success_timestamp_seconds"] == success
    assert run(config, "--set", "queries.source.path=nowhere.jsonl") != 0
    told = metrics(config)
    assert told['rescore_last_run state="failed"'] == 1 and "rescore_pairs" not in told
    assert told["rescore_last_success_timestamp_seconds"] == success


def test_its_keys_are_checked(config: Path) -> None:
    for change in ("results.metrics=rescore.txt", "results.report_url=reports"):
        with pytest.raises(ConfigFault):
            load_config(config, [change])
