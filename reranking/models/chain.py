"""The chain of modules that makes a model, checked before anything of it is loaded.

sentence-transformers hands a module's settings on to transformers, and imports the classes that
`modules.json` names. So both are compared with lists of what is known to be harmless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.files import ModelFiles
from reranking.models.weights import check_sizes

# The classes of sentence-transformers that may stand in a chain, and the file each lives in.
_CLASSES = {
    "Transformer": "transformer",
    "Pooling": "pooling",
    "Dense": "dense",
    "Normalize": "normalize",
    "LayerNorm": "layer_norm",
    "Dropout": "dropout",
    "WeightedLayerPooling": "weighted_layer_pooling",
    "LogitScore": "logit_score",
    "StaticEmbedding": "static_embedding",
    "Router": "router",
    "Asym": "asym",
}
_HOMES = ("models", "sentence_transformer.modules", "base.modules", "cross_encoder.modules")
_KINDS = {
    f"sentence_transformers.{home}.{middle}{name}": name
    for home in _HOMES
    for name, file in _CLASSES.items()
    for middle in ("", f"{file}.", f"{name}.")
}
_WITH_WEIGHTS = {"Transformer", "Dense", "LayerNorm", "WeightedLayerPooling", "StaticEmbedding"}
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)

# What a Transformer module may set. None: any value; the value is part of the fingerprint.
_ATTENTION = ("eager", "sdpa")
_DTYPES = ("float32", "float16", "bfloat16", "auto", None)
_MODEL_SETTINGS: dict[str, tuple[object, ...] | None] = {
    "attn_implementation": _ATTENTION,
    "dtype": _DTYPES,
    "torch_dtype": _DTYPES,
    "add_pooling_layer": (True, False),
    "trust_remote_code": (True, False),  # dropped by sentence-transformers
    "use_safetensors": (True,),
}
_PROCESSOR_SETTINGS: dict[str, tuple[object, ...] | None] = {
    name: None
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "add_eos_token",
        "add_bos_token",
        "add_prefix_space",
        "do_lower_case",
        "use_fast",
        "clean_up_tokenization_spaces",
        "trust_remote_code",
    )
}
_CONFIG_SETTINGS: dict[str, tuple[object, ...] | None] = {
    name: None
    for name in (
        "is_causal",
        "use_bidirectional_attention",
        "use_cache",
        "num_labels",
        "add_pooling_layer",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "trust_remote_code",
    )
}
_GROUPS = {
    "model_args": _MODEL_SETTINGS,
    "model_kwargs": _MODEL_SETTINGS,
    "tokenizer_args": _PROCESSOR_SETTINGS,
    "processor_kwargs": _PROCESSOR_SETTINGS,
    "config_args": _CONFIG_SETTINGS,
    "config_kwargs": _CONFIG_SETTINGS,
}
_TASKS = ("feature-extraction", "sequence-classification", "text-generation", None)
_TRANSFORMER_SETTINGS: dict[str, tuple[object, ...] | None] = {
    "max_seq_length": None,
    "do_lower_case": None,
    "transformer_task": _TASKS,
    "modality_config": None,
    "module_output_name": None,
    "processing_kwargs": None,
    "unpad_inputs": None,
    "query_length": None,
    "document_length": None,
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
_ACTIVATION = re.compile(r"torch\.nn\.(modules\.(activation|linear)\.)?[A-Z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Module:
    """One module: its class in sentence-transformers and its folder within the model's."""

    kind: str
    path: str

    def file(self, name: str) -> str:
        """The path, within the model's folder, of a file of this module."""
        return (PurePosixPath(self.path) / name).as_posix()


def read_chain(files: ModelFiles, trust_remote_code: bool = False) -> tuple[Module, ...]:
    """The model's modules, those of a Router included; one Transformer if it has no modules.json.

    Raises ConfigError for a class or a setting that is not known, and MissingPrerequisite for a
    module whose weights are not there.
    """
    code = None if trust_remote_code else _code_needed(files)
    if code is not None:
        raise ConfigError(
            f"{files.folder} brings code of its own ({code}), and that is not run. If you have "
            "read it and trust it, set trust_remote_code: true; the run then records it"
        )
    if trust_remote_code:
        _need_code_here(files)
    chain = tuple(_modules(files, trust_remote_code))
    for module in chain:
        _check(files, module)
    return chain


def _modules(files: ModelFiles, trusted: bool) -> Iterable[Module]:
    listed = files.json("modules.json")
    if listed is None:
        yield Module("Transformer", "")
        return
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"{files.folder / 'modules.json'} holds no list of modules")
    for entry in listed:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise ConfigError(
                f"{files.folder / 'modules.json'}: expected modules with a type and a path"
            )
        yield from _module(files, str(entry.get("type")), entry["path"], trusted)


def _module(files: ModelFiles, type_: str, path: str, trusted: bool) -> Iterable[Module]:
    kind = _KINDS.get(type_)
    if kind is None and not trusted:
        raise ConfigError(
            f"{files.folder} has a module of type {type_!r}, known are "
            f"{', '.join(sorted(_CLASSES))} of sentence-transformers"
        )
    module = Module(kind or "custom", _inside(files, path))
    yield module
    if kind in ("Router", "Asym"):
        config = files.object(module.file("router_config.json"))
        types = (config or files.object(module.file("config.json"))).get("types")
        if not isinstance(types, dict):
            raise ConfigError(f"{files.folder / path} is a Router that lists no `types`")
        for name, inner in types.items():
            yield from _module(files, str(inner), module.file(str(name)), trusted)


def _inside(files: ModelFiles, path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or ":" in path:
        raise ConfigError(f"{files.folder}: the module folder {path!r} is not inside the model's")
    if parts and (parts[0].startswith(".") or parts[0] in ("onnx", "openvino")):
        raise ConfigError(
            f"{files.folder}: the module folder {path!r} is not read, because hidden folders and "
            "those of other formats are not; rename it, here and in modules.json"
        )
    if parts and (files.folder / path).is_symlink():
        raise ConfigError(
            f"{files.folder}: the module folder {path!r} is a link; copy the folder here"
        )
    return PurePosixPath(*parts).as_posix() if parts else ""


# Modules that are nothing without their settings.
_WITH_SETTINGS = {"Pooling", "Dense", "LayerNorm", "LogitScore", "WeightedLayerPooling"}
_VOCABULARY = re.compile(r"tokenizer\.json|vocab\..*|bpe\.codes|.*\.model")
_BYTES = {"CanineTokenizer", "ByT5Tokenizer", "PerceiverTokenizer"}  # have no vocabulary


def _check(files: ModelFiles, module: Module) -> None:
    if module.kind in _WITH_SETTINGS and module.file("config.json") not in files:
        raise MissingPrerequisite(
            f"{files.folder / module.path} has no config.json, which says what this {module.kind} "
            "does; the folder is incomplete: download or save the model again"
        )
    if module.kind in _WITH_WEIGHTS:
        shards = weight_files(files, module)
        if module.kind == "Transformer":
            _check_transformer(files, module, shards)
    if module.kind == "Dense":
        config = files.object(module.file("config.json"))
        name = config.get("activation_function", "torch.nn.Tanh")
        if not isinstance(name, str) or not _ACTIVATION.fullmatch(name):
            raise ConfigError(
                f"{files.folder / module.file('config.json')} names the activation {name!r}; "
                "known are the classes of torch.nn"
            )


def weight_files(files: ModelFiles, module: Module) -> tuple[str, ...]:
    """The safetensors files of a module: model.safetensors, or what its index names.

    Raises MissingPrerequisite if there are none, ConfigError if the index names other files.
    """
    whole, index = module.file("model.safetensors"), module.file("model.safetensors.index.json")
    if whole in files:
        return (whole,)
    if index in files and module.kind == "Transformer":
        named = files.object(index).get("weight_map")
        shards = {str(n) for n in named.values()} if isinstance(named, dict) else set()
        bad = [
            n
            for n in shards
            if "/" in n or not n.endswith(".safetensors") or module.file(n) not in files
        ]
        if bad or not shards:
            raise ConfigError(
                f"{files.folder / index} names weights that are no safetensors file beside it: "
                f"{', '.join(sorted(map(repr, bad))[:4]) or 'none'}; restore the model folder"
            )
        return tuple(sorted(module.file(n) for n in shards))
    raise MissingPrerequisite(_no_weights(files.folder / module.path))


_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")


def _no_weights(place: Path) -> str:
    """What to say of a module's folder without safetensors."""
    found = sorted(p.name + "/" * p.is_dir() for p in place.iterdir()) if place.is_dir() else []
    said = f"{place} has no model.safetensors; it holds {', '.join(found[:12]) or 'nothing'}"
    if any(name.endswith(_OTHER_WEIGHTS) for name in found):
        return (
            f"{said}. Other weight formats may run code when opened and are not read: convert the "
            "model with save_pretrained(..., safe_serialization=True), which writes "
            "model.safetensors"
        )
    if any(name.endswith((".gguf", ".onnx", "onnx/", "openvino/")) for name in found):
        return f"{said}. Converted weights are not read: give the folder of the original model"
    if any(name.endswith(".safetensors") for name in found):
        return (
            f"{said}. Call the weights model.safetensors; of several parts, restore "
            "model.safetensors.index.json"
        )
    return f"{said}. The folder is incomplete: download or save the model again"


def transformer_settings(files: ModelFiles, module: Module) -> dict[str, Any]:
    """The settings of a Transformer module in its sentence_*_config.json."""
    return next((c for n in TRANSFORMER_CONFIGS if (c := files.object(module.file(n)))), {})


def _check_transformer(files: ModelFiles, module: Module, shards: tuple[str, ...]) -> None:
    where = files.folder / module.path
    for name in TRANSFORMER_CONFIGS:
        settings = files.object(module.file(name))
        groups = {k: v for k, v in settings.items() if k in _GROUPS}
        rest = {k: v for k, v in settings.items() if k not in _GROUPS}
        _check_settings(where / name, rest, _TRANSFORMER_SETTINGS)
        for group, values in groups.items():
            if not isinstance(values, dict):
                raise ConfigError(f"{where / name}: {group} is no object")
            _check_settings(where / name, values, _GROUPS[group], f"{group}.")
    config = files.object(module.file("config.json"))
    _check_config(where / "config.json", config)
    tokenizer = files.object(module.file("tokenizer_config.json"))
    versions = tokenizer.get("fast_tokenizer_files") or ["tokenizer.json"]
    if versions != ["tokenizer.json"]:
        raise ConfigError(
            f"{where / 'tokenizer_config.json'} names several tokenizer files; "
            "keep tokenizer.json and remove fast_tokenizer_files"
        )
    classes = {str(tokenizer.get("tokenizer_class")).removesuffix("Fast")}
    names = {n.rpartition("/")[2] for n in files.files if n.rpartition("/")[0] == module.path}
    if config and not any(map(_VOCABULARY.fullmatch, names)) and not classes & _BYTES:
        raise MissingPrerequisite(
            f"{where} has no tokenizer: expected tokenizer.json, or a vocabulary such as "
            "vocab.txt; download or save the model again with its tokenizer"
        )
    if config:
        check_sizes(where / "config.json", config, [files.files[s].path for s in shards])


def _check_settings(
    where: object,
    values: Mapping[str, Any],
    known: Mapping[str, tuple[object, ...] | None],
    prefix: str = "",
) -> None:
    for name, value in values.items():
        allowed = known.get(name, ())
        if allowed is not None and value not in allowed:
            only = f", allowed are {', '.join(map(repr, allowed))}" if allowed else ""
            raise ConfigError(
                f"{where} sets {prefix}{name}, which is not known to be harmless{only}; "
                "remove it if the model does without"
            )


def _check_config(where: object, config: Mapping[str, Any]) -> None:
    for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        if config.get(name) not in (None, *_ATTENTION, "flash_attention_2", "flex_attention"):
            raise ConfigError(f"{where} sets {name}: {config[name]!r}; remove it, or set sdpa")
    if config.get("transformers_weights") is not None:
        raise ConfigError(
            f"{where} names its weights by transformers_weights; call them model.safetensors"
        )
    if config.get("quantization_config") is not None:
        raise ConfigError(
            f"{where} says that the weights are quantized, which is not read; "
            "give the folder of the original model"
        )


def _need_code_here(files: ModelFiles) -> None:
    """Raise ConfigError for code in another repository: trusted or not, nothing digests it."""
    for name in ("config.json", "tokenizer_config.json"):
        mapped = files.object(name).get("auto_map")
        if "--" in json.dumps(mapped):
            raise ConfigError(
                f"{files.folder / name} takes code from another repository (auto_map: "
                f"{json.dumps(mapped)[:120]}); copy its Python files into the folder and remove "
                "everything before -- from the names"
            )


def _code_needed(files: ModelFiles) -> str | None:
    """What of the folder's own code loading it would run, or None."""
    listed = files.json("modules.json")
    for module in listed if isinstance(listed, list) else []:
        kind = str(module.get("type")) if isinstance(module, dict) else ""
        if kind and not kind.startswith("sentence_transformers."):
            return kind
    config = files.object("config.json")
    if not config.get("auto_map"):
        return None
    # transformers prefers its own code where it knows the type
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    known = config.get("model_type") in CONFIG_MAPPING_NAMES
    return None if known else f"config.json: auto_map of {config.get('model_type')!r}"
