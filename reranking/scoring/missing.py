"""Weights that a model's files lack: transformers makes up random ones, warns and goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reranking.errors import ConfigError
from reranking.models.files import ModelFiles

_HEADS = ("classifier", "score", "head", "lm_head")
_WRAPPING = threading.Lock()


@contextmanager
def complete_weights(files: ModelFiles) -> Iterator[None]:
    """Raise ConfigError if a transformers model that is loaded within lacks weights of `files`.

    Asked is the report that from_pretrained gives of each loading (output_loading_info), which its
    callers in sentence-transformers do not ask for.
    """
    from transformers import PreTrainedModel

    thread, missing = threading.get_ident(), set[str]()
    with _WRAPPING:
        stock = PreTrainedModel.__dict__["from_pretrained"]

        def from_pretrained(cls: Any, *arguments: Any, **settings: Any) -> Any:
            load = stock.__func__
            if settings.get("output_loading_info") or threading.get_ident() != thread:
                return load(cls, *arguments, **settings)
            model, report = load(cls, *arguments, output_loading_info=True, **settings)
            missing.update(_needed(model, report["missing_keys"]))
            return model

        PreTrainedModel.from_pretrained = classmethod(from_pretrained)
        try:
            yield
        finally:
            PreTrainedModel.from_pretrained = stock
    if missing:
        raise ConfigError(_lacking(files, sorted(missing)))


def _needed(model: Any, names: Any) -> set[str]:
    """Those of the names that decide what the model gives."""
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    # A bare trunk's pooler is left aside by the modules that pool its tokens.
    return {name for name in names if classifies or not name.startswith("pooler.")}


def _lacking(files: ModelFiles, names: list[str]) -> str:
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    if all(name.split(".")[0] in _HEADS for name in names):
        why = "the model was never trained as a reranker, or its files are incomplete"
    else:
        why = "its files are incomplete, or of another model than config.json says; restore them"
    return f"{files.folder} has no weights for {shown}: {why}"
