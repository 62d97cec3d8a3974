"""Work lists in the layouts of judging tools, and their answers back as judgments.

Quepid: CSV with the header query,docid,rating (its case import and export), or query,docid and one
column per rater (its book export). Label Studio: tasks as a JSON list or one per line, see
https://labelstud.io/guide/task_format. Each rater's answers stay apart, under the rater's name.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from reranking.errors import InputError
from reranking.fingerprints import SIZE
from reranking.schemas import JUDGMENTS

ANSWERS = pa.schema([f for f in JUDGMENTS if f.name not in ("judgment_list", "query_set")])
"""JUDGMENTS without the list and the query set, which whoever stores the answers names."""

LABEL_STUDIO_FIELD = "relevance"
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass
class Answers:
    """The judgments that came back (columns of ANSWERS), and why others did not."""

    judgments: pa.Table
    rejected: list[str] = field(default_factory=list)


def quepid_csv(work: pa.Table) -> Iterator[str]:
    """The lines of a Quepid CSV with empty ratings; `work` comes from `worklist.with_texts`.

    A text that a spreadsheet would run as a formula gets a space in front, as Quepid's own exports
    do; reading strips it.
    """
    yield "query,docid,rating\r\n"
    for row in work.select(["query", "doc_id"]).to_pylist():
        yield _csv_line([_spreadsheet_safe(row["query"]), _spreadsheet_safe(row["doc_id"]), ""])


def _csv_line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _spreadsheet_safe(text: str) -> str:
    return f" {text}" if text.startswith(_FORMULA_STARTS) else text


def label_studio(work: pa.Table, *, lines: bool = False) -> Iterator[str]:
    """Label Studio tasks as one JSON list, or with `lines` one task per line.

    `work` comes from `worklist.with_texts`. Ids and the query's hash travel in the task's data, so
    that answers find their pair again whatever order they come back in.
    """
    rows = work.select(["query_id", "doc_id", "query", "document", "query_hash"])
    if not lines:
        yield "[\n"
    for number, row in enumerate(rows.to_pylist()):
        data = {**row, "query_hash": row["query_hash"].hex()}
        comma = "" if lines or number == 0 else ",\n"
        yield comma + json.dumps({"data": data}, ensure_ascii=False) + ("\n" if lines else "")
    if not lines:
        yield "\n]\n"


def label_studio_config(grades: Iterable[int] = (0, 1, 2, 3)) -> str:
    """The labelling interface for `label_studio`'s tasks, to paste into a project's settings."""
    choices = "\n".join(f'    <Choice value="{int(grade)}"/>' for grade in grades)
    return (
        '<View>\n  <Header value="$query"/>\n  <Text name="document" value="$document"/>\n'
        f'  <Choices name="{LABEL_STUDIO_FIELD}" toName="document" choice="single" '
        f'required="true">\n{choices}\n  </Choices>\n</View>\n'
    )


def read_quepid(text: str, queries: pa.Table, rater: str) -> Answers:
    """The ratings of a Quepid CSV; `queries` has query_id, text and text_hash.

    A column `rating` belongs to `rater`; in a book export the columns after docid are the raters.
    Empty ratings are unjudged. A text that stands under several query ids is rated for each.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    header = [name.strip() for name in next(reader, [])]
    if header[:2] != ["query", "docid"] or len(header) < 3 or len(set(header)) != len(header):
        raise InputError(
            f"the CSV's header is {header}; expected query,docid,rating or query,docid,RATER,..."
        )
    raters = [rater if name == "rating" else name for name in header[2:]]
    ids: dict[str, list[dict[str, Any]]] = {}
    for query in queries.select(["query_id", "text", "text_hash"]).to_pylist():
        ids.setdefault(query["text"].strip(), []).append(query)
    rows: list[dict[str, Any]] = []
    rejected: list[str] = []
    for row in reader:
        if len(row) < 3 or not any(cell.strip() for cell in row[2:]):
            continue  # Quepid writes an unrated query as a line with its text alone
        found = ids.get(row[0].strip())
        if not found:
            rejected.append(f"line {reader.line_num}: no query has the text {row[0][:80]!r}")
            continue
        for name, cell in zip(raters, row[2:], strict=False):
            grade = _grade(cell)
            if grade is None and cell.strip():
                rejected.append(f"line {reader.line_num}: rating {cell[:40]!r} is no whole number")
            elif grade is not None:
                rows += [
                    _answer(one["query_id"], one["text_hash"], row[1].strip(), grade, name)
                    for one in found
                ]
    return _answers(rows, rejected)


def read_label_studio(text: str) -> Answers:
    """The answers of a Label Studio JSON export (a list, or one task per line).

    Cancelled annotations are left out. The source is the rater's e-mail address, or
    `annotator-N` where the export has the number only.
    """
    rows: list[dict[str, Any]] = []
    rejected: list[str] = []
    for number, task in enumerate(_tasks(text), start=1):
        try:
            rows += _task_answers(task)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            rejected.append(f"task {number}: {type(error).__name__}: {error}")
    return _answers(rows, rejected)


def _tasks(text: str) -> list[Any]:
    text = text.removeprefix("\ufeff").strip()
    try:
        if text.startswith("["):
            tasks: list[Any] = json.loads(text)
            return tasks
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise InputError(
            f"this is neither a JSON list of tasks nor one task per line: {error}"
        ) from error


def _task_answers(task: dict[str, Any]) -> list[dict[str, Any]]:
    data, rows = task["data"], []
    query_hash = bytes.fromhex(data["query_hash"])
    ids = data["query_id"], data["doc_id"]
    if len(query_hash) != SIZE or not all(isinstance(one, str) for one in ids):
        raise ValueError("its data are not those of an exported task")
    for annotation in task.get("annotations", []):
        if annotation.get("was_cancelled"):
            continue
        for result in annotation["result"]:
            if result.get("from_name") != LABEL_STUDIO_FIELD:
                continue
            grade = _grade(str(result["value"]["choices"][0]))
            if grade is None:
                raise ValueError(f"choice {result['value']['choices']} is no whole number")
            answer = _answer(ids[0], query_hash, ids[1], grade, _who(annotation))
            rows.append({**answer, "judged_at": _when(annotation)})
    return rows


def _who(annotation: dict[str, Any]) -> str:
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        if by.get("email"):
            return str(by["email"])
        by = by.get("id")
    return f"annotator-{by if by is not None else 'unknown'}"


def _when(annotation: dict[str, Any]) -> datetime | None:
    stamp = annotation.get("updated_at") or annotation.get("created_at")
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")) if stamp else None


def _grade(cell: str) -> int | None:
    """A whole number, also written as 2.0; None for anything else."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _answer(query_id: str, query_hash: bytes, doc_id: str, grade: int, who: str) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "query_hash": query_hash,
        "doc_id": doc_id,
        "relevance": grade,
        "source": who,
    }


def _answers(rows: list[dict[str, Any]], rejected: list[str]) -> Answers:
    """The rows as a table; of a rater's several answers to one pair the last one holds."""
    latest = {(row["query_id"], row["doc_id"], row["source"]): row for row in rows}
    return Answers(pa.Table.from_pylist(list(latest.values()), ANSWERS), rejected)
