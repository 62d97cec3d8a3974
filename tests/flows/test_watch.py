"""A changed model is noticed by its contents, announced, and reevaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.schema import Config
from flows.watch import watch
from reranking.errors import MissingResource
from reranking.pipeline import Pipeline
from reranking.reevaluation import changed_models
from reranking.runs.promotion import promote
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.encoder import SentenceEncoder
from tests.support import judged, tiny
from tests.support.judged import refuse
from tests.support.walk import walk_file

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


def test_watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = tiny.tiny_cross_encoder(tmp_path / "reranker")
    encoder = judged.encoder_folder(tmp_path / "encoder", 1)
    config = load_config(judged.encoded_collection(tmp_path, reranker, encoder))
    run = walk_file(tmp_path / "config.yaml")[0]
    with pytest.raises(MissingResource, match="rescore promote RUN_ID --as production"):
        changed_models(Pipeline(config))
    promote(run.database, run.run_id, "production")

    with monkeypatch.context() as patch:  # unchanged: no model is loaded
        patch.setattr(CrossEncoderModel, "load", refuse)
        patch.setattr(SentenceEncoder, "_model", property(refuse))
        assert watch(config) == {"changed": []}

    emitted = _listen(monkeypatch)
    settings = reranker / "config.json"  # the same folder, other contents
    settings.write_text(
        settings.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-6')
    )
    found = watch(config)
    assert [(c["kind"], c["name"]) for c in found["changed"]] == [("reranker", str(reranker))]
    assert emitted[0]["event"] == "model.changed"
    assert emitted[0]["resource"] == {"prefect.resource.id": f"rescore.model.{reranker}"}
    assert emitted[0]["payload"]["before"] == run.reranker
    told = found["reevaluation"]
    assert told["run_id"] != run.run_id and told["scored"] == told["pairs"]
    assert told["comparison"]["base"]["run_id"] == run.run_id

    promote(run.database, told["run_id"], "production")
    assert watch(config) == {"changed": []}
    judged.encoder_folder(encoder, 2)
    assert [c["kind"] for c in _changes(config)] == ["encoder"]


def _changes(config: Config) -> list[dict[str, Any]]:
    return changed_models(Pipeline(config))


def _listen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    emitted: list[dict[str, Any]] = []
    monkeypatch.setattr("tasks.watch.emit_event", lambda **event: emitted.append(event))
    return emitted
