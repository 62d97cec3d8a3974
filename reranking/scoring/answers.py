"""Language models as rerankers: the logits of answer tokens behind a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reranking.errors import ConfigError
from reranking.models.files import ModelFiles
from reranking.scoring.generic import stock_features

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


def answering_modules(
    folder: Path, max_length: int, answers: tuple[str, str | None], dtype: str = "float32"
) -> list[Any]:
    """The modules that CrossEncoder makes of a language model, with the config's answer tokens."""
    import torch
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    local = {"local_files_only": True}
    model = Transformer(
        str(folder),
        transformer_task="text-generation",
        model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True, **local},
        processor_kwargs={"model_max_length": max_length, **local},
        config_kwargs=local,
    )
    positive, negative = answers
    ids = [_token_id(model.tokenizer, positive)]
    ids += [] if negative is None else [_token_id(model.tokenizer, negative)]
    return [model, LogitScore(*ids)]


def _token_id(tokenizer: Any, token: str) -> int:  # noqa: ANN401
    if token not in tokenizer.get_vocab():
        raise ConfigError(
            f"rerank.answer_tokens names {token!r}, which is no single token of this model; "
            "take tokens of its vocabulary (some begin with a blank's mark)"
        )
    return int(tokenizer.convert_tokens_to_ids(token))


def check_template(files: ModelFiles, model: CrossEncoder, max_length: int) -> None:
    """Raise ConfigError if `max_length` cuts off the end of the chat template, or leaves no room.

    The answer is read behind the template's end; without it the score is that of another question.
    """
    short, other, long = (
        _tokens(model, [(text, text)]) for text in ("0", "1 2 3 4", "5 6 7 8 9 " * max_length)
    )
    end = 0
    while end < min(len(short), len(other)) and short[-1 - end] == other[-1 - end]:
        end += 1
    if len(short) + 8 > max_length:
        raise ConfigError(
            f"max_length is {max_length}, but the chat template of {files.folder} alone takes "
            f"{len(short)} tokens; set rerank.max_length to a few hundred more"
        )
    if end and long[-end:] != short[-end:]:
        raise ConfigError(
            f"the end of the chat template of {files.folder} is cut off from long pairs; remove "
            "restore_suffix: false from processing_kwargs in sentence_bert_config.json"
        )


def _tokens(model: CrossEncoder, pairs: list[tuple[str, str]]) -> list[int]:
    features = stock_features(model, pairs)
    kept = features["attention_mask"][0].bool()
    tokens: list[int] = features["input_ids"][0][kept].tolist()
    return tokens
