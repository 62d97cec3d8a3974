"""What is digested is what is loaded: hostile folders, links, files that change meanwhile."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.documents import Encoder
from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite, RuntimeFailure
from reranking.models.chain import read_chain
from reranking.models.files import read_model_files
from reranking.models.fingerprint import fingerprint_reranker
from reranking.models.resolve import resolve_model
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.scoring.encoder import SentenceEncoder
from tests.support.hostile import HOSTILE, chain, edit, pickled, trace_of

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(cross_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny cross-encoder that a test may spoil."""
    return Path(shutil.copytree(cross_encoder, tmp_path / "model"))


def hub_cache(folder: Path) -> Path:
    """The folder as the hub's cache keeps it: a snapshot of links to blobs."""
    home = folder.parent / "models--somebody--model"
    snapshot = home / "snapshots" / REVISION
    blobs = home / "blobs"
    blobs.mkdir(parents=True)
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        place = snapshot / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or not path.is_file():
            path.rename(place)
            continue
        blob = blobs / f"{len(list(blobs.iterdir())):040x}"
        path.rename(blob)
        place.symlink_to(os.path.relpath(blob, place.parent))
    return snapshot


@pytest.mark.parametrize("kept", ["folder", "hub cache"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_before_anything_is_loaded(
    name: str, kept: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HOSTILE[name](folder)
    model = str(folder)
    if kept == "hub cache":
        snapshot = hub_cache(folder)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
        model = "somebody/model"
    for find in (
        lambda: find_cross_encoder(Rerank(model_name=model)),
        lambda: SentenceEncoder(Encoder(model=model)),
    ):
        with pytest.raises((ConfigError, MissingPrerequisite)) as caught:
            find()
        assert "\n" not in str(caught.value)
    assert not trace_of(folder).exists()


def test_a_snapshot_of_the_hub_cache_scores_as_the_folder(folder: Path) -> None:
    model = find_cross_encoder(Rerank(model_name=str(folder), device="cpu"))
    expected = scores(model)
    snapshot = hub_cache(folder)
    found = find_cross_encoder(Rerank(model_name=str(snapshot), device="cpu"))
    assert found.fingerprint == model.fingerprint
    np.testing.assert_allclose(scores(found), expected, atol=1e-6)


def scores(model: Any) -> Any:
    zero = np.zeros(1, np.int64)
    return model.load().score(["river stone"], ["lamp garden"], zero, zero)


def test_the_loader_sees_the_digested_files_and_nothing_else(folder: Path) -> None:
    pickled(folder)
    pickled(folder, "vocab.bin")
    for name in ("README.md", "generation_config.json", "own.py"):
        (folder / name).write_text("{}")
    files = read_model_files(folder)
    with files.staged() as staged:
        names = {p.relative_to(staged).as_posix() for p in staged.rglob("*")}
        assert names == {"config.json", "model.safetensors"} | {
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert names <= set(files.files)
    assert not staged.exists()
    with files.staged(with_code=True) as staged:
        assert (staged / "own.py").exists()


def rewritten(path: Path) -> None:
    """Change one byte in place; size and time stay."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_weights_rewritten_in_place_are_another_model(folder: Path) -> None:
    first = find_cross_encoder(Rerank(model_name=str(folder))).fingerprint
    for _ in range(3):
        rewritten(folder / "model.safetensors")
        second = find_cross_encoder(Rerank(model_name=str(folder))).fingerprint
        assert second != first
        first = second


def test_weights_swapped_between_finding_and_loading_stop_the_run(folder: Path) -> None:
    model = find_cross_encoder(Rerank(model_name=str(folder), device="cpu"))
    encoder = SentenceEncoder(Encoder(model=str(folder), device="cpu"))
    rewritten(folder / "model.safetensors")
    with pytest.raises(RuntimeFailure, match="was changed while the model was being loaded"):
        model.load()
    with pytest.raises(RuntimeFailure, match="was changed while the model was being loaded"):
        encoder.encode_queries(["river"])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_texts_swapped_between_finding_and_loading_stop_the_run(folder: Path, name: str) -> None:
    files = read_model_files(folder)
    (folder / name).write_text((folder / name).read_text() + " ")
    with pytest.raises(RuntimeFailure, match=name), files.staged():
        pass


def test_weights_replaced_while_they_are_loaded_stop_the_run(folder: Path) -> None:
    files = read_model_files(folder)
    with pytest.raises(RuntimeFailure, match=r"model\.safetensors was changed"), files.staged():
        rewritten(folder / "model.safetensors")


def test_a_loaded_model_does_not_see_later_writes(folder: Path) -> None:
    scorer = find_cross_encoder(Rerank(model_name=str(folder), device="cpu")).load()
    zero = np.zeros(1, np.int64)
    pair = (["river stone"], ["lamp garden"], zero, zero)
    before = scorer.score(*pair)
    data = (folder / "model.safetensors").read_bytes()
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(len(data) // 4)
        file.write(bytes(len(data) // 2))
    assert np.array_equal(scorer.score(*pair), before)


def test_harmless_settings_pass_and_are_part_of_the_fingerprint(folder: Path) -> None:
    chain(folder, ("Transformer", ""))
    seen = set()
    for arguments in (
        {},
        {"model_args": {"add_pooling_layer": False}},
        {"model_kwargs": {"attn_implementation": "eager"}},
        {"tokenizer_args": {"truncation_side": "left"}},
        {"do_lower_case": True},
    ):
        (folder / "sentence_bert_config.json").unlink(missing_ok=True)
        edit(folder / "sentence_bert_config.json", **arguments)
        files = read_model_files(folder)
        assert read_chain(files)[0].kind == "Transformer"
        seen.add(fingerprint_reranker(files, max_length=8, dtype="float32"))
    assert len(seen) == 5


def test_a_broken_link_and_an_unreadable_json_say_which_file(folder: Path) -> None:
    (folder / "vocab.txt").symlink_to("nowhere")
    with pytest.raises(MissingPrerequisite, match=r"vocab\.txt leads nowhere"):
        read_model_files(folder)
    (folder / "vocab.txt").unlink()
    (folder / "modules.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"modules\.json is not valid JSON"):
        resolve_model(str(folder))


def test_code_of_another_repository_is_refused_even_if_trusted(folder: Path) -> None:
    auto_map = {"AutoModelForSequenceClassification": "somebody/else--modeling.Model"}
    for name in ("config.json", "tokenizer_config.json"):
        spoiled = Path(shutil.copytree(folder, folder.with_name(name)))
        edit(spoiled / name, auto_map=auto_map)
        with pytest.raises(ConfigError, match=f"{name} takes code from another repository"):
            resolve_model(str(spoiled), trust_remote_code=True)


def test_other_processes_load_the_same_digested_files(folder: Path) -> None:
    files = read_model_files(folder)
    again = pickle.loads(pickle.dumps(files))
    assert again == files
    rewritten(folder / "model.safetensors")
    with pytest.raises(RuntimeFailure, match="was changed"), again.staged():
        pass


class PanicException(BaseException):
    """As tokenizers raises for some broken files."""


@pytest.mark.usefixtures("empty_cache")
def test_a_panic_of_a_library_is_an_error_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object, **__: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", panic)
    with pytest.raises(MissingPrerequisite, match="could not be loaded .PanicException"):
        find_cross_encoder(Rerank(model_name=str(folder), device="cpu")).load()
    with pytest.raises(MissingPrerequisite, match="could not be loaded .PanicException"):
        SentenceEncoder(Encoder(model=str(folder), device="cpu")).encode_queries(["a"])
