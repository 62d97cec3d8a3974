"""What of a model gives the score of a pair: a label, an answer token, or a chain of modules.

The rules are those of sentence_transformers.CrossEncoder, except that nothing is guessed: a model
whose score is not declared by its folder or by the config is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from configs.schema import Rerank
from reranking.errors import ConfigError
from reranking.models.chain import Module, transformer_settings
from reranking.models.files import ModelFiles
from reranking.models.folder import model_config

PACKED = ("bert", "electra", "roberta", "xlm-roberta", "modernbert")  # have a packed forward


@dataclass(frozen=True)
class ScoreSource:
    """Where a pair's score comes from.

    `labels` are the names of the columns that the model gives, of which `column` ranks. A model
    that answers in words is scored by `answers`, the positive and the negative token.
    """

    kind: Literal["labels", "answers"]
    labels: tuple[str, ...] = ("score",)
    column: int = 0
    answers: tuple[str, str | None] | None = None
    prompt: str | None = None

    @property
    def settings(self) -> dict[str, object]:
        """What a fingerprint says of it; empty for a model with one label."""
        chosen = {"label": self.column} if len(self.labels) > 1 else {}
        return chosen | ({"answer_tokens": self.answers} if self.answers else {})


def score_source(files: ModelFiles, chain: tuple[Module, ...], rerank: Rerank) -> ScoreSource:
    """What scores a pair; raises ConfigError that says what is missing and which key mends it."""
    prompt = _prompt(files, rerank)
    if is_cross_encoder_chain(files):
        source = _source_of_chain(files, chain, rerank, prompt)
    else:
        source = _source_of_model(files, rerank, prompt)
    if source.answers is None and rerank.answer_tokens is not None:
        raise ConfigError(
            f"{files.folder} does not answer in words that the config could choose; "
            "remove rerank.answer_tokens"
        )
    return source


def half_settings(files: ModelFiles, dtype: str) -> dict[str, object]:
    """What a fingerprint says of half precision beside the type; empty for most models.

    The frequencies of rotary positions stay in float32. Earlier versions rounded them with the
    weights of models that have no packed forward: those scores are others.
    """
    config = model_config(files)
    rotary = any(key.startswith(("rope_", "rotary_")) for key in config)
    packed = config.get("model_type") in PACKED
    return {"rotary": "float32"} if dtype != "float32" and rotary and not packed else {}


def is_cross_encoder_chain(files: ModelFiles) -> bool:
    """Whether modules.json says how pairs are scored; other chains are encoders'."""
    saved = files.object("config_sentence_transformers.json")
    return "modules.json" in files and saved.get("model_type") == "CrossEncoder"


def _source_of_chain(
    files: ModelFiles, chain: tuple[Module, ...], rerank: Rerank, prompt: str | None
) -> ScoreSource:
    first, last = chain[0], chain[-1]
    if first != Module("Transformer", ""):
        raise ConfigError(
            f"{files.folder}: the chain of a reranker begins with a Transformer in the model's own "
            f"folder, this one with {first.kind} in {first.path!r}"
        )
    settings = files.object(last.file("config.json"))
    if last.kind == "LogitScore":
        _need_template(files)
        if rerank.answer_tokens is not None:
            raise ConfigError(
                f"{files.folder} says itself which tokens make its score (LogitScore); "
                "remove rerank.answer_tokens"
            )
        return ScoreSource("labels", prompt=prompt)
    if last.kind == "Dense" and settings.get("module_output_name") == "scores":
        labels = tuple(f"LABEL_{i}" for i in range(int(settings.get("out_features") or 0)))
    elif last.kind == "Transformer" and _task(files, last) == "sequence-classification":
        labels = _labels(model_config(files))
    else:
        raise ConfigError(
            f"{files.folder}: its last module, {last.kind}, gives no score for a pair; expected "
            "LogitScore, a Dense whose module_output_name is scores, or a Transformer for "
            "sequence-classification"
        )
    return ScoreSource("labels", labels, _column(files, labels, rerank), prompt=prompt)


def _source_of_model(files: ModelFiles, rerank: Rerank, prompt: str | None) -> ScoreSource:
    config = model_config(files)
    architectures = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        labels = _labels(config)
        _need_padding(files, config)
        return ScoreSource("labels", labels, _column(files, labels, rerank), prompt=prompt)
    if architectures and architectures[0].endswith("ForCausalLM"):
        if rerank.answer_tokens is None:
            raise ConfigError(
                f"{files.folder} is a language model that does not say which answer is a score; "
                'set rerank.answer_tokens: {positive: "yes", negative: "no"} to the tokens that it '
                "was trained to answer with, or give a folder with a LogitScore module"
            )
        _need_template(files)
        chosen = rerank.answer_tokens
        return ScoreSource("answers", answers=(chosen.positive, chosen.negative), prompt=prompt)
    named = ", ".join(architectures) or "no architecture"
    encodes = "modules.json" in files
    raise ConfigError(
        f"{files.folder} is no reranker"
        + (" but an encoder, which belongs to documents.encoder.model" if encodes else "")
        + f": config.json names {named}, expected ...ForSequenceClassification or ...ForCausalLM; "
        "give a cross-encoder's folder"
    )


def _task(files: ModelFiles, module: Module) -> object:
    return transformer_settings(files, module).get("transformer_task", "feature-extraction")


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """transformers takes id2label, then num_labels, then assumes 2."""
    named = config.get("id2label")
    if isinstance(named, dict) and named:
        return tuple(str(name) for name in named.values())
    return tuple(f"LABEL_{i}" for i in range(int(config.get("num_labels") or 2)))


def _column(files: ModelFiles, labels: tuple[str, ...], rerank: Rerank) -> int:
    """The column that ranks; a model of one label has no other."""
    label = rerank.label
    if len(labels) == 1 and label is None:
        return 0
    listed = ", ".join(f"{i}: {name}" for i, name in enumerate(labels[:20]))
    if label is None:
        raise ConfigError(
            f"{files.folder} classifies into {len(labels)} labels, a reranker has one: set "
            f"rerank.label to the name or number of the one that ranks ({listed})"
        )
    if isinstance(label, int) and 0 <= label < len(labels):
        return label
    if labels.count(str(label)) == 1:
        return labels.index(str(label))
    raise ConfigError(f"{files.folder} has no label {label!r}; its labels are {listed}")


def _prompt(files: ModelFiles, rerank: Rerank) -> str | None:
    """The instruction that the config sets, None for the model's own default."""
    if rerank.prompt is not None or rerank.prompt_name is None:
        return rerank.prompt
    saved = files.object("config_sentence_transformers.json").get("prompts")
    prompts = saved if isinstance(saved, dict) and is_cross_encoder_chain(files) else {}
    if rerank.prompt_name not in prompts:
        raise ConfigError(
            f"{files.folder} has no prompt {rerank.prompt_name!r}; its prompts are "
            f"{', '.join(map(repr, prompts)) or 'none'}, or write one as rerank.prompt"
        )
    return str(prompts[rerank.prompt_name])


def _need_template(files: ModelFiles) -> None:
    tokenizer = files.object("tokenizer_config.json")
    if "chat_template.jinja" not in files and not tokenizer.get("chat_template"):
        raise ConfigError(
            f"{files.folder} has no chat template, without which its answers are no scores; put "
            "the one that the model was trained with into the folder, as chat_template.jinja"
        )


def _need_padding(files: ModelFiles, config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a decoder that nothing can pad: it would score one pair at a time."""
    places: Iterable[Mapping[str, Any]] = (
        files.object("tokenizer_config.json"),
        files.object("special_tokens_map.json"),
    )
    if config.get("pad_token_id") is not None or any(p.get("pad_token") for p in places):
        return
    from transformers.models.auto import modeling_auto

    kind = config.get("model_type")
    decoders = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind in decoders and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise ConfigError(
            f"{files.folder} has no padding token; add pad_token to tokenizer_config.json and "
            "pad_token_id to config.json, as the model was trained with"
        )
