"""CSV and TSV with a header line, quoted as RFC 4180 says; quoted fields may span lines."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from reranking.errors import InputError
from reranking.sources.files import MAX_LINE, raw_lines, regular_file
from reranking.sources.rows import Reject, Row, cut

Check = Callable[[str, list[str]], None]
"""Raises InputError if a header lacks a column: (path, header)."""


def delimiter_of(path: str) -> str:
    """Tab for `.tsv` and `.tab`, else comma."""
    name = path.removesuffix(".gz").lower()
    return "\t" if name.endswith((".tsv", ".tab")) else ","


def delimited_rows(path: str, delimiter: str, check: Check) -> Iterator[Row | Reject]:
    """The rows after the header, counted from 1, every value a string."""
    records = delimited_records(path, delimiter)
    header = next(records, None)
    if header is None:
        return
    names = _header(path, header[1])
    check(path, names)
    for number, fields, raw in records:
        if isinstance(fields, str):
            yield Reject(number, None, fields, cut(raw))
        elif len(fields) != len(names):
            reason = f"{len(fields)} fields, but the header has {len(names)}"
            yield Reject(number, None, reason, cut(raw))
        elif (fault := _undecodable(fields)) is not None:
            yield Reject(number, None, fault, cut(raw))
        else:
            yield Row(number, dict(zip(names, fields, strict=True)), raw)


def delimited_records(path: str, delimiter: str) -> Iterator[tuple[int, list[str] | str, bytes]]:
    """(number, fields or else what is wrong, its first line) of each record; 0 is the header.

    Blank lines are counted and left out. Raises InputError for a quote that is never closed: the
    rows behind it cannot be told apart from its text.
    """
    csv.field_size_limit(MAX_LINE)  # of the process; its default refuses fields above 128 KB
    source = _Decoded(regular_file(path))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    number = -1
    while True:
        source.start = b""
        fields: list[str] | str
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if source.ended:
                raise InputError(
                    f"{path}, line {source.started_at}: a quote opens in this row and is never "
                    "closed, so the rows after it cannot be read. Close or double the quote there"
                ) from error
            fields = f"broken row: {error}"
        if fields or number >= 0:
            number += 1
        if fields:
            yield number, fields, source.start


class _Decoded:
    """The file's lines as text, invalid bytes as lone surrogates, so that other rows survive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = raw_lines(path)
        self.start = b""
        self.line = self.started_at = 0  # counted from 1: the last one read, the record's first
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self.lines)
        except StopIteration:
            self.ended = True
            raise
        self.line += 1
        if line is None:
            raise InputError(f"{self.path} has a line longer than {MAX_LINE} bytes: is it a table?")
        if not self.start:
            self.start, self.started_at = line, self.line
        return line.decode("utf-8", "surrogateescape")


def _header(path: str, fields: list[str] | str) -> list[str]:
    if isinstance(fields, str):
        raise InputError(f"{path}: the header cannot be read: {fields}")
    if _undecodable(fields) is not None:
        raise InputError(f"{path}: the header is not UTF-8: save the file as UTF-8")
    names = [name.strip() for name in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the header names {twice} more than once")
    return names


def _undecodable(fields: list[str]) -> str | None:
    for field in fields:
        if not field.isascii():
            try:
                field.encode("utf-8")
            except UnicodeEncodeError:
                return "invalid UTF-8"
    return None
