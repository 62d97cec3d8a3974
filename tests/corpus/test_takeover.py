"""An encoder's own settings name its vectors; stored ones are taken over after one check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs.documents import Encoder
from reranking.corpus.stored import ENCODER_KEY, READY
from reranking.corpus.vector_columns import vector_columns
from reranking.errors import InputError
from reranking.scoring.encoder import SentenceEncoder
from reranking.store import Database
from tests.support import judged
from tests.support.hostile import edit
from tests.support.model_zoo import tiny_encoder
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def encoder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "encoder"))


def found(folder: Path) -> SentenceEncoder:
    return SentenceEncoder(Encoder(model=str(folder), device="cpu"))


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("sentence_bert_config.json", {"max_seq_length": 4}),
    ("sentence_bert_config.json", {"tokenizer_args": {"model_max_length": 4}}),
    ("tokenizer_config.json", {"model_max_length": 4}),
    ("config.json", {"dtype": "bfloat16"}),
    ("config.json", {"dtype": None, "torch_dtype": "float16"}),
]


@pytest.mark.parametrize(("name", "change"), SETTINGS)
def test_an_encoders_own_settings_name_its_vectors(
    encoder: Path, name: str, change: dict[str, Any]
) -> None:
    before = found(encoder)
    vectors = before.encode_documents(["river stone winter lamp garden paper"])
    edit(encoder / name, **change)
    after = found(encoder)
    assert after.fingerprint != before.fingerprint
    assert abs(after.encode_documents(["river stone winter lamp garden paper"]) - vectors).max() > 0


def test_an_encoder_without_settings_of_its_own_keeps_its_name(encoder: Path) -> None:
    edit(encoder / "tokenizer_config.json", model_max_length=64)  # as many as it has positions
    plain = found(encoder)
    assert plain.former_fingerprint is None
    edit(encoder / "tokenizer_config.json", model_max_length=512)
    assert found(encoder).fingerprint == plain.fingerprint
    edit(encoder / "tokenizer_config.json", model_max_length=63)
    assert found(encoder).former_fingerprint == plain.fingerprint


def ingested_by_an_earlier_version(folder: Path, model: Path, encoder: Path) -> Path:
    """A finished run whose vectors carry the encoder's former name; the config's path."""
    config = judged.encoded_collection(folder, model, encoder)
    walk_file(config)
    database = Database(str(folder / "db.lancedb"))
    former = found(encoder).former_fingerprint
    assert former is not None
    mark = {"path": "vector", "metadata": {ENCODER_KEY.decode(): former}}
    database.need("documents").update_field_metadata(mark)
    database.tag("documents", READY, int(database.need("documents").version))
    return config


@pytest.mark.parametrize("ingest", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_stored_vectors_are_taken_over_after_one_check(
    tmp_path: Path, cross_encoder: Path, encoder: Path, ingest: bool, caplog: Any
) -> None:
    config = ingested_by_an_earlier_version(tmp_path, cross_encoder, encoder)
    caplog.set_level("INFO", "reranking.corpus.takeover")
    run, _ = walk_file(config, ingest=ingest)
    assert run.finished, "the same vectors under the new name are the same run"
    assert vector_columns(run.database, "documents") == {"vector": found(encoder).fingerprint}
    assert run.database.tagged("documents", READY) == run.database.need("documents").version
    assert caplog.text.count("is its name from now on") == 1
    walk_file(config, ingest=ingest)
    assert caplog.text.count("is its name from now on") == 1


def test_vectors_of_other_settings_are_not_taken_over(
    tmp_path: Path, cross_encoder: Path, encoder: Path
) -> None:
    config = ingested_by_an_earlier_version(tmp_path, cross_encoder, encoder)
    edit(encoder / "sentence_bert_config.json", max_seq_length=4)
    for ingest in (True, False):
        with pytest.raises(InputError, match="Restore max_seq_length"):
            walk_file(config, ingest=ingest)
    settings = encoder / "sentence_bert_config.json"
    kept = json.loads(settings.read_text())
    settings.write_text(json.dumps({k: v for k, v in kept.items() if k != "max_seq_length"}))
    assert walk_file(config)[0].finished


def test_an_edited_encoder_is_refused_after_an_ingest(
    tmp_path: Path, cross_encoder: Path, encoder: Path
) -> None:
    config = judged.encoded_collection(tmp_path, cross_encoder, encoder)
    walk_file(config)
    edit(encoder / "sentence_bert_config.json", max_seq_length=4)
    for ingest in (True, False):
        with pytest.raises(InputError, match="encoder"):
            walk_file(config, ingest=ingest)
