"""JSON lines, one object per line; or one JSON array of objects, or objects over several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain

from reranking.errors import InputError
from reranking.sources import files
from reranking.sources.files import Shard, lines, raw_lines
from reranking.sources.rows import Fault, Reject, Row, cut

ENDINGS = (".jsonl", ".ndjson", ".json")
MAX_DEPTH = 200
_PRINTED = re.compile(rb"\s*(\[\s*(\{.*)?|\{\s*)", re.DOTALL)
_BLANK = re.compile(r"[ \t\r\n]*")


def jsonl_rows(shard: Shard) -> Iterator[Row | Reject]:
    """The objects of the file; a row's number is its line's, in an array its place.

    A file that begins with an array of objects, or with a line that holds a brace alone, is read as
    the objects it holds, whatever lines they take. There a fault of the syntax ends the source,
    since nothing says where the next object begins.
    """
    numbered = lines(shard)
    first = next(numbered, None)
    if first is None:
        return
    if first[1] is not None and _PRINTED.fullmatch(first[1]):
        yield from _printed(shard)
        return
    for number, line in chain([first], numbered):
        if line is None:
            yield Reject(number, None, f"the line is longer than {files.MAX_LINE} bytes", None)
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
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    # only an escape can smuggle in half of a surrogate pair, which no table can store
    if (b"\\ud" in line or b"\\uD" in line) and not _encodable(value):
        raise Fault("a lone surrogate: half of a UTF-16 pair, which is no character")
    return value


def _check_depth(value: object) -> None:
    """Raise Fault for what Python's own functions could not walk any more."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise Fault(f"broken JSON: nested too deeply, more than {MAX_DEPTH} levels")


def _encodable(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _name(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


class _Text:
    """The file as text that grows on demand; a byte that is no UTF-8 becomes a lone surrogate."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.lines = raw_lines(shard)
        self.text = ""
        self.at = 0
        self.dropped = 0  # line ends of the text that was let go
        self.ended = False

    def more(self) -> bool:
        """Read on, by as much again as stands here; whether there was more."""
        self.dropped += self.text.count("\n", 0, self.at)
        parts = [self.text[self.at :]]
        size, wanted = 0, max(1 << 16, len(parts[0]))
        while size < wanted and not self.ended:
            line = next(self.lines, b"")
            self.ended = line == b""
            if line is None or len(parts[0]) > files.MAX_LINE:
                raise self.broken(f"a value is longer than {files.MAX_LINE} bytes")
            parts.append(line.decode("utf-8", "surrogateescape"))
            size += len(line)
        self.text, self.at = "".join(parts), 0
        return size > 0

    def next_character(self) -> str:
        """The next one that is not blank, which stays; "" at the end."""
        while True:
            blank = _BLANK.match(self.text, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self, decode: Callable[[str, int], tuple[object, int]]) -> object:
        """The JSON value that begins here."""
        while True:
            try:
                value, end = decode(self.text, self.at)
            except RecursionError as error:
                raise self.broken("nested too deeply") from error
            except json.JSONDecodeError as error:
                if not self.more():
                    raise self.broken(error.msg, error.pos) from error
            except ValueError as error:  # an integer of more digits than Python converts
                raise self.broken(str(error)) from error
            else:
                if end < len(self.text) or not self.more():  # else a number may go on
                    self.at = end if end < len(self.text) or self.ended else self.at
                    return value

    def broken(self, reason: str, position: int | None = None) -> InputError:
        at = self.at if position is None else position
        line = self.dropped + self.text.count("\n", 0, at) + 1
        return InputError(
            f"{self.shard}: broken JSON in line {line}: {reason}; what follows cannot be told apart"
        )


def _printed(shard: Shard) -> Iterator[Row | Reject]:
    """The values of an array, or one after the other without one."""
    text, decode = _Text(shard), json.JSONDecoder().raw_decode
    array = text.next_character() == "["
    text.at += array
    number = 0
    while (character := text.next_character()) != "":
        if array and character == "]":
            text.at += 1
            if text.next_character():
                raise text.broken("more data after the end of the array")
            return
        if array and number:
            if character != ",":
                raise text.broken("a comma is missing")
            text.at += 1
            text.next_character()
        number += 1
        value = text.value(decode)
        try:
            if type(value) is not dict:
                raise Fault(f"the value is a JSON {_name(value)}, expected an object")
            _check_depth(value)
            if not _encodable(value):
                raise Fault("invalid UTF-8 or a lone surrogate, which is no character")
            yield Row(number, value)
        except Fault as fault:
            yield Reject(number, None, str(fault), cut(repr(value)))
    if array:
        raise text.broken("the array does not end")
