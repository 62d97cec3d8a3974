"""People's answers to a work list, as they come back from a judging tool or a spreadsheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from reranking.schemas import JUDGMENTS

ANSWERS = pa.schema([f for f in JUDGMENTS if f.name not in ("judgment_list", "query_set")])
"""JUDGMENTS without the list and the query set, which whoever stores the answers names."""

GRADES: Final = (0, 1, 2, 3)
"""The scale of a judgment list that says no other."""
SHOWN: Final = 80
"""How many characters of a bad value a reason repeats."""


@dataclass
class Answers:
    """The judgments that came back (columns of ANSWERS), and why others did not."""

    judgments: pa.Table
    rejected: list[str] = field(default_factory=list)


class BadAnswerError(ValueError):
    """Why one answer cannot be taken in; the others are."""


def shown(value: object) -> str:
    """Return a bad value as a reason repeats it: quoted and cut."""
    text = str(value)
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def grade(value: object, grades: Sequence[int]) -> int:
    """Return the grade that a value says, also as 2.0 or text; raises BadAnswerError for another.

    `grades` is the judgment list's scale: whole numbers from the lowest to the highest count.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise BadAnswerError(f"rating {shown(value)} is no whole number")
    if not min(grades) <= number <= max(grades):
        raise BadAnswerError(
            f"rating {shown(value)} is not on the scale {scale(grades)}; if it should be, name the "
            "scale with --grades"
        )
    return int(number)


def scale(grades: Iterable[int]) -> str:
    """Return the scale as people read it: `0 1 2 3`."""
    return " ".join(str(one) for one in sorted(set(grades)))


def well_formed(text: str) -> bool:
    """Return whether UTF-8 can hold the text: it has no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def answer(
    query_id: str, query_hash: bytes, doc_id: str, relevance: int, source: str
) -> dict[str, Any]:
    """Return one row of ANSWERS, without a time; raises BadAnswerError if a text is not UTF-8."""
    for value in (query_id, doc_id, source):
        if not well_formed(value):
            raise BadAnswerError(f"{shown(value)} holds a lone surrogate, which is no UTF-8")
    if not doc_id.strip():
        raise BadAnswerError("it names no document")
    return {
        "query_id": query_id,
        "query_hash": query_hash,
        "doc_id": doc_id,
        "relevance": relevance,
        "source": source,
    }
