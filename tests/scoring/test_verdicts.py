"""A load check that passed is remembered, and vouches for nothing but what it checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.documents import Encoder
from configs.schema import Rerank
from reranking.errors import RuntimeFailure
from reranking.models.files import read_model_files
from reranking.progress import NOTICE
from reranking.scoring import encoder as encoders
from reranking.scoring import load, machine, verdicts
from reranking.scoring.encoder import SentenceEncoder
from reranking.scoring.scorer import PairScorer
from tests.support.model_zoo import bert, electra, roberta, tiny_encoder

TEXTS = ["river stone", "", "winter lamp garden " * 40, "paper, signal! naïve 東京"]
PAIRS = np.array([(q, d) for q in range(4) for d in range(4)])


pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that a stock reranker is loaded."""
    loads: list[str] = []
    original = load.load_stock

    def counted(files: Any, *args: Any, **options: Any) -> Any:
        loads.append(files.folder.name)
        return original(files, *args, **options)

    monkeypatch.setattr(load, "load_stock", counted)
    return loads


def scores(folder: Path, **settings: Any) -> np.ndarray:
    scorer = PairScorer.load(folder, Rerank(model_name=str(folder), device="cpu", **settings))
    assert scorer.path.startswith("packed-")
    return scorer.score(TEXTS, TEXTS, PAIRS[:, 0], PAIRS[:, 1])


def double(folder: Path) -> None:
    """Other weights in a file of the same size, with the times of the one before."""
    path = folder / "model.safetensors"
    times = path.stat()
    tensors = {name: tensor * 2 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert path.stat().st_size == times.st_size

    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("family", [bert, electra, roberta])
def test_a_model_that_passed_is_loaded_from_its_files_alone(
    tmp_path: Path, stock: list[str], family: Callable[[Path], Path]
) -> None:
    folder = family(tmp_path / "model")
    checked = scores(folder)
    assert len(stock) == 1
    assert np.array_equal(scores(folder), checked)
    assert len(stock) == 1
    shutil.move(folder, tmp_path / "elsewhere")  # it is the contents that are known
    assert np.array_equal(scores(tmp_path / "elsewhere"), checked)
    assert len(stock) == 1


def test_weights_in_half_precision_are_read_as_the_stock_model_reads_them(
    tmp_path: Path, stock: list[str]
) -> None:
    folder = bert(tmp_path / "model")
    path = folder / "model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(half, path, metadata={"format": "pt"})
    for precision in ("float32", "bfloat16"):
        checked = scores(folder, precision=precision)
        assert np.array_equal(scores(folder, precision=precision), checked)
    assert len(stock) == 2


def test_other_weights_of_the_same_size_and_time_are_checked_again(
    tmp_path: Path, stock: list[str]
) -> None:
    folder = bert(tmp_path / "model")
    before = scores(folder)
    double(folder)
    assert not np.allclose(scores(folder), before)
    assert len(stock) == 2


def test_a_record_of_other_weights_is_not_taken(
    tmp_path: Path, empty_cache: Path, stock: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody renames the record of one model to that of another."""
    first, second = bert(tmp_path / "first"), bert(tmp_path / "second")
    double(second)
    expected = scores(second)
    (record,) = (empty_cache / "verdicts").iterdir()
    name, _ = record.name, record.unlink()
    scores(first)
    (other,) = (empty_cache / "verdicts").iterdir()
    other.rename(record.with_name(name))
    stock.clear()
    assert np.array_equal(scores(second), expected)
    assert stock == ["second"] and f"{record} is damaged" in caplog.text
    stock.clear()
    scores(second)
    assert not stock  # the damaged one was replaced


@pytest.mark.parametrize("changed", ["processor", "version", "code", "max_length", "precision"])
def test_whatever_else_was_checked_is_part_of_the_verdict(
    tmp_path: Path, stock: list[str], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    folder = bert(tmp_path / "model")
    scores(folder)
    if changed == "max_length":
        scores(folder, max_length=20)
    elif changed == "precision":
        scores(folder, precision="bfloat16")
    else:
        monkeypatch.setattr(verdicts, changed if changed != "code" else "_code", lambda *_: "new")
        scores(folder)
    assert len(stock) == 2


def test_a_cut_off_record_is_told_and_replaced(
    tmp_path: Path, empty_cache: Path, stock: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = bert(tmp_path / "model")
    checked = scores(folder)
    (record,) = (empty_cache / "verdicts").iterdir()
    record.write_bytes(record.read_bytes()[:-40])
    assert np.array_equal(scores(folder), checked)
    assert len(stock) == 2 and "is damaged" in caplog.text
    scores(folder)
    assert len(stock) == 2


def test_without_a_cache_every_load_checks(
    tmp_path: Path, stock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "file"))
    folder = bert(tmp_path / "model")
    assert np.array_equal(scores(folder), scores(folder))
    assert len(stock) == 2


def test_a_fast_path_that_is_off_is_never_remembered(
    tmp_path: Path, empty_cache: Path, stock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reranking.scoring.fast_bert import FastBert

    right = FastBert.__call__
    monkeypatch.setattr(FastBert, "__call__", lambda self, packed: right(self, packed) + 1e-3)
    folder = bert(tmp_path / "model")
    for _ in range(2):
        scorer = PairScorer.load(folder, Rerank(model_name=str(folder), device="cpu"))
        assert scorer.path.startswith("generic")
    assert len(stock) == 2 and not (empty_cache / "verdicts").exists()


def test_files_that_change_between_digest_and_loading_stop_a_remembered_load_too(
    tmp_path: Path, stock: list[str]
) -> None:
    folder = bert(tmp_path / "model")
    scores(folder)
    files = read_model_files(folder)
    double(folder)
    with pytest.raises(RuntimeFailure, match="was changed while the model was being loaded"):
        PairScorer.load(files, Rerank(model_name=str(folder), device="cpu"))
    assert len(stock) == 1


def test_an_encoder_that_passed_is_loaded_from_its_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Encoder(model=str(tiny_encoder(tmp_path / "model")), device="cpu")
    checked = SentenceEncoder(settings).encode_documents(TEXTS)
    monkeypatch.setattr(encoders.SentenceEncoder, "_model", property(lambda _: pytest.fail("load")))
    again = SentenceEncoder(settings)
    assert np.array_equal(again.encode_documents(TEXTS), checked)
    assert again.dimension == checked.shape[1]
    with pytest.raises(pytest.fail.Exception):  # a prompt is the stock model's business
        SentenceEncoder(settings.model_copy(update={"prompt": "x"})).encode_documents(TEXTS)
    with torch.inference_mode():
        double(Path(settings.model))
    with pytest.raises(pytest.fail.Exception):
        SentenceEncoder(settings).encode_documents(TEXTS)


def test_the_user_is_told_once_why_loading_takes_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bert(tmp_path / "model")
    caplog.set_level(NOTICE)
    scores(folder)
    assert f"checking the fast path of {folder}" in caplog.text
    caplog.clear()
    scores(folder)
    assert "checking the fast path" not in caplog.text


def test_the_processor_has_a_name() -> None:
    assert machine.processor()
