"""A model folder that only the driver has is sent to a worker, whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.schema import Config, Rerank
from reranking.models.resolve import ModelFolder
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.workers import parcels, presence
from reranking.workers.admission import Admission
from reranking.workers.crew import WorkerLost
from reranking.workers.presence import Asked, fault_of_worker, own_config
from tests.support import model_zoo, tiny
from tests.support.judged import encoder_folder

pytestmark = pytest.mark.usefixtures("empty_cache")


class Worker:
    """One on a machine that has nothing but its cache; the calls that it got are by name."""

    def __init__(self, dies_at: str | None = None) -> None:
        self.calls: list[str] = []
        self.dies_at = dies_at

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        self.calls.append(work.__name__)
        future: Future[Any] = Future()
        if self.dies_at == work.__name__:
            future.set_exception(WorkerLost("killed"))
        else:
            future.set_result(work(*args))
        return future


@pytest.fixture
def model(tmp_path: Path, cross_encoder: Path) -> Path:
    """A name of the model's folder, which can be taken away while the folder stays."""
    link = tmp_path / "model"
    link.symlink_to(shutil.copytree(cross_encoder, tmp_path / "really"))
    return link


def asked_with(folder: Path, model: Path, *overrides: str) -> Asked:
    """What a driver asks of its workers that has found its reranker; then its name is gone."""
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(3))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river"]))
    (folder / "db.lancedb").mkdir(exist_ok=True)
    config = load_config(tiny.write_config(folder, model), overrides)
    found = find_cross_encoder(reranker(config))
    asked = presence.what_is_asked(config, reranker=found.fingerprint.hex(), folders=[found.folder])
    model.unlink()
    return asked


def reranker(config: Config) -> Rerank:
    assert config.rerank is not None
    return config.rerank


def admitted(asked: Asked, worker: Worker) -> str | None:
    with Admission(asked, fault_of_worker) as admission:
        return admission(worker).result()


def sent() -> list[Path]:
    """What lies in the cache, half or whole."""
    return sorted((Path(os.environ["RESCORE_CACHE"]) / "models").glob("*sent-*"))


def test_what_is_digested_is_sent_and_the_next_one_there_finds_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parcels, "_PIECE", 10_000)
    (model / "notes.md").write_text("not digested, not sent")
    asked, first, second = asked_with(tmp_path, model), Worker(), Worker()
    with caplog.at_level("INFO"):
        assert admitted(asked, first) is None and admitted(asked, second) is None
    [parcel] = asked.parcels.values()
    pieces = sum(-(-part.size // 10_000) for part in parcel.parts.values())
    assert pieces > len(parcel.parts) and first.calls.count("receive") == pieces
    assert second.calls == ["fault_of_worker"]
    assert caplog.text.count("sending model") == 1
    assert f"{len(parcel.parts)} files, {parcel.size / 1e6:.1f} MB" in caplog.text
    assert [folder.name for folder in sent()] == [f"sent-{parcel.digest}"]
    assert {p.name for p in sent()[0].iterdir()} == set(parcel.parts)
    there = find_cross_encoder(reranker(own_config(asked)))
    assert there.folder.path == sent()[0].resolve()
    assert there.fingerprint.hex() == asked.reranker


def test_workers_of_one_machine_that_come_at_once_are_sent_it_once(
    tmp_path: Path, model: Path
) -> None:
    asked, workers = asked_with(tmp_path, model), [Worker(), Worker(), Worker()]
    with Admission(asked, fault_of_worker) as admission:
        answers = [admission(worker) for worker in workers]
        assert [answer.result() for answer in answers] == [None] * 3
    assert sum("unpack" in worker.calls for worker in workers) == 1


def test_a_folder_of_the_same_name_with_another_model_is_not_used(
    tmp_path: Path, model: Path
) -> None:
    asked = asked_with(tmp_path, model)
    tiny.tiny_cross_encoder(model, seed=8)
    assert admitted(asked, Worker()) is None
    assert reranker(own_config(asked)).model_name == str(sent()[0])


def test_the_folder_of_that_name_is_used_where_it_is_the_driver_s(
    tmp_path: Path, model: Path
) -> None:
    asked, worker = asked_with(tmp_path, model), Worker()
    model.symlink_to("really")
    assert admitted(asked, worker) is None and worker.calls == ["fault_of_worker"]
    assert not sent() and own_config(asked) == asked.config


def test_a_model_in_the_cache_that_was_damaged_is_sent_again(tmp_path: Path, model: Path) -> None:
    asked = asked_with(tmp_path, model)
    assert admitted(asked, Worker()) is None
    with (sent()[0] / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    assert presence.fault_of_worker(asked) is not None
    assert admitted(asked, Worker()) is None and presence.fault_of_worker(asked) is None


@pytest.mark.parametrize("moment", ["receive", "unpack"])
def test_a_worker_that_dies_meanwhile_leaves_nothing_that_is_used(
    tmp_path: Path, model: Path, moment: str
) -> None:
    asked = asked_with(tmp_path, model)
    with pytest.raises(WorkerLost):
        admitted(asked, Worker(dies_at=moment))
    assert not any(folder.name.startswith("sent-") for folder in sent())
    assert admitted(asked, Worker()) is None


def test_a_model_that_is_too_large_is_refused_with_what_to_do(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, worker = asked_with(tmp_path, model), Worker()
    monkeypatch.setattr(presence, "LARGEST", 1000)
    fault = admitted(asked, worker) or ""
    assert f"the model folder {model} is not here, and it is not sent because it has" in fault
    assert "copy the driver's folder to the same path" in fault and not sent()


def test_a_worker_without_the_gpu_is_sent_nothing(tmp_path: Path, model: Path) -> None:
    asked = replace(asked_with(tmp_path, model, "rerank.precision=float16"), auto=True)
    worker = Worker()
    assert "float16 on GPUs and it has none" in (admitted(asked, worker) or "")
    assert worker.calls == ["fault_of_worker"] and not sent()


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "file"))
    fault = admitted(asked_with(tmp_path, model), Worker()) or ""
    assert "cannot be kept in its cache folder" in fault and "Set RESCORE_CACHE there" in fault


def test_files_that_change_while_they_are_sent_are_not_used(tmp_path: Path, model: Path) -> None:
    asked = asked_with(tmp_path, model)
    with (tmp_path / "really" / "model.safetensors").open("r+b") as file:
        file.write(b"?")
    assert "were changed while they were sent" in (admitted(asked, Worker()) or "")
    (tmp_path / "really" / "model.safetensors").unlink()
    assert "the driver cannot read model" in (admitted(asked, Worker()) or "")
    assert not [folder for folder in sent() if folder.name.startswith("sent-")]


def test_an_adapter_brings_its_base(tmp_path: Path) -> None:
    model_zoo.lora(tmp_path / "site" / "adapter")
    link = tmp_path / "model"
    link.symlink_to("site/adapter")
    asked = asked_with(tmp_path, link)
    (tmp_path / "site").rename(tmp_path / "elsewhere")
    moved = find_cross_encoder(Rerank(model_name=str(tmp_path / "elsewhere" / "adapter")))
    [packed] = parcels.parcels_of([moved.folder]).values()
    assert packed.digest == asked.parcels[str(link)].digest  # wherever both lie
    asked = replace(asked, parcels={str(link): replace(packed, name=str(link))})
    assert admitted(asked, Worker()) is None
    there = find_cross_encoder(reranker(own_config(asked)))
    assert there.fingerprint.hex() == asked.reranker
    assert there.folder.path == (sent()[0] / "adapter").resolve()
    there.load()


def test_an_encoder_of_another_kind_is_not_searched_with(tmp_path: Path) -> None:
    from reranking.scoring.encoder import SentenceEncoder

    folder = encoder_folder(tmp_path / "encoder", seed=5)
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(3))
    (tmp_path / "db.lancedb").mkdir()
    path = tiny.write_config(tmp_path, tmp_path / "none", documents__encoder={"model": str(folder)})
    config = load_config(path)
    assert config.documents.encoder is not None
    encoder = SentenceEncoder(config.documents.encoder)
    asked = presence.what_is_asked(config, encoder=encoder.fingerprint, folders=[encoder.folder])
    hub = presence.what_is_asked(config, encoder=encoder.fingerprint)
    folder.rename(tmp_path / "moved")
    encoder_folder(folder, seed=6)
    assert "is another one here" in str(fault_of_worker(hub))
    shutil.rmtree(folder)
    (tmp_path / "moved").rename(folder)
    assert fault_of_worker(asked) is None


def test_models_of_the_hub_and_built_in_ones_are_not_sent(
    tmp_path: Path, cross_encoder: Path
) -> None:
    found = find_cross_encoder(Rerank(model_name=str(cross_encoder))).folder
    hub = ModelFolder("somebody/reranker", found.files, "abc123", found.chain)
    built_in = ModelFolder("builtin:minilm-reranker", found.files, None, found.chain)
    assert parcels.parcels_of([hub, built_in]) == {}
    assert list(parcels.parcels_of([found])) == [str(cross_encoder)]


def test_what_nobody_used_for_long_goes_when_something_new_comes(
    tmp_path: Path, model: Path
) -> None:
    asked = asked_with(tmp_path, model)
    cache = Path(os.environ["RESCORE_CACHE"]) / "models"
    long_ago = time.time() - 31 * 24 * 3600
    for name in ("sent-old", ".sent-died", "built-in"):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (long_ago, long_ago))
    (cache / "sent-new").mkdir()
    assert admitted(asked, Worker()) is None
    [parcel] = asked.parcels.values()
    assert {p.name for p in cache.iterdir()} == {"built-in", "sent-new", f"sent-{parcel.digest}"}
