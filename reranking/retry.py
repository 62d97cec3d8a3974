"""What to do when the store fails: try again, or say in one line what is wrong and what helps."""

from __future__ import annotations

import errno
import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from configs.source import masked
from reranking.errors import RescoreError, RuntimeFailure

log = logging.getLogger(__name__)
T = TypeVar("T")

_PASSING_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}
# LanceDB raises bare ValueErrors and RuntimeErrors. Its messages begin with these words; what
# follows may quote a table, a filter or a text of the user's, and is not looked at.
_STORE_FAULT = r"(?:408|429|5\d\d)\b"
_PASSING_WORDS = re.compile(
    r"(?:lance error: )?(?:LanceError\(\w+\): |External error: )*(?:"
    r"(?:Retryable commit|Commit|Incompatible commit) conflict for version \d+"
    r"|Incompatible transaction: This \w+ transaction is incompatible with concurrent transaction"
    r"|Too many concurrent writ(?:er|e)s"
    r"|(?:Commit|Operation) timed out"
    r"|Storage request was throttled"
    r"|(?:IO error: )?Generic \w+ error: (?:Error performing list request: )?"
    r"Error performing [A-Z]+ \S+ in .{1,200}? - "
    rf"(?:Server returned non-2xx status code: {_STORE_FAULT}|HTTP error)"
    r"|Invalid input, Failed to connect to namespace: .{1,500}?RetryError\(.{1,1000}?inner: "
    rf"(?:Status {{ status: {_STORE_FAULT}|Http\()"
    r")",
    re.DOTALL,
)
# The store went away in the middle of a commit: to append once more could store rows twice, to look
# at what is there and go on from it does not.
_UNKNOWN = re.compile(
    r"(?:lance error: )?(?:LanceError\(\w+\): |External error: )*"
    r"Commit result for version \d+ is unknown: .{1,200}? retrying: "
)
_RETRIES = 6
_RUST_PLACE = re.compile(r", /\S+\.rs:\d+:\d+")  # where in LanceDB's source an error was made


def retry(
    what: str,
    action: Callable[[], T],
    until: Callable[[T], bool] | None = None,
) -> T:
    """The action's result, tried again with growing pauses while the fault looks transient.

    An action opens its table itself: a handle from before a conflict would meet it for ever.
    A fault that is not LanceDB's but says what it is already is raised as it is.
    """
    for attempt in range(_RETRIES):
        last = attempt == _RETRIES - 1
        try:
            result = action()
            if until is None or until(result) or last:
                return result
        except (RescoreError, FileExistsError):
            raise
        except Exception as error:
            if last or not is_transient(error):
                raise failure(f"{what} failed", error) from error
            log.warning("%s: %s; trying again", what, first_line(error))
        time.sleep((2**attempt) * 0.1 * (1 + random.random()))  # noqa: S311 - not a secret
    raise AssertionError("unreachable")


def is_transient(error: BaseException) -> bool:
    """Say whether the same call may succeed a little later: a conflict, a hiccup of the store.

    Decided by the error's type, for LanceDB's untyped errors by the words they begin with. Errors
    of our own stay what they are: whoever raised them has tried again already.
    """
    if isinstance(error, RescoreError):
        return False
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _PASSING_ERRNOS
    untyped = isinstance(error, ValueError | RuntimeError | OSError)
    return untyped and _PASSING_WORDS.match(str(error)) is not None


def is_of_passing_fault(error: BaseException) -> bool:
    """Say whether an error of ours comes of one of the store's that may pass.

    One that leaves open whether a commit was made counts too: who looks again may go on.
    """
    cause = error.__cause__
    if cause is None:
        return False
    unknown = _UNKNOWN.match(text := str(cause))
    if unknown is not None and _PASSING_WORDS.match(text, unknown.end()):
        return True
    return is_transient(cause) or is_of_passing_fault(cause)


def is_taken(error: Exception) -> bool:
    """Whether somebody else has just made what was to be made."""
    text = str(error).lower()
    return "already exists" in text or "conflict" in text


def first_line(error: BaseException) -> str:
    """The error in one line, without the place in LanceDB's source, a password or a signature."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return masked(_RUST_PLACE.sub("", line))[:300]


def failure(what: str, error: Exception) -> RuntimeFailure:
    """The store's error as one of ours, with what to do about it."""
    hint = ""
    text = str(error).lower()
    if "no space left" in text or "disk quota" in text:
        hint = " The disk is full: free some space and start the same command again."
    elif "unable to rename file: operation not" in text:
        hint = (
            " LanceDB commits with hard links, which this file system does not have: use another."
        )
    elif "permission denied" in text or "read-only" in text:
        hint = " The database cannot be written: check its permissions."
    return RuntimeFailure(f"{what}: {first_line(error).rstrip('.')}.{hint}")
