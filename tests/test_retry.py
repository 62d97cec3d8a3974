"""What is tried again: decided by an error's type, never by a text that holds users' data."""

from __future__ import annotations

import errno
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from reranking import errors
from reranking.retry import is_of_passing_fault, is_transient, retry

# As LanceDB 0.40 words them.
CONFLICT = (
    "lance error: Retryable commit conflict for version 3: This Merge transaction was preempted by "
    "concurrent transaction Update at version 3. Please retry."
)
PASSING = [
    RuntimeError(CONFLICT),
    ValueError("Commit conflict for version 12: There was a concurrent commit"),
    RuntimeError(
        "lance error: Incompatible transaction: This Append transaction is incompatible with "
        "concurrent transaction Overwrite at version 2."
    ),
    RuntimeError("lance error: Too many concurrent writers. 20 attempts"),
    RuntimeError("lance error: Too many concurrent writes, please retry later: t"),
    OSError("LanceError(IO): Generic S3 error: Error performing PUT http://h/b in 1.1s, after 1 "
            "retries, max_retries: 1, retry_timeout: 2s  - HTTP error: error sending request"),
    OSError("LanceError(IO): Generic S3 error: Error performing PUT http://h/b in 1.1s, after 1 "
            "retries - Server returned non-2xx status code: 503 Service Unavailable: "),
    ValueError("Invalid input, Failed to connect to namespace: IO { source: Generic { store: "
               '"S3", source: ListRequest { source: RetryError(RetryErrorImpl { method: GET, '
               "retries: 1, inner: Status { status: 429, body: Some("),
    ValueError("Invalid input, Failed to connect to namespace: IO { source: Generic { store: "
               '"S3", source: ListRequest { source: RetryError(RetryErrorImpl { method: GET, '
               "retries: 1, inner: Http(HttpError { kind: Connect"),
    ConnectionResetError("reset"),
    TimeoutError("took too long"),
    OSError(errno.EAGAIN, "again"),
    OSError(errno.ESTALE, "stale file handle"),
]  # fmt: skip
STAYING = [
    *(
        kind("row 'sku-1503' conflicts: timeout, connection, 503, slow down, concurrent")
        for kind in (
            errors.ConfigError,
            errors.MissingPrerequisite,
            errors.MissingResource,
            errors.InputError,
            errors.RuntimeFailure,
        )
    ),
    errors.RuntimeFailure(CONFLICT),  # it was tried again where it was raised
    ValueError("column 'connection' of row sku-1503"),
    ValueError(f"No field named {CONFLICT}"),
    RuntimeError("the text 'lance error: Too many concurrent writers' is a user's"),
    ValueError("Invalid input, Failed to connect to namespace: IO { source: RetryError("
               "RetryErrorImpl { retries: 0, inner: Status { status: 403, body: Some("),
    OSError(errno.ENOSPC, "No space left on device: timeout"),
    OSError(errno.EACCES, "Permission denied: connection 503"),
    KeyError("Commit conflict for version 1"),
]  # fmt: skip


@pytest.mark.parametrize("error", PASSING, ids=lambda e: str(e)[:40])
def test_hiccups_are_tried_again(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", STAYING, ids=lambda e: f"{type(e).__name__}")
def test_everything_else_stays_what_it_is(error: Exception) -> None:
    assert not is_transient(error)
    calls = []

    def action() -> None:
        calls.append(1)
        raise error

    with pytest.raises(errors.RescoreError):
        retry("work", action)
    assert len(calls) == 1


def test_the_words_are_those_of_the_installed_lancedb(tmp_path: Path) -> None:
    database = lancedb.connect(tmp_path)
    late = database.create_table("t", pa.table({"a": [1]}))
    late.count_rows()
    database.open_table("t").update(values={"a": 2})
    with pytest.raises(RuntimeError) as raised:
        late.add_columns([pa.field("z", pa.int32())])
    assert is_transient(raised.value), raised.value


@pytest.mark.parametrize(
    ("said", "passes"),
    [("HTTP error: error.", True), ("Server returned non-2xx status code: 403", False)],
)
def test_a_commit_that_is_in_doubt_is_not_made_again_but_looked_for(
    said: str, passes: bool
) -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise RuntimeError(
            "Commit result for version 5 is unknown: the commit may or may not have been applied; "
            "check the table state before retrying: LanceError(IO): Generic S3 error: Error "
            "performing PUT http://127.0.0.1:38367/shelf/db/pair_scores.lance/_versions/1844674407"
            f"3709551610.manifest in 240.44\u00b5s - {said}"
        )

    with pytest.raises(errors.RuntimeFailure, match="is unknown") as raised:
        retry("appending to pair_scores", action)
    assert len(calls) == 1 and is_of_passing_fault(raised.value) == passes
