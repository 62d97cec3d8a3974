"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from reranking.sources.files import MAX_LINE, lines, regular_file
from reranking.sources.rows import Fault, Reject, Row, cut


def jsonl_rows(path: str) -> Iterator[Row | Reject]:
    """The objects of a JSON lines file (`.gz` too); a row's number is its line's."""
    for number, line in lines(regular_file(path)):
        if line is None:
            yield Reject(number, None, f"the line is longer than {MAX_LINE} bytes", None)
            continue
        try:
            yield Row(number, _object(line), line)
        except Fault as fault:
            yield Reject(number, None, str(fault), cut(line))


def _object(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Fault(f"invalid UTF-8 at byte {error.start + 1} of the line") from error
    except json.JSONDecodeError as error:
        raise Fault(f"broken JSON: {error.msg} at character {error.pos + 1}") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise Fault(f"broken JSON: {error}") from error
    except RecursionError as error:
        raise Fault("broken JSON: nested too deeply") from error
    if type(value) is not dict:
        raise Fault(f"the line is a JSON {_name(value)}, expected an object")
    # only an escape can smuggle in half of a surrogate pair, which no table can store
    if (b"\\ud" in line or b"\\uD" in line) and not _encodable(value):
        raise Fault("a lone surrogate: half of a UTF-16 pair, which is no character")
    return value


def _encodable(value: dict[str, object]) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _name(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
