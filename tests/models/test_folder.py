"""Names become folders, folders say what they are, fingerprints move only when scores may."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.chain import read_chain
from reranking.models.files import read_model_files
from reranking.models.fingerprint import fingerprint_encoder, fingerprint_reranker
from reranking.models.folder import model_activation, resolve_max_length
from reranking.models.reranker import ScoreSource, score_source
from reranking.models.resolve import resolve_model
from tests.support.model_zoo import FAMILIES, LIMIT, roberta

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


@pytest.fixture
def folder(cross_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cross_encoder, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    """Set keys of a JSON object; None removes one."""
    value = json.loads(path.read_text()) | changes
    gone = {k for k, v in changes.items() if v is None}
    path.write_text(json.dumps({k: v for k, v in value.items() if k not in gone}))


def stock(folder: Path, **settings: Any) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu", local_files_only=True, **settings)


def test_a_folder_is_found_from_the_config(folder: Path, tmp_path: Path) -> None:
    found = resolve_model("model", base_dir=tmp_path)
    assert (found.name, found.path, found.revision) == ("model", folder, None)
    assert resolve_model(str(folder), base_dir=Path("/elsewhere")).path == folder


def test_what_cannot_be_found_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingPrerequisite, match="does not exist"):
        resolve_model("./missing", base_dir=tmp_path)
    with pytest.raises(MissingPrerequisite, match="HF_HUB_OFFLINE forbids to download it"):
        resolve_model("somebody/some-reranker", base_dir=tmp_path)
    with pytest.raises(MissingPrerequisite, match="config.json is a file; give the folder"):
        resolve_model("model/config.json", base_dir=tmp_path)
    with pytest.raises(ConfigError, match="no revisions"):
        resolve_model("model", base_dir=tmp_path, revision="main")
    with pytest.raises(ConfigError, match="no revisions"):
        resolve_model("builtin:minilm-reranker", revision="main")
    with pytest.raises(ConfigError, match="known are builtin:all-MiniLM-L6-v2 and"):
        resolve_model("builtin:other")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(MissingPrerequisite, match=r"no model\.safetensors.*pytorch_model.bin"):
        resolve_model("model", base_dir=tmp_path)


def test_a_hub_that_does_not_answer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(name: str, **settings: Any) -> str:
        raise OSError("401 Client Error")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(MissingPrerequisite, match="did not give it .OSError: 401 Client Error"):
        resolve_model("somebody/some-reranker")


def test_a_hub_model_brings_its_commit_and_no_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = {}
    commit = folder.rename(folder.with_name("0123abcd"))

    def download(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        return str(commit)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = resolve_model("somebody/some-reranker", revision="v2")
    assert (found.path, found.revision) == (commit, "0123abcd")
    assert (asked["name"], asked["revision"]) == ("somebody/some-reranker", "v2")
    patterns = " ".join(asked["allow_patterns"])
    assert not any(kind in patterns for kind in (".bin", ".pt", ".pkl", ".py", ".ckpt"))
    resolve_model("somebody/some-reranker", trust_remote_code=True)
    assert "*.py" in asked["allow_patterns"]


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta"])
@pytest.mark.parametrize("declared", [24, 100_000, None])
def test_max_length_is_that_of_the_stock_model(
    tmp_path: Path, family: str, declared: int | None
) -> None:
    folder = FAMILIES[family](tmp_path / "model")
    edit(folder / "tokenizer_config.json", model_max_length=declared)
    assert resolve_max_length(folder, None) == stock(folder).max_seq_length


def test_max_length_of_a_saved_sentence_transformers_folder(folder: Path, tmp_path: Path) -> None:
    model = stock(folder, max_length=20)
    model.save_pretrained(str(tmp_path / "saved"))
    assert resolve_max_length(tmp_path / "saved", None) == 20
    edit(tmp_path / "saved" / "sentence_bert_config.json", max_seq_length=30)
    assert resolve_max_length(tmp_path / "saved", None) == 30
    assert stock(tmp_path / "saved").max_seq_length == 30


def test_max_length_of_roberta_leaves_out_the_positions_that_fail(tmp_path: Path) -> None:
    folder = roberta(tmp_path / "model")
    assert resolve_max_length(folder, None) == stock(folder).max_seq_length == LIMIT
    edit(folder / "tokenizer_config.json", model_max_length=None)
    assert stock(folder).max_seq_length == LIMIT + 2
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        stock(folder).predict([("river " * 50, "stone " * 50)])
    assert resolve_max_length(folder, None) == LIMIT


def test_an_explicit_max_length_must_be_possible(folder: Path, tmp_path: Path) -> None:
    assert resolve_max_length(folder, 64) == 64
    with pytest.raises(ConfigError, match="positions for 64 tokens"):
        resolve_max_length(folder, 65)
    with pytest.raises(ConfigError, match="at least 8"):
        resolve_max_length(folder, 7)
    # Relative positions have no table to run out of.
    assert resolve_max_length(FAMILIES["deberta"](tmp_path / "deberta"), 512) == 512
    edit(folder / "tokenizer_config.json", model_max_length=None)
    edit(folder / "config.json", max_position_embeddings=-1)
    with pytest.raises(ConfigError, match="no token limit"):
        resolve_max_length(folder, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sentence_transformers": None}, "sigmoid"),
        ({}, "identity"),
        (
            {
                "sentence_transformers": None,
                "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
            },
            "identity",
        ),
    ],
)
def test_the_activation_is_that_of_the_stock_model(
    folder: Path, changes: dict[str, object], expected: str
) -> None:
    edit(folder / "config.json", **changes)
    assert model_activation(folder) == expected
    assert type(stock(folder).activation_fn).__name__.lower() == expected


def test_the_activation_of_a_saved_sentence_transformers_folder(
    folder: Path, tmp_path: Path
) -> None:
    stock(folder).save_pretrained(str(tmp_path / "saved"))
    assert model_activation(tmp_path / "saved") == "identity"


def test_an_unknown_activation_must_be_set(folder: Path) -> None:
    edit(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.Tanh"})
    with pytest.raises(ConfigError, match=r"torch.nn.Tanh.*set rerank.activation"):
        model_activation(folder)


def test_only_classifiers_and_language_models_are_rerankers(folder: Path) -> None:
    assert score(folder).labels == ("LABEL_0",)
    edit(folder / "config.json", id2label={"0": "no", "1": "yes"})
    with pytest.raises(ConfigError, match="2 labels"):
        score(folder)
    edit(folder / "config.json", id2label=None, num_labels=None)
    with pytest.raises(ConfigError, match="2 labels"):  # transformers' default
        score(folder)
    edit(folder / "config.json", architectures=["BertModel"])
    with pytest.raises(ConfigError, match="names BertModel"):
        score(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        score(folder)
    (folder / "config.json").unlink()
    with pytest.raises(MissingPrerequisite, match=r"no config.json"):
        score(folder)


def score(folder: Path) -> ScoreSource:
    files = read_model_files(folder)
    return score_source(files, read_chain(files), Rerank(model_name="m"))


def fingerprint(folder: Path, **changes: Any) -> bytes:
    settings = {"max_length": 48, "dtype": "float32"} | changes
    return fingerprint_reranker(folder, **settings)


def test_a_fingerprint_ignores_what_leaves_scores_alone(folder: Path, tmp_path: Path) -> None:
    before = fingerprint(folder)
    assert len(before) == 16
    edit(folder / "config.json", sentence_transformers=None, transformers_version="9", dtype=None)
    edit(folder / "tokenizer_config.json", model_max_length=None)
    (folder / "README.md").write_text("about")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"0")
    os.utime(folder / "model.safetensors", (1, 1))
    assert fingerprint(folder) == before
    assert fingerprint(folder.rename(tmp_path / "elsewhere")) == before


@pytest.mark.parametrize(
    "change",
    [{"max_length": 47}, {"dtype": "bfloat16"}, {"prompt": "p"}, {"revision": "0123"}],
)
def test_a_fingerprint_knows_its_settings(folder: Path, change: dict[str, object]) -> None:
    assert fingerprint(folder, **change) != fingerprint(folder)
    settings = {"max_length": 48, "dtype": "float32"}
    assert fingerprint_encoder(folder, **settings) != fingerprint(folder)
    assert fingerprint_encoder(folder, **settings | change) != fingerprint_encoder(
        folder, **settings
    )


def test_a_folder_edited_in_place_is_another_model(folder: Path) -> None:
    seen = {fingerprint(folder)}

    def is_new() -> bool:
        before = len(seen)
        seen.add(fingerprint(folder))
        return len(seen) > before

    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert is_new()
    edit(folder / "config.json", hidden_act="relu")
    assert is_new()
    edit(folder / "tokenizer_config.json", truncation_side="left")
    assert is_new()
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert is_new()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert is_new()


def test_names_and_fingerprints_need_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from reranking.models.fingerprint import fingerprint_reranker as f;"
        "from reranking.models.folder import model_activation;"
        "from reranking.models.resolve import resolve_model;"
        "from reranking.models.reranker import score_source; from configs.schema import Rerank;"
        "m = resolve_model(sys.argv[1]); p = m.path; model_activation(p);"
        "score_source(m.files, m.chain, Rerank(model_name='m'));"
        "f(p, max_length=8, dtype='float32'); import reranking.scoring.scorer as s;"
        "s.resolve_dtype('auto', 'cpu'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
