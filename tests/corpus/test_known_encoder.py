"""Somebody else's vectors: who made them, by LanceDB's metadata and by the vectors themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from lancedb.index import FTS

from configs.documents import Encoder
from reranking.errors import InputError, MissingPrerequisite
from reranking.runs.listing import find_run
from reranking.scoring.encoder import SentenceEncoder
from tests.support import judged, tiny
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return [judged.encoder_folder(folder / f"encoder{seed}", seed) for seed in (1, 2)]


def config_of(folder: Path, model: Path, encoder: Path, stated: dict[str, Any] | None) -> Path:
    """A config over a table `products` whose vectors the encoder made; its metadata is `stated`."""
    rows = tiny.documents(30)
    texts = [r["text"] for r in rows]
    vectors = SentenceEncoder(Encoder(model=str(encoder))).encode_documents(texts)
    data = pa.table(
        {
            "sku": [r["doc_id"] for r in rows],
            "body": texts,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), tiny.WIDTH),
        }
    )
    if stated is not None:
        entry = {"source_column": "body", "vector_column": "vector", **stated}
        data = data.replace_schema_metadata({"embedding_functions": json.dumps([entry])})
    table = lancedb.connect(folder / "db.lancedb").create_table("products", data)
    table.create_index("body", config=FTS())
    queries = [
        {k: v for k, v in q.items() if k != "vector"} for q in tiny.queries(["river", "bread"])
    ]
    tiny.write_jsonl(folder / "queries.jsonl", queries)
    documents = {"table": "products", "managed": False, "id": "sku", "text": "body"}
    return tiny.write_config(folder, model, documents=documents)


def of(encoder: Path) -> dict[str, Any]:
    return {"name": "sentence-transformers", "model": {"name": str(encoder), "device": "cpu"}}


def test_the_encoder_that_the_table_names_is_used(
    tmp_path: Path, cross_encoder: Path, encoders: list[Path]
) -> None:
    config = config_of(tmp_path, cross_encoder, encoders[0], of(encoders[0]))
    run, counts = walk_file(config)
    assert counts["scored"] > 0
    fingerprint = SentenceEncoder(Encoder(model=str(encoders[0]))).fingerprint
    assert find_run(run.database, run.run_id).stored["encoder"] == fingerprint
    named = walk_file(config, f"documents.encoder={{model: {encoders[0]}}}")[0]
    assert named.run_id == run.run_id


def test_vectors_of_another_model_are_refused(
    tmp_path: Path,
    cross_encoder: Path,
    encoders: list[Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = config_of(tmp_path, cross_encoder, encoders[0], of(encoders[0]))
    other = f"documents.encoder={{model: {encoders[1]}}}"
    with pytest.raises(InputError, match="not made by encoder .*encoder2.*says that .*encoder1"):
        walk_file(config, other)
    walk_file(config, f"documents.encoder={{model: {encoders[0]}}}")
    assert "is it the same model" not in caplog.text


def test_a_table_that_lies_about_its_vectors_is_refused(
    tmp_path: Path, cross_encoder: Path, encoders: list[Path]
) -> None:
    config = config_of(tmp_path, cross_encoder, encoders[0], of(encoders[1]))
    with pytest.raises(InputError, match="encoded again, have a median cosine"):
        walk_file(config)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"name": "openai", "model": {"name": "text-embedding-3-small"}}, "openai text-embedding"),
        ({"name": "sentence-transformers", "model": {"name": "/nowhere/m"}}, "does not exist"),
    ],
)
def test_an_encoder_that_is_not_here_is_named(
    tmp_path: Path, cross_encoder: Path, encoders: list[Path], stated: dict[str, Any], words: str
) -> None:
    config = config_of(tmp_path, cross_encoder, encoders[0], stated)
    with pytest.raises(MissingPrerequisite, match=words):
        walk_file(config)
    walk_file(config, "search.query_types=[fts]")  # needs none


def test_queries_that_bring_vectors_need_no_encoder(
    tmp_path: Path, cross_encoder: Path, encoders: list[Path]
) -> None:
    stated = {"name": "openai", "model": {"name": "text-embedding-3-small"}}
    config = config_of(tmp_path, cross_encoder, encoders[0], stated)
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river", "bread"]))
    run, _ = walk_file(config)
    assert run.stored["encoder"] is None
