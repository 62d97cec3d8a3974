"""Good values: each function returns the value as our tables hold it, or raises Fault.

All take the column's name, for the reason, and the value as the source has it.
"""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np

from reranking.sources.rows import Fault

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
_INT32 = 2**31


def anything(name: str, value: object) -> object:
    """The value as a column of the user's own holds it, without a digit lost.

    A decimal is an integer, a float if float64 shows all its digits, else text; a UUID and a
    duration (`0:01:30`) are text. Lists and objects stay, with such values inside them changed.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, UUID | timedelta):
        return str(value)
    if isinstance(value, dict):
        return {key: anything(name, one) for key, one in value.items()}
    return [anything(name, one) for one in value] if isinstance(value, list) else value


def _number(value: Decimal) -> int | float | str:
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        return int(value)
    # float64 tells any two numbers of 15 digits apart
    return float(value) if len(value.as_tuple().digits) <= 15 else format(value, "f")


def _exact(value: object) -> object:
    """An id, grade or score as Python's plain types show it exactly."""
    if isinstance(value, Decimal) and value.is_finite():
        whole = value == value.to_integral_value()
        return int(value) if whole else format(value, "f")
    return str(value) if isinstance(value, UUID) else value


def identifier(name: str, value: object) -> str:
    """An id as a string; integers, decimals and UUIDs are accepted, floats and booleans are not."""
    value = _exact(value)
    if type(value) is int:
        return str(value)
    if type(value) is not str:
        if value is None:
            raise Fault(f"no {name}")
        raise Fault(f"{name} is {_type(value)}, expected a string or an integer")
    if not value or value.isspace():
        raise Fault(f"no {name}: it is empty")
    return _storable(name, value)


def optional_identifier(name: str, value: object) -> str | None:
    """An id, or None."""
    return None if value is None or value == "" else identifier(name, value)


def text(name: str, value: object) -> str:
    """A text, which may be empty: a title can make up for it, and an empty query is a query."""
    given = optional_text(name, value)
    if given is None:
        raise Fault(f"no {name}")
    return given


def optional_text(name: str, value: object) -> str | None:
    """A text, or None."""
    if value is None:
        return None
    if type(value) is not str:
        raise Fault(f"{name} is {_type(value)}, expected a string")
    return _storable(name, value)


def _storable(name: str, value: str) -> str:
    if "\x00" in value:
        raise Fault(f"{name} contains a NUL character")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Fault(f"{name} contains a lone surrogate, which is no character") from error
    return value


def vector(name: str, value: object) -> list[float] | None:
    """Finite float32 numbers, or None.

    A string is read as a JSON array, since CSV has no other.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Fault(f"{name} is a string that is no JSON array") from error
    if not isinstance(value, list) or not value:
        raise Fault(f"{name} is {_type(value)}, expected a list of numbers")
    if not all(type(number) in (float, int) for number in value):
        raise Fault(f"{name} holds something other than numbers")
    return _finite(name, value)


def _finite(name: str, value: list[float]) -> list[float]:
    try:
        with np.errstate(over="ignore"):  # beyond float32: becomes infinite and is refused
            numbers = np.asarray(value, dtype=np.float64).astype(np.float32)
    except OverflowError as error:  # an integer beyond float64
        raise Fault(f"{name} holds a number beyond float32") from error
    if not np.isfinite(numbers).all():
        raise Fault(f"{name} holds NaN, an infinity, or a number beyond float32")
    found: list[float] = numbers.tolist()
    return found


def tags(name: str, value: object) -> list[str] | None:
    """A list of strings, or None; a single string is one tag, or a JSON array of them.

    Numbers are tags under the digits that they are written with.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Fault(f"{name} begins like a JSON array but is none") from error
    given = value if isinstance(value, list) else [value]
    given = [_exact(tag) for tag in given]
    if not all(type(tag) in (str, int) or _is_finite(tag) for tag in given):
        raise Fault(f"{name} is {_type(value)}, expected a list of strings or numbers")
    return [_storable(name, str(tag)) for tag in given]


def _is_finite(value: object) -> bool:
    return type(value) is float and math.isfinite(value)


def grade(name: str, value: object) -> int:
    """A 32-bit integer; `3.0` and "3" are accepted, as several tools write grades so."""
    number = None
    value = _exact(value)
    if type(value) is int:
        number = value
    elif type(value) is float and value.is_integer():
        number = int(value)
    elif type(value) is str and _WHOLE.fullmatch(value.strip()):
        number = int(value.strip().split(".")[0])
    if number is None:
        if value is None or value == "":
            raise Fault(f"no {name}")
        raise Fault(f"{name} is {_shown(value)}, expected an integer")
    if not -_INT32 <= number < _INT32:
        raise Fault(f"{name} is {_shown(value)}, beyond 32 bits")
    return number


def rank(name: str, value: object) -> int | None:
    """A rank, or None."""
    return None if value is None or value == "" else grade(name, value)


def score(name: str, value: object) -> float | None:
    """A finite number, or None."""
    if value is None or value == "":
        return None
    value = _exact(value)
    try:
        parsed = float(value) if type(value) in (int, float, str) else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        parsed = math.nan
    if not math.isfinite(parsed):
        raise Fault(f"{name} is {_shown(value)}, expected a finite number")
    return parsed


def _type(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", float: "a float", int: "an int"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _shown(value: object) -> str:
    return repr(value)[:60] if type(value) in (int, float, str) else _type(value)
