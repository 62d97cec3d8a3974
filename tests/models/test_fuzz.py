"""Any JSON in a model's files is a model, or an error of ours that names the folder."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.documents import Encoder
from configs.schema import Rerank
from reranking.errors import RescoreError
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.scoring.encoder import SentenceEncoder
from tests.support import model_zoo

ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    10**400,
    float("inf"),
    float("nan"),
    "x",
    "",
    "../x",
    [],
    [1],
    ["x", None],
    {},
    {"0": 1},
    {"x": {"y": []}},
    "\ud800",
]
KEYS = [
    "id2label",
    "num_labels",
    "architectures",
    "max_position_embeddings",
    "pad_token_id",
    "model_type",
    "model_max_length",
    "max_seq_length",
    "auto_map",
    "sentence_transformers",
    "prompts",
    "tokenizer_args",
    "processor_kwargs",
    "model_args",
    "transformer_task",
    "dtype",
    "num_hidden_layers",
    "chat_template",
    "activation_fn",
    "fast_tokenizer_files",
    "quantization_config",
    "_attn_implementation",
    "types",
    "type",
    "path",
    "out_features",
    "module_output_name",
    "activation_function",
    "weight_map",
]


def spoiled(value: Any, chance: random.Random) -> Any:
    """The value with one odd part somewhere."""
    if isinstance(value, dict) and (value or chance.random() < 0.5) and chance.random() < 0.9:
        key = chance.choice([*value, *chance.sample(KEYS, 3)])
        inner = spoiled(value.get(key), chance) if chance.random() < 0.5 else chance.choice(ODD)
        return value | {key: inner}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], spoiled(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)


FINDERS: list[Callable[[str], object]] = [
    lambda name: find_cross_encoder(Rerank(model_name=name)),
    lambda name: find_cross_encoder(Rerank(model_name=name, label=1, prompt_name="web")),
    lambda name: find_cross_encoder(Rerank(model_name=name, max_length=20)),
    lambda name: SentenceEncoder(Encoder(model=name)),
]


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("build", [model_zoo.bert, model_zoo.logit_score, model_zoo.dense_chain])
def test_odd_values_in_a_models_files_are_errors_of_ours(
    build: Callable[[Path], Path], count: int, tmp_path: Path
) -> None:
    chance = random.Random(f"{build.__name__} {count}")
    original = build(tmp_path / "model")
    texts = [p for p in sorted(original.rglob("*.json")) if p.name != "tokenizer.json"]
    for number in range(count):
        folder = Path(shutil.copytree(original, tmp_path / "spoiled"))
        path = folder / chance.choice(texts).relative_to(original)
        value = spoiled(json.loads(path.read_text()), chance)
        path.write_text(json.dumps(value))
        for find in FINDERS:
            try:
                find(str(folder))
            except RescoreError:
                continue
            except Exception as error:
                pytest.fail(f"{number}: {path.name} with {value!r}: {type(error).__name__} {error}")
        shutil.rmtree(folder)


def test_odd_bytes_in_weights_are_errors_of_ours(tmp_path: Path) -> None:
    chance = random.Random(5)
    folder = model_zoo.bert(tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    for _ in range(60):
        spoiled_data = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            spoiled_data[chance.randrange(8 + length)] = chance.randrange(256)
        (folder / "model.safetensors").write_bytes(spoiled_data[: chance.randrange(len(data))])
        with pytest.raises(RescoreError):
            find_cross_encoder(Rerank(model_name=str(folder)))
