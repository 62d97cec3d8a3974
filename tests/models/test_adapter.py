"""LoRA folders: merged into their base at load, scored as the merged model is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite, RuntimeFailure
from reranking.scoring.crossencoder import find_cross_encoder
from tests.support import model_zoo
from tests.support.hostile import edit, pickled
from tests.support.tiny import tiny_cross_encoder

torch = pytest.importorskip("torch")

QUERIES, DOCUMENTS = ["river stone", "lamp"], ["winter garden", "", "paper signal " * 20]
Q, D = np.repeat(np.arange(2), 3), np.tile(np.arange(3), 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `adapter` (rank 4, with a head) and `merged`, which adds the change by hand."""
    folder = tmp_path_factory.mktemp("lora")
    model_zoo.lora(folder / "adapter")
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "site"))


def find(folder: Path) -> Any:
    return find_cross_encoder(Rerank(model_name=str(folder), device="cpu"))


def predicted(folder: Path) -> Any:
    from sentence_transformers import CrossEncoder

    pairs = [(QUERIES[q], DOCUMENTS[d]) for q, d in zip(Q, D, strict=True)]
    model = CrossEncoder(str(folder), device="cpu")
    return model.predict(pairs, activation_fn=torch.nn.Identity())


def scores(folder: Path) -> Any:
    return find(folder).load().score(QUERIES, DOCUMENTS, Q, D)


def test_an_adapter_scores_as_the_merged_model(site: Path) -> None:
    expected = predicted(site / "merged")
    assert abs(expected - predicted(site / "base")).max() > 0.1
    np.testing.assert_allclose(scores(site / "adapter"), expected, atol=1e-4)


def test_the_fingerprint_covers_adapter_and_base(site: Path) -> None:
    seen = {find(site / "adapter").fingerprint, find(site / "base").fingerprint}
    edit(site / "adapter" / "adapter_config.json", lora_alpha=8)
    seen.add(find(site / "adapter").fingerprint)
    weights = bytearray((site / "base" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (site / "base" / "model.safetensors").write_bytes(weights)
    seen.add(find(site / "adapter").fingerprint)
    weights = bytearray((site / "adapter" / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (site / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    last = find(site / "adapter").fingerprint
    assert len(seen | {last}) == 5
    (site / "base").rename(site / "elsewhere")
    edit(site / "adapter" / "adapter_config.json", base_model_name_or_path="../elsewhere")
    assert find(site / "adapter").fingerprint == last


@pytest.mark.parametrize("part", ["base/model", "adapter/adapter_model"])
def test_a_part_that_changes_before_the_loading_stops_the_run(site: Path, part: str) -> None:
    model = find(site / "adapter")
    weights = bytearray((site / f"{part}.safetensors").read_bytes())
    weights[-1] ^= 1
    (site / f"{part}.safetensors").write_bytes(weights)
    with pytest.raises(RuntimeFailure, match="was changed while"):
        model.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "adapter of type 'IA3', LORA is read; merge it"),
        ({"use_dora": True}, "sets use_dora: True, which is not read; merge"),
        ({"bias": "all"}, "sets bias: 'all', which is not read; merge"),
        ({"base_model_name_or_path": None}, "names no base model; set base_model_name_or_path"),
    ],
)
def test_another_kind_of_adapter_is_refused(
    site: Path, change: dict[str, Any], message: str
) -> None:
    edit(site / "adapter" / "adapter_config.json", **change)
    with pytest.raises(ConfigError, match=message):
        find(site / "adapter")


def test_an_incomplete_adapter_says_what_is_missing(site: Path) -> None:
    edit(site / "adapter" / "adapter_config.json", base_model_name_or_path="./gone")
    with pytest.raises(MissingPrerequisite, match=r"gone does not exist"):
        find(site / "adapter")
    (site / "adapter" / "adapter_model.safetensors").unlink()
    pickled(site / "adapter", "adapter_model.bin")
    with pytest.raises(MissingPrerequisite, match=r"has no adapter_model\.safetensors; save"):
        find(site / "adapter")
    shutil.copy(site / "base" / "model.safetensors", site / "adapter")
    with pytest.raises(ConfigError, match="holds a whole model and an adapter"):
        find(site / "adapter")


def test_an_adapter_of_another_model_is_refused(site: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = site / "adapter" / "adapter_model.safetensors"
    renamed = {k.replace("layer.1", "layer.9"): v for k, v in load_file(path).items()}
    save_file(renamed, path)
    with pytest.raises(ConfigError, match=r"layer\.9.* which its base model has not"):
        find(site / "adapter").load()


def test_a_language_model_becomes_a_classifier_by_its_adapter(tmp_path: Path) -> None:
    """As rerankers are trained from decoders: the head is in the adapter alone."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    base = model_zoo.causal(tmp_path / "base")
    config = Qwen3Config.from_pretrained(base, num_labels=1)
    torch.manual_seed(4)
    merged = Qwen3ForSequenceClassification(config)
    trunk = {
        k: v for k, v in load_file(base / "model.safetensors").items() if k != "lm_head.weight"
    }
    merged.load_state_dict(trunk, strict=False)
    name = "model.layers.1.mlp.up_proj"
    weight = merged.get_submodule(name).weight
    up, down = torch.randn(weight.shape[0], 2), torch.randn(2, weight.shape[1])
    weight.data += 4 / 2**0.5 * up @ down
    merged.eval().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "merged")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(
        {
            f"base_model.model.{name}.lora_A.weight": down.contiguous(),
            f"base_model.model.{name}.lora_B.weight": up.contiguous(),
            "base_model.model.score.modules_to_save.default.weight": merged.score.weight.data,
        },
        adapter / "adapter_model.safetensors",
    )
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "lora_alpha": 4, "use_rslora": True}
    edit(adapter / "adapter_config.json", **settings, base_model_name_or_path=str(base))
    np.testing.assert_allclose(scores(adapter), predicted(tmp_path / "merged"), atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_of_peft_scores_as_peft_does(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="compares with peft where it is installed")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = tiny_cross_encoder(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base)
    lora = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        lora_alpha=12,
        target_modules=["query", "dense"],
        rank_pattern={"query": 2},
        alpha_pattern={"query": 6},
        init_lora_weights=False,
    )
    changed = peft.get_peft_model(model, lora).eval()
    changed.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
    left, right = [QUERIES[q] for q in Q], [DOCUMENTS[d] for d in D]
    tokens = AutoTokenizer.from_pretrained(base)(
        left, right, padding=True, truncation="longest_first", return_tensors="pt"
    )
    with torch.inference_mode():
        expected = changed(**tokens).logits[:, 0].numpy()
    np.testing.assert_allclose(scores(tmp_path / "adapter"), expected, atol=1e-4)
