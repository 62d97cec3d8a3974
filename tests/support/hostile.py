"""Model folders as a stranger may hand them over: each function spoils a good one in one way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def trace_of(folder: Path) -> Path:
    """What a bomb in the folder leaves behind."""
    return folder.parent / "was_run"


def pickled(folder: Path, name: str = "pytorch_model.bin") -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb(trace_of(folder))))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def chain(folder: Path, *modules: tuple[str, str]) -> None:
    """Write modules.json with (type, path) of sentence-transformers' modules."""
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))


def unpickling_settings(folder: Path) -> None:
    pickled(folder)
    chain(folder, ("Transformer", ""))
    arguments = {"weights_only": False, "use_safetensors": False}
    edit(folder / "sentence_bert_config.json", model_args=arguments)


def unpickling_settings_by_their_new_name(folder: Path) -> None:
    unpickling_settings(folder)
    edit(folder / "sentence_bert_config.json", model_args={}, model_kwargs={"gguf_file": "x.gguf"})


def unpickling_router(folder: Path) -> None:
    unpickling_settings(folder)
    inner = folder / "query_0_Transformer"
    shutil.copytree(folder, inner, ignore=shutil.ignore_patterns("query*", "modules.json"))
    router = {"types": {"query_0_Transformer": "sentence_transformers.models.Transformer"}}
    chain(folder, ("Router", ""))
    (folder / "sentence_bert_config.json").unlink()
    edit(folder / "router_config.json", **router, structure={"query": ["query_0_Transformer"]})


def router_with_a_class_of_its_own(folder: Path) -> None:
    chain(folder, ("Router", ""))
    edit(folder / "router_config.json", types={"0": "os.system"}, structure={"query": ["0"]})


def other_class_of_sentence_transformers(folder: Path) -> None:
    chain(folder, ("WordEmbeddings", ""))


def pickle_in_the_index(folder: Path) -> None:
    pickled(folder, "vocab.bin")
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    index = {"metadata": {}, "weight_map": {"bert.pooler.dense.bias": "vocab.bin"}}
    edit(folder / "model.safetensors.index.json", **index)


def index_out_of_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../elsewhere.safetensors"}}
    edit(folder / "model.safetensors.index.json", **index)


def decoy(folder: Path) -> None:
    pickled(folder)
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")


def weights_link_out_of_the_folder(folder: Path) -> None:
    target = (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(target)


def _with_dense(folder: Path, path: str) -> Path:
    place = folder / path
    place.mkdir()
    edit(place / "config.json", in_features=32, out_features=32, bias=True)
    chain(folder, ("Transformer", ""), ("Dense", path))
    return place


def module_called_onnx(folder: Path) -> None:
    _with_dense(folder, "onnx")


def hidden_module(folder: Path) -> None:
    _with_dense(folder, ".dense")


def linked_module(folder: Path) -> None:
    place = _with_dense(folder, "2_Dense")
    place.rename(folder.parent / "away")
    place.symlink_to(folder.parent / "away")


def module_outside(folder: Path) -> None:
    chain(folder, ("Transformer", ""), ("Dense", "../away"))


def pickled_dense(folder: Path) -> None:
    pickled(_with_dense(folder, "2_Dense"))


def dense_with_another_activation(folder: Path) -> None:
    place = _with_dense(folder, "2_Dense")
    shutil.copy(folder / "model.safetensors", place)
    edit(place / "config.json", activation_function="torch.hub.load")


def weights_are_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def vocabulary_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "vocab.txt")


def config_is_a_device(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to("/dev/zero")


def a_million_layers(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=1_000_000)


def less_than_no_layers(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=-3)


def very_wide(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=10**9)


def very_long(folder: Path) -> None:
    edit(folder / "config.json", max_position_embeddings=10**12)


def quantized(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "torchao"})


def kernel_of_a_stranger(folder: Path) -> None:
    edit(folder / "config.json", _attn_implementation="somebody/kernel")


def truncated_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])


HOSTILE: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        unpickling_settings,
        unpickling_settings_by_their_new_name,
        unpickling_router,
        router_with_a_class_of_its_own,
        other_class_of_sentence_transformers,
        pickle_in_the_index,
        index_out_of_the_folder,
        decoy,
        weights_link_out_of_the_folder,
        module_called_onnx,
        hidden_module,
        linked_module,
        module_outside,
        pickled_dense,
        dense_with_another_activation,
        weights_are_a_pipe,
        vocabulary_is_a_pipe,
        config_is_a_device,
        a_million_layers,
        less_than_no_layers,
        very_wide,
        very_long,
        quantized,
        kernel_of_a_stranger,
        truncated_weights,
    )
}
