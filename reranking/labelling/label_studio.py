"""Label Studio: tasks out, and the answers of its exports JSON and JSON-MIN back.

Tasks are a JSON list or one per line, see https://labelstud.io/guide/task_format. Each rater's
answers stay apart, under the rater's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from reranking.errors import InputError
from reranking.fingerprints import SIZE
from reranking.labelling.ratings import (
    ANSWERS,
    GRADES,
    Answers,
    BadAnswerError,
    answer,
    grade,
    scale,
    shown,
)

FIELD: Final = "relevance"
"""The name of the tag that people answer in."""
_DATA: Final = ("query_id", "doc_id", "query_hash")
_TOKEN: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{},]', re.DOTALL)
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def label_studio(work: pa.Table, grades: Sequence[int], *, lines: bool = False) -> Iterator[str]:
    """Write Label Studio tasks as one JSON list, or with `lines` one task per line.

    `work` comes from `worklist.with_texts`. Ids and the query's hash travel in the task's data, so
    that answers find their pair again whatever order they come back in.
    """
    rows = work.select(["query_id", "doc_id", "query", "title", "document", "query_hash"])
    if not lines:
        yield "[\n"
    for number, row in enumerate(rows.to_pylist()):
        changed = {"query_hash": row["query_hash"].hex(), "title": row["title"] or ""}
        task = json.dumps({"data": row | changed | {"scale": scale(grades)}}, ensure_ascii=False)
        comma = "" if lines or number == 0 else ",\n"
        yield comma + task.translate(_LINE_ENDS) + ("\n" if lines else "")
    if not lines:
        yield "\n]\n"


def label_studio_config(grades: Iterable[int] = GRADES) -> str:
    """Write the labelling interface of `label_studio`'s tasks, for a project's settings."""
    choices = "\n".join(f'    <Choice value="{int(one)}"/>' for one in grades)
    return (
        '<View>\n  <Header value="$query"/>\n  <Header value="$title" size="5"/>\n'
        '  <Text name="document" value="$document"/>\n'
        f'  <Choices name="{FIELD}" toName="document" choice="single" '
        f'required="true">\n{choices}\n  </Choices>\n</View>\n'
    )


def read_label_studio(text: str, grades: Sequence[int] = GRADES) -> Answers:
    """Read the answers of an export: JSON or JSON-MIN, a list or one task per line.

    An answer is a choice (Choices) or a number of stars (Rating) in the tag `relevance`. Cancelled
    and empty annotations are left out. The source is the rater's e-mail address, or `annotator-N`
    if the export has the number only; a rater's later answer replaces the earlier one. Raises
    InputError for a file that is no JSON; a task that cannot be read is a reject.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    rejected: list[str] = []
    for number, raw in enumerate(_tasks(text.removeprefix("\ufeff").strip()), start=1):
        try:
            for row in _task_answers(_parsed(raw), grades):
                rows[row["query_id"], row["doc_id"], row["source"]] = row
        except (BadAnswerError, TypeError, ValueError, AttributeError, LookupError) as error:
            said = error if isinstance(error, BadAnswerError) else f"its shape is unknown: {error}"
            rejected.append(f"task {number}: {said}")
    return Answers(pa.Table.from_pylist(list(rows.values()), ANSWERS), rejected)


def _tasks(text: str) -> Iterator[str]:
    """The JSON text of each task; raises InputError if the file is not made of tasks."""
    if not text.startswith("["):
        parts = [part for part in text.split("\n") if part.strip()]  # U+2028 ends no line
        if not all(part.lstrip().startswith("{") for part in parts):
            raise _no_tasks("a line is no JSON object")
        yield from parts
        return
    depth, start = 0, 1
    for token in _TOKEN.finditer(text):
        mark = token.group()
        depth += (mark in "[{") - (mark in "]}")
        if (mark == "," and depth == 1) or depth == 0:
            if part := text[start : token.start()].strip():
                yield part
            start = token.end()
        if depth == 0:
            break
    if depth or text[start:].strip():
        raise _no_tasks("the list is not closed" if depth else "something follows the list")


def _no_tasks(why: str) -> InputError:
    return InputError(f"this is neither a JSON list of tasks nor one task per line: {why}")


def _parsed(raw: str) -> Any:
    try:
        return json.loads(raw)
    except RecursionError:
        raise BadAnswerError("its JSON is nested too deeply") from None
    except ValueError as error:  # also an integer of more digits than Python reads
        raise BadAnswerError(f"broken JSON: {error}") from None


def _task_answers(task: Any, grades: Sequence[int]) -> Iterator[dict[str, Any]]:
    if not isinstance(task, dict):
        raise BadAnswerError("it is no JSON object")
    if "data" not in task and "query_hash" in task:
        yield from _flat_answer(task, grades)
        return
    pair = _pair(task.get("data"))
    for annotation in task.get("annotations") or []:
        results = annotation.get("result") or []
        if annotation.get("was_cancelled") or not results:
            continue
        of_ours = [result for result in results if result.get("from_name") == FIELD]
        if not of_ours:
            names = sorted({str(result.get("from_name")) for result in results})
            raise BadAnswerError(
                f"its answers are in {shown(', '.join(names))}, expected in a tag named {FIELD!r}: "
                "use the labelling interface that stands beside the work list"
            )
        for result in of_ours:
            value = result.get("value")
            if value is not None:
                yield _answer(pair, _said(value), annotation, grades)


def _flat_answer(task: dict[str, Any], grades: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The answer of a task in JSON-MIN, where data and answer stand side by side."""
    pair = _pair(task)
    if FIELD not in task:
        others = sorted(set(task) - {*_DATA, "query", "document", "title", "scale"})
        raise BadAnswerError(
            f"it has no field {FIELD!r}, expected for the answer; beside the pair it has "
            f"{shown(', '.join(others))}"
        )
    value = task[FIELD]
    if value is not None and value != "":
        yield _answer(pair, _said(value), task, grades)


def _said(value: Any) -> object:
    """The one rating that a result's value holds, as it is written."""
    if isinstance(value, dict):
        value = value["choices"] if "choices" in value else value.get("rating")
    if isinstance(value, list):
        if len(value) != 1:
            raise BadAnswerError(f"choices {shown(value)} are not one")
        value = value[0]
    if value is None:
        raise BadAnswerError("its answer is neither of a Choices nor of a Rating tag")
    return value


def _pair(data: Any) -> tuple[str, bytes, str]:
    if not isinstance(data, dict) or any(not isinstance(data.get(key), str) for key in _DATA):
        raise BadAnswerError(
            f"its data are not those of an exported task: expected the texts {', '.join(_DATA)}"
        )
    try:
        query_hash = bytes.fromhex(data["query_hash"])
    except ValueError:
        query_hash = b""
    if len(query_hash) != SIZE:
        raise BadAnswerError(f"its query_hash {shown(data['query_hash'])} is no digest")
    return data["query_id"], query_hash, data["doc_id"]


def _answer(
    pair: tuple[str, bytes, str], said: object, by: dict[str, Any], grades: Sequence[int]
) -> dict[str, Any]:
    query_id, query_hash, doc_id = pair
    row = answer(query_id, query_hash, doc_id, grade(said, grades), _who(by))
    return row | {"judged_at": _when(by)}


def _who(annotation: dict[str, Any]) -> str:
    by = annotation.get("completed_by", annotation.get("annotator"))
    if isinstance(by, dict):
        if by.get("email"):
            return str(by["email"])
        by = by.get("id")
    return f"annotator-{by if by is not None else 'unknown'}"


def _when(annotation: dict[str, Any]) -> datetime | None:
    stamp = annotation.get("updated_at") or annotation.get("created_at")
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")) if stamp else None
