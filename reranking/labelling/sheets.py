"""Work lists as CSV: a sheet for people, Quepid's layout, and the ratings that come back.

Quepid: the header query,docid,rating (its case import and export), or query,docid and one column
per rater (its book export). A sheet has title, text and scale beside them, which come back unread.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from reranking.errors import InputError
from reranking.judgments.texts import QueryTexts
from reranking.labelling.ratings import (
    ANSWERS,
    Answers,
    BadAnswerError,
    answer,
    grade,
    scale,
    shown,
    well_formed,
)
from reranking.sources.files import MAX_LINE
from reranking.spreadsheets import escaped, unescaped

KEYS: Final = ["query", "docid"]
RATING: Final = "rating"
EXTRAS: Final = ["title", "text", "scale"]
"""What a sheet tells its reader; ignored when it comes back."""
DELIMITERS: Final = (",", ";", "\t")  # spreadsheets of many countries write semicolons


def sheet_csv(work: pa.Table, grades: Sequence[int]) -> Iterator[str]:
    """Write the lines of a sheet with empty ratings; `work` comes from `worklist.with_texts`."""
    yield _csv_line([*KEYS, RATING, *EXTRAS])
    for row in work.select(["query", "doc_id", "title", "document"]).to_pylist():
        texts = [row["title"] or "", row["document"], scale(grades)]
        cells = [row["query"], row["doc_id"], "", *texts]
        yield _csv_line([escaped(cell) for cell in cells])


def quepid_csv(work: pa.Table) -> Iterator[str]:
    """Write the lines of a Quepid CSV with empty ratings, nothing else in it."""
    yield _csv_line([*KEYS, RATING])
    for row in work.select(["query", "doc_id"]).to_pylist():
        yield _csv_line([escaped(row["query"]), escaped(row["doc_id"]), ""])


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def read_ratings(
    text: str, queries: pa.Table, raters: Sequence[str], grades: Sequence[int]
) -> Answers:
    """Read the ratings of a sheet or a Quepid CSV; `queries` has query_id, text and text_hash.

    A column `rating` belongs to the only one of `raters`; a book's columns are named by `raters`.
    Empty ratings are unjudged. A text that stands under several query ids is rated for each. Of two
    ratings of a pair by one rater the first holds. Raises InputError for a header with columns that
    nobody named, since a column of numbers must not become grades, and for a quote never closed.
    """
    csv.field_size_limit(MAX_LINE)  # of the process; its default refuses fields above 128 KB
    text = text.removeprefix("\ufeff")
    delimiter, header = _header(text)
    columns = _rating_columns(header, raters)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader)
    known = QueryTexts(queries.select(["query_id", "text", "text_hash"]))
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    rejected: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
            for row in _answers(cells, header, columns, known, grades, delimiter == ";"):
                first = rows.setdefault((row["query_id"], row["doc_id"], row["source"]), row)
                if first["relevance"] != row["relevance"]:
                    raise BadAnswerError(
                        f"document {shown(row['doc_id'])} is rated {row['relevance']} here and "
                        f"{first['relevance']} before, by the same rater"
                    )
        except StopIteration:
            break
        except BadAnswerError as reason:
            rejected.append(f"line {line}: {reason}")
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise InputError(
                    f"a quote that opens in line {line} of the CSV is never closed, so the ratings "
                    "behind it cannot be told apart; close it or remove it"
                ) from error
            rejected.append(f"line {line}: {error}")
    return Answers(pa.Table.from_pylist(list(rows.values()), ANSWERS), rejected)


def _header(text: str) -> tuple[str, list[str]]:
    """The delimiter and the names of the columns; raises InputError if they are another file's."""
    header: list[str] = []
    for delimiter in DELIMITERS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [name.strip() for name in next(rows, [])]
        except csv.Error:
            names = []
        header = header or names
        if names[:2] == KEYS and len(names) > 2 and len(set(names)) == len(names):
            return delimiter, names
    raise InputError(
        f"the CSV's header is {shown(header)}; expected query,docid,rating or query,docid,RATER,..."
    )


def _rating_columns(header: Sequence[str], raters: Sequence[str]) -> dict[int, str]:
    """The raters by the place of their column."""
    names = header[2:]
    if RATING in names:
        if len(raters) != 1:
            raise InputError(f"the column {RATING!r} is one rater's, {len(raters)} are named")
        rated = {header.index(RATING): raters[0]}
        unknown = [name for name in names if name not in (RATING, *EXTRAS)]
    else:
        rated = {header.index(name): name for name in names if name in raters}
        unknown = [name for name in names if name not in (*raters, *EXTRAS)]
    if unknown or not rated:
        said = f"unknown columns {unknown}" if unknown else "no column holds ratings"
        raise InputError(
            f"the CSV has {said}; expected query,docid,rating and perhaps {','.join(EXTRAS)}, or "
            "for a column per rater their names in --rater A,B. Remove columns that are no ratings"
        )
    return rated


def _answers(
    cells: Sequence[str],
    header: Sequence[str],
    columns: Mapping[int, str],
    known: QueryTexts,
    grades: Sequence[int],
    decimal_comma: bool,
) -> Iterator[dict[str, Any]]:
    """The answers of one line; none if it has no rating (Quepid writes such a query alone)."""
    rated = {at: cells[at] for at in columns if at < len(cells) and cells[at].strip()}
    if not rated:
        return
    if len(cells) > len(header):
        raise BadAnswerError(f"{len(cells)} fields, but the header has {len(header)}")
    if not all(well_formed(cell) for cell in cells):
        raise BadAnswerError("invalid UTF-8")
    asked = known.named(cells[0])
    if not asked:
        raise BadAnswerError(f"no query has the text {shown(cells[0])}")
    for at, cell in rated.items():
        value = cell.strip()
        said = grade(value.replace(",", ".") if decimal_comma else value, grades)
        for one in asked:
            doc_id = unescaped(cells[1])
            yield answer(one["query_id"], one["text_hash"], doc_id, said, columns[at])
