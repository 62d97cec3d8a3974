"""What the oracles try of each family of rerankers, and how each is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import model_zoo

Build = Callable[[Path], Path]
YES_NO = {"positive": "yes", "negative": "no"}


class Family(NamedTuple):
    """One way to have a model: how it is made, and what is said to whom so that it scores."""

    build: Build
    settings: Mapping[str, Any] = {}  # keys of `rerank`
    predict: Mapping[str, Any] = {}  # arguments of CrossEncoder.predict
    column: int | None = None  # which of predict's columns
    stock: Mapping[str, Any] = {}  # arguments of LanceDB's class that say the same
    merged: bool = False  # the stock classes are given the merged model beside the adapter

    def stock_folder(self, folder: Path) -> Path:
        """The folder that the stock classes load."""
        return folder.with_name("merged") if self.merged else folder


def _said(prompt: str) -> dict[str, Any]:
    return {"prompts": {"said": prompt}, "default_prompt_name": "said"}


FAMILIES: dict[str, Family] = {
    **{name: Family(build) for name, build in model_zoo.FAMILIES.items()},
    "decoder classifier": Family(model_zoo.decoder_classifier),
    "LogitScore chain": Family(model_zoo.logit_score),
    "LogitScore chain, prompt": Family(
        model_zoo.logit_score, {"prompt": "say it"}, {"prompt": "say it"}, stock=_said("say it")
    ),
    "LogitScore chain, prompt's name": Family(
        model_zoo.logit_score,
        {"prompt_name": "facts"},
        {"prompt_name": "facts"},
        stock={"default_prompt_name": "facts"},
    ),
    "Dense chain": Family(model_zoo.dense_chain),
    "Dense chain of three": Family(
        lambda folder: model_zoo.dense_chain(folder, labels=3), {"label": 1}, column=1
    ),
    "language model": Family(model_zoo.causal, {"answer_tokens": YES_NO}),
    "language model, untied": Family(
        lambda folder: model_zoo.causal(folder, tied=False), {"answer_tokens": YES_NO}
    ),
    "label by name": Family(model_zoo.three_labels, {"label": "yes"}, column=2),
    "label by number": Family(model_zoo.three_labels, {"label": 0}, column=0),
    "prompt before a pair": Family(
        model_zoo.bert, {"prompt": "river "}, {"prompt": "river "}, stock=_said("river ")
    ),
    "LoRA of BERT": Family(model_zoo.lora, merged=True),
    "LoRA of a decoder classifier": Family(
        lambda folder: model_zoo.lora(folder, model_zoo.decoder_classifier), merged=True
    ),
    "LoRA of a language model": Family(
        lambda folder: model_zoo.lora(folder, model_zoo.causal),
        {"answer_tokens": YES_NO},
        merged=True,
    ),
}
