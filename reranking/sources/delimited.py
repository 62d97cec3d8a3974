"""CSV and TSV with a header line.

CSV is quoted as RFC 4180 says, and a quoted field may span lines. TSV exports rarely quote: a quote
there is special only if it encloses a whole field and closes before the next tab or line end;
everything else is text. `quoting` at the source overrides both.

In all of them blanks around an id that stands outside quotes belong to the layout and are left out,
as they are around grades, scores and the names in the header; within quotes, and in texts, they are
kept.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from reranking.errors import InputError
from reranking.sources.files import MAX_LINE, Shard, raw_lines
from reranking.sources.rows import Reject, Row, cut
from reranking.sources.shapes import Shape, check_names

log = logging.getLogger(__name__)
Quoting = Literal["auto", "csv", "none"]

MAX_REREAD = 256 * 1024 * 1024
"""Bytes that open quotes may make us read again: without an end, many of them were quadratic."""

_ENCLOSED = re.compile(r'"((?:[^"]|"")*)"')
_FIELD = r'(?:"(?:[^"]|"")*")?[^,]*,'
_BLANKS = " \t"


def delimiter_of(path: str) -> str:
    """Tab for `.tsv` and `.tab`, else comma."""
    name = re.sub(r"\.(gz|zst|bz2|xz)$", "", path.lower())
    return "\t" if name.endswith((".tsv", ".tab")) else ","


def delimited_rows(
    shard: Shard, delimiter: str, shape: Shape, quoting: Quoting = "auto"
) -> Iterator[Row | Reject]:
    """The rows after the header, counted from 1, every value a string."""
    records = Records(shard, delimiter, quoting)
    names = records.header()
    if names is None:
        return
    shape.check(str(shard), [*names, *shard.values])
    ids = [names.index(name) for name in shape.id_columns(names)]
    for record in records:
        if isinstance(record.fields, str):
            yield Reject(record.number, None, record.fields, cut(record.raw))
        else:
            values = [*record.fields]
            for position in ids:
                values[position] = record.without_blanks(position)
            row: dict[str, object] = dict(zip(names, values, strict=True))
            yield Row(record.number, row, record.raw)
    if records.as_text:
        log.warning(
            "%s: %d fields that begin with a quote were read as text, the first in line %d; "
            "`quoting: csv` at the source reads quotes as CSV does",
            shard,
            records.as_text,
            records.first_text,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A header (number 0), a row, or what is wrong with one; `lines` of the file from `line` on."""

    number: int
    line: int
    lines: int
    fields: list[str] | str
    raw: bytes
    text: str
    before: re.Pattern[str]  # a field with the delimiter after it

    def without_blanks(self, position: int) -> str:
        """The field without outer blanks, unless it stands in quotes."""
        value = self.fields[position]
        bare = value.strip(_BLANKS)
        return value if len(bare) == len(value) or self._in_quotes(position) else bare

    def _in_quotes(self, position: int) -> bool:
        start = 0
        for _ in range(position):
            field = self.before.match(self.text, start)
            start = field.end() if field else start
        return self.text.startswith('"', start)


@dataclass
class Records:
    """The records of a file, each with the lines it is made of.

    Every line that is not blank belongs to exactly one record. A row whose quote never closes, or
    closes so far behind that the fields are no longer the header's, is faulty alone: the lines it
    swallowed are read again, each by itself. Blank lines are counted and left out.
    """

    shard: Shard
    delimiter: str
    quoting: Quoting
    ragged: bool = False  # whether rows may end before the last columns
    as_text: int = 0
    first_text: int = 0
    _number: int = -1
    _width: int | None = None
    _line: int = 0
    _reread: int = 0
    _again: deque[bytes] = field(default_factory=deque)

    def __post_init__(self) -> None:
        csv.field_size_limit(MAX_LINE)  # of the process; its default refuses fields above 128 KB
        self._lines = raw_lines(self.shard)
        tabbed = self.delimiter == "\t"
        self._before = re.compile(_FIELD.replace(",", self.delimiter))
        self._by_line = self.quoting == "none" or (self.quoting == "auto" and tabbed)

    def header(self) -> list[str] | None:
        """The names of the columns, None for an empty file; read it before the rows."""
        record = next(self, None)
        if record is None:
            return None
        if isinstance(record.fields, str):
            raise InputError(f"{self.shard}: the header cannot be read: {record.fields}")
        names = [name.strip() for name in record.fields]
        check_names(str(self.shard), names)
        self._width = len(names)
        return names

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        while True:
            raw = self._next_line()
            if raw is None:
                raise StopIteration
            if not raw.strip(b"\r\n"):
                self._number += self._number >= 0
                continue
            self._number += 1
            return self._split(raw) if self._by_line else self._quoted(raw)

    def _next_line(self) -> bytes | None:
        if self._again:
            raw = self._again.popleft()
        else:
            try:
                read = next(self._lines)
            except StopIteration:
                return None
            if read is None:
                raise InputError(
                    f"{self.shard} has a line longer than {MAX_LINE} bytes: is it a table?"
                )
            raw = read
        self._line += 1
        return raw

    def _record(self, raws: list[bytes], fields: list[str] | str) -> Record:
        text = b"".join(raws).decode("utf-8", "surrogateescape")
        if not isinstance(fields, str):
            if not self._fits(fields):
                fields = self._wrong_width(fields)
            elif not text.isascii() and not _is_utf8(text):
                fields = "invalid UTF-8: save the file as UTF-8"
        line = self._line - len(raws) + 1
        return Record(self._number, line, len(raws), fields, raws[0], text, self._before)

    def _fits(self, fields: list[str]) -> bool:
        if self._width is None or len(fields) == self._width:
            return True
        return self.ragged and len(fields) < self._width

    def _wrong_width(self, fields: list[str]) -> str:
        reason = f"{len(fields)} fields, but the header has {self._width}"
        if self._by_line and any(field.startswith('"') for field in fields):
            reason += "; a quote is text here: `quoting: csv` reads it as CSV does"
        return reason

    def _split(self, raw: bytes) -> Record:
        line = raw.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
        fields = line.split(self.delimiter)
        if self.quoting == "auto" and '"' in line:
            for position, one in enumerate(fields):
                if one.startswith('"'):
                    fields[position] = self._enclosed(one)
        return self._record([raw], fields)

    def _enclosed(self, value: str) -> str:
        whole = _ENCLOSED.fullmatch(value)
        if whole:
            return whole[1].replace('""', '"')
        self.as_text += 1
        self.first_text = self.first_text or self._line
        return value

    def _quoted(self, raw: bytes) -> Record:
        raws = [raw]
        first = self._line
        try:
            fields = next(csv.reader(self._from(raws), delimiter=self.delimiter, strict=True))
        except csv.Error as error:
            if len(raws) == 1 and not self._at_end(error):
                return self._record(raws, f"broken row: {error}")
            reason = "a quote opens in this row and never closes"
            if not self._at_end(error):
                reason = f"a quote opens in this row and closes only in line {self._line}: {error}"
            return self._alone(raws, first, f"line {first}: {reason}; close or double it")
        if len(raws) > 1 and not self._fits(fields):
            reason = (
                f"a quote opens in line {first} and closes in line {self._line}, which makes "
                f"{len(fields)} fields, but the header has {self._width}"
            )
            # the lines of one text are hardly rows by themselves, rows that were swallowed are
            if len(raws) > 2 and all(self._is_row(one) for one in raws[1:-1]):
                return self._alone(raws, first, reason)
            return self._record(raws, reason)
        return self._record(raws, fields)

    @staticmethod
    def _at_end(error: csv.Error) -> bool:
        return "unexpected end of data" in str(error)

    def _from(self, raws: list[bytes]) -> Iterator[str]:
        """The record's first line and, as long as a quote is open, the ones that follow."""
        size = len(raws[0])
        yield raws[0].decode("utf-8", "surrogateescape")
        while size < MAX_LINE:
            raw = self._next_line()
            if raw is None:
                return
            raws.append(raw)
            size += len(raw)
            yield raw.decode("utf-8", "surrogateescape")

    def _is_row(self, raw: bytes) -> bool:
        if not raw.strip():
            return True
        text = raw.decode("utf-8", "surrogateescape")
        try:
            return self._fits(next(csv.reader([text], delimiter=self.delimiter, strict=True)))
        except csv.Error:
            return False

    def _alone(self, raws: list[bytes], first: int, reason: str) -> Record:
        """The first line as a faulty record; the lines it swallowed are read again."""
        swallowed = raws[1:]
        self._reread += sum(map(len, swallowed))
        if self._reread > MAX_REREAD:
            raise InputError(
                f"{self.shard}: {reason}; so many quotes do not close that the source is refused. "
                "If its quotes are text, say `quoting: none` at the source"
            )
        self._again.extendleft(reversed(swallowed))
        self._line -= len(swallowed)
        return self._record(raws[:1], reason)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
