"""What servers of rerankers are asked and answer: four dialects of the same question."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

_LARGEST: Final = 3.4e38  # a score is stored as float32


@dataclass(frozen=True)
class Dialect:
    """One way to ask for the scores of pairs.

    `body` makes a request of a model's name, queries and documents, one of each a pair; `rows`
    takes the list of scores out of an answer, `key` a score out of a row. `batch` pairs make a
    request unless the config says otherwise; those of one query only, if `one_query`.
    """

    batch: int
    one_query: bool
    key: str
    body: Callable[[str, Sequence[str], Sequence[str]], dict[str, Any]]
    rows: Callable[[Any], Any]


def _cohere(model: str, queries: Sequence[str], documents: Sequence[str]) -> dict[str, Any]:
    asked = {"model": model, "query": queries[0], "documents": list(documents)}
    return asked | {"top_n": len(documents)}


def _jina(model: str, queries: Sequence[str], documents: Sequence[str]) -> dict[str, Any]:
    return _cohere(model, queries, documents) | {"return_documents": False}


def _tei(model: str, queries: Sequence[str], documents: Sequence[str]) -> dict[str, Any]:
    """A sigmoid runs out of float32 values near 1, so logits are asked for."""
    asked = {"query": queries[0], "texts": list(documents)}
    return asked | {"raw_scores": True, "truncate": True, "return_text": False}


def _vllm(model: str, queries: Sequence[str], documents: Sequence[str]) -> dict[str, Any]:
    """Logits as well; -1 cuts pairs to what the model reads, which would be an error otherwise."""
    asked = {"model": model, "text_1": list(queries), "text_2": list(documents)}
    return asked | {"truncate_prompt_tokens": -1, "use_activation": False}


def _results(answer: Any) -> Any:
    return answer["results"]


def _data(answer: Any) -> Any:
    return answer["data"]


def _itself(answer: Any) -> Any:
    return answer


DIALECTS: Final[dict[str, Dialect]] = {
    "cohere": Dialect(100, True, "relevance_score", _cohere, _results),
    "jina": Dialect(100, True, "relevance_score", _jina, _results),
    "tei": Dialect(32, True, "score", _tei, _itself),
    "vllm": Dialect(64, False, "score", _vllm, _data),
}


@dataclass(frozen=True)
class Answer:
    """The scores of a request's pairs by their places in it; `fault` says what is wrong, if so.

    `foreign`: it is another dialect's.
    """

    scores: dict[int, float]
    fault: str | None = None
    foreign: bool = False


def read_answer(dialect: str, answer: Any, count: int) -> Answer:
    """The scores in an answer to a request of `count` pairs, as far as they can be read."""
    spoken, scores = DIALECTS[dialect], dict[int, float]()
    try:
        rows = spoken.rows(answer)
        if not isinstance(rows, list):
            raise TypeError
    except (KeyError, TypeError, IndexError):
        fault = f"what is no answer of the dialect {dialect}, {_shape(answer)}"
        return Answer(scores, fault, foreign=True)
    for row in rows:
        place = row.get("index") if isinstance(row, dict) else None
        score = _number(row.get(spoken.key)) if isinstance(row, dict) else None
        if score is None or not isinstance(place, int) or isinstance(place, bool):
            fault = f"a row {_shape(row)}, not index and {spoken.key} as the dialect {dialect} has"
            return Answer(scores, fault, foreign=True)
        if not 0 <= place < count or place in scores:
            return Answer(scores, f"a score for place {place} of {count}, or twice")
        if not abs(score) <= _LARGEST:  # NaN is not either
            return Answer(scores, f"{score} as a score, expected a finite number")
        scores[place] = score
    if len(scores) < count:
        return Answer(scores, f"{len(scores)} of {count} scores")
    return Answer(scores)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _shape(value: object) -> str:
    """What a value is, without its texts: an answer may repeat documents."""
    if isinstance(value, dict):
        return "with the keys " + (", ".join(sorted(map(str, value))[:8]) or "(none)")
    return f"that is a {type(value).__name__}"
