"""Training files as `datasets` and sentence-transformers' own losses read them; qrels and BEIR."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.labelling import Training
from reranking.errors import ConfigError, InputError
from reranking.fingerprints import text_hash
from reranking.labelling.mining import Mined, Miner
from reranking.labelling.training import (
    PROVENANCE,
    TrainingWriter,
    assign_splits,
    examples,
    of_split,
)

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

QUERIES = {f"q{n}": f"w{n} w{n + 1}" for n in range(6)}
DOCUMENTS = {f"d{n}": f"w{n} w{n + 2} w{n + 3}" for n in range(12)}
FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]
LOSSES = {
    ("triplet", False): "MultipleNegativesRankingLoss",
    ("triplet", True): "MarginMSELoss",
    ("n-tuple", False): "MultipleNegativesRankingLoss",
    ("n-tuple", True): "MarginMSELoss",
    ("labeled-pair", False): "BinaryCrossEntropyLoss",
    ("labeled-pair", True): "MSELoss",
    ("labeled-list", False): "LambdaLoss",
    ("labeled-list", True): "ListNetLoss",
}


def hashes(texts: Iterable[str]) -> pa.Array:
    return pa.array([text_hash(text) for text in texts], pa.binary(16))


def mined() -> Mined:
    """Six queries with five candidates each, the first positive; q0's third is judged 0."""
    rows = [(f"q{q}", f"d{(q + d) % 12}", 3.0 - d) for q in range(6) for d in range(5)]
    pairs = pa.table(
        {
            "query_id": [r[0] for r in rows],
            "doc_id": [r[1] for r in rows],
            "query_hash": hashes(QUERIES[r[0]] for r in rows),
            "doc_hash": hashes(DOCUMENTS[r[1]] for r in rows),
            "score": pa.array([r[2] for r in rows], pa.float32()),
            "vector_rank": pa.nulls(len(rows), pa.int32()),
            "fts_rank": pa.nulls(len(rows), pa.int32()),
        }
    )
    known = [(f"q{q}", f"d{q}", 1) for q in range(6)] + [("q0", "d2", 0)]
    judgments = pa.table(
        {
            "query_id": [r[0] for r in known],
            "doc_id": [r[1] for r in known],
            "relevance": pa.array([r[2] for r in known], pa.int32()),
            "source": ["ann"] * len(known),
        }
    )
    return Miner(Training(num_negatives=3), judgments).mine(pairs)


def rows_of(kind: str, output_scores: bool = False, **more: Any) -> pa.Table:
    return examples(
        more.pop("mined", None) or mined(),
        kind,
        num_negatives=3,
        queries=QUERIES,
        documents=DOCUMENTS,
        output_scores=output_scores,
        **more,
    )


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    """A cross-encoder with random weights and a vocabulary of twenty words."""
    import torch
    from sentence_transformers import CrossEncoder
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(20))]
    raw = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu", local_files_only=True)


def written(folder: Path, kind: str, output_scores: bool, file_format: str) -> Path:
    with TrainingWriter(folder, file_format, {"runs": "r1"}) as writer:
        writer.write("train", rows_of(kind, output_scores))
    return folder


@pytest.mark.parametrize(
    ("kind", "output_scores", "file_format"),
    [
        *((kind, scores, "parquet") for kind in FORMATS for scores in (False, True)),
        ("triplet", True, "jsonl"),
        ("labeled-list", False, "jsonl"),
    ],
)
def test_datasets_loads_it_and_the_matching_loss_trains(
    tmp_path: Path, tiny_model: CrossEncoder, kind: str, output_scores: bool, file_format: str
) -> None:
    """The folder as a user loads it, sentence-transformers' own collator, two steps of SGD."""
    import torch
    from datasets import load_dataset
    from sentence_transformers.cross_encoder import losses
    from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator

    folder = written(tmp_path / "data", kind, output_scores, file_format)
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    expected = rows_of(kind, output_scores).data.to_pylist()
    assert loaded["train"].to_list() == expected and len(expected) >= 6

    loss = getattr(losses, LOSSES[kind, output_scores])(tiny_model)
    collate = CrossEncoderDataCollator(preprocess_fn=tiny_model.preprocess)
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.01)
    tiny_model.train()
    for start in (0, 3):
        batch = collate([loaded["train"][n] for n in range(start, start + 3)])
        labels = batch.pop("label", None)
        value = loss(list(batch.values()), labels)
        assert torch.isfinite(value)
        value.backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tiny_model.parameters())
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_texts_beyond_a_batch_are_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file_format: str
) -> None:
    """As with a chunk whose lists of texts are more than one Arrow array can hold."""
    whole = written(tmp_path / "whole", kind, False, file_format)
    monkeypatch.setattr("reranking.arrow.BATCH_BYTES", 12)
    parts = written(tmp_path / "parts", kind, False, file_format)
    assert rows_of(kind).data.column("query").num_chunks > 1
    if file_format == "jsonl":
        assert (parts / "train.jsonl").read_bytes() == (whole / "train.jsonl").read_bytes()
    else:
        assert pq.ParquetFile(parts / "train.parquet").num_row_groups > 1
        assert pq.read_table(parts / "train.parquet").equals(pq.read_table(whole / "train.parquet"))


def test_columns_are_inputs_then_labels_and_nothing_else() -> None:
    names = {
        (kind, scores): rows_of(kind, scores).data.column_names
        for kind in FORMATS
        for scores in (False, True)
    }
    assert names == {
        ("triplet", False): ["query", "positive", "negative"],
        ("triplet", True): ["query", "positive", "negative", "scores"],
        ("n-tuple", False): ["query", "positive", "negative_1", "negative_2", "negative_3"],
        ("n-tuple", True): [
            "query",
            "positive",
            "negative_1",
            "negative_2",
            "negative_3",
            "scores",
        ],
        ("labeled-pair", False): ["query", "document", "label"],
        ("labeled-pair", True): ["query", "document", "score"],
        ("labeled-list", False): ["query", "docs", "labels"],
        ("labeled-list", True): ["query", "docs", "scores"],
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_provenance_follows_row_by_row(tmp_path: Path, kind: str) -> None:
    folder = written(tmp_path, kind, True, "parquet")
    data = pq.read_table(folder / "train.parquet").to_pylist()
    table = pq.read_table(folder / "__provenance__" / "train.parquet")
    assert table.schema.names == PROVENANCE.names
    assert table.schema.metadata[b"rescore.runs"] == b"r1"
    assert len(data) == table.num_rows
    for row, origin in zip(data, table.to_pylist(), strict=True):
        texts = row.get("docs") or [
            text for name, text in row.items() if name not in ("query", "score", "scores")
        ]
        assert row["query"] == QUERIES[origin["query_id"]]
        assert origin["query_hash"] == text_hash(row["query"])
        assert texts == [DOCUMENTS[doc] for doc in origin["doc_ids"]]
        assert origin["doc_hashes"] == [text_hash(text) for text in texts]
        assert origin["scores"] == (row["scores"] if "scores" in row else [row["score"]])
    sources = {s for origin in table.to_pylist() for s in origin["sources"]}
    assert sources == {"positive", "mined", "judged"}


def test_a_positive_without_a_score_is_skipped_for_distillation_only() -> None:
    block = mined()
    scores = block.positives["score"].to_pylist()
    unscored = block.positives.set_column(5, "score", pa.array([None, *scores[1:]], pa.float32()))
    partial = type(block)(unscored, block.negatives)
    assert rows_of("n-tuple", mined=partial).skipped == 0
    distilled = rows_of("n-tuple", True, mined=partial)
    assert (distilled.skipped, distilled.data.num_rows) == (1, 5)


def test_tuples_need_all_their_negatives() -> None:
    block = mined()
    fewer = type(block)(block.positives, block.negatives.slice(1))
    assert rows_of("n-tuple", mined=fewer).skipped == 1
    assert rows_of("labeled-list", mined=fewer).data["labels"].to_pylist()[0] == [1, 0, 0]


def test_a_missing_text_and_an_unknown_format_are_refused() -> None:
    with pytest.raises(InputError, match="no text for the query or document 'd0'"):
        examples(mined(), "triplet", num_negatives=3, queries=QUERIES, documents={})
    with pytest.raises(ConfigError, match="expected one of triplet, n-tuple"):
        rows_of("pairs")


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TrainingWriter(tmp_path, "parquet", {}) as writer:
        writer.write("train", rows_of("triplet"))
        raise RuntimeError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_blocks_are_appended(tmp_path: Path) -> None:
    with TrainingWriter(tmp_path, "jsonl", {}) as writer:
        writer.write("train", rows_of("triplet"))
        writer.write("train", rows_of("triplet"))
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 36 and json.loads(lines[0]) == json.loads(lines[18])
    assert pq.read_table(tmp_path / "__provenance__" / "train.parquet").num_rows == 36


def test_a_split_is_a_plain_name(tmp_path: Path) -> None:
    with TrainingWriter(tmp_path, "jsonl", {}) as writer, pytest.raises(ConfigError, match="plain"):
        writer.write("../train", rows_of("triplet"))


# --- splits


def positives(rows: Sequence[tuple[str, str]]) -> pa.Table:
    return pa.table(
        {
            "query_id": [q for q, _ in rows],
            "doc_id": [d for _, d in rows],
            "doc_hash": pa.array([None] * len(rows), pa.binary(16)),
        }
    )


def test_shares_are_met_and_stay_when_queries_are_added() -> None:
    queries = {f"q{n}": f"text {n}" for n in range(2000)}
    rows = [(q, f"d-{q}") for q in queries]
    shares = {"train": 0.8, "dev": 0.1, "test": 0.1}
    splits = assign_splits(positives(rows), queries, shares)
    counts = [list(splits.values()).count(name) for name in shares]
    assert counts == pytest.approx([1600, 200, 200], abs=60)
    fewer = assign_splits(positives(rows[:500]), queries, shares)
    assert all(splits[q] == name for q, name in fewer.items())
    assert assign_splits(positives(rows), queries, shares, seed=1) != splits


def test_one_text_under_two_ids_is_in_one_split() -> None:
    queries = {
        f"{side}{n}": f"Text  {n}" if side == "a" else f"text {n} "
        for side in "ab"
        for n in range(200)
    }
    splits = assign_splits(
        positives([(q, q) for q in queries]), queries, {"train": 0.5, "test": 0.5}
    )
    assert all(splits[f"a{n}"] == splits[f"b{n}"] for n in range(200))
    assert set(splits.values()) == {"train", "test"}


def test_queries_with_a_common_answer_are_in_one_split() -> None:
    """Threes of queries share an answer; each three moves as one, and the threes apart."""
    queries = {f"q{n}": f"text {n}" for n in range(300)}
    rows = [(f"q{n}", f"d{n // 3}") for n in range(300)]
    splits = assign_splits(positives(rows), queries, {"train": 0.5, "test": 0.5})
    chains = [{splits[f"q{3 * n + k}"] for k in range(3)} for n in range(100)]
    assert all(len(chain) == 1 for chain in chains)
    assert 30 < sum(chain == {"train"} for chain in chains) < 70


def test_ids_and_the_order_of_rows_do_not_matter() -> None:
    texts, shares = [f"text {n}" for n in range(90)], {"train": 0.5, "test": 0.5}

    def by_text(names: Sequence[str]) -> dict[str, str]:
        queries = dict(zip(names, texts, strict=True))
        rows = sorted((name, f"d{n // 3}") for n, name in enumerate(names))
        splits = assign_splits(positives(rows), queries, shares)
        return {text: splits[name] for name, text in queries.items()}

    assert by_text([f"q{n:02}" for n in range(90)]) == by_text([f"x{99 - n}" for n in range(90)])


def test_copies_of_an_answer_hold_queries_together_too() -> None:
    queries = {f"q{n}": f"text {n}" for n in range(100)}
    table = positives([(f"q{n}", f"d{n}") for n in range(100)])
    same = hashes(str(n // 2) for n in range(100))
    table = table.set_column(2, "doc_hash", same)
    splits = assign_splits(table, queries, {"train": 0.5, "test": 0.5})
    assert all(splits[f"q{2 * n}"] == splits[f"q{2 * n + 1}"] for n in range(50))


def test_a_block_is_parted_by_split() -> None:
    splits = {f"q{n}": "train" if n % 2 else "test" for n in range(6)}
    part = of_split(mined(), splits, "train")
    assert set(part.positives["query_id"].to_pylist()) == {"q1", "q3", "q5"}
    assert set(part.negatives["query_id"].to_pylist()) == {"q1", "q3", "q5"}


@pytest.mark.parametrize("shares", [{}, {"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_shares_add_up(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        assign_splits(positives([]), {}, shares)


def test_queries_that_nearly_all_hang_together_are_refused() -> None:
    """As with labels as positives: one document is the answer to everything."""
    rows = [(f"q{n}", "d" if n < 99 else "e") for n in range(100)]
    queries = {query: query for query, _ in rows}
    with pytest.raises(InputError, match="99 of 100 queries hang together"):
        assign_splits(positives(rows), queries, {"train": 0.9, "dev": 0.1})
    assert set(assign_splits(positives(rows), queries, {"train": 1.0}).values()) == {"train"}


@pytest.mark.parametrize("seed", range(8))
def test_no_split_with_a_share_stays_empty(seed: int) -> None:
    rows = [(f"q{n}", f"d{n}") for n in range(5)]
    queries = {query: query for query, _ in rows}
    shares = {"train": 0.9, "dev": 0.1, "test": 0.0}
    splits = assign_splits(positives(rows), queries, shares, seed=seed)
    assert set(splits.values()) == {"train", "dev"} and len(splits) == 5
