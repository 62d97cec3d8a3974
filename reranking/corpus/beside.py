"""Reading and writing beside the encoding: one thread each, one piece of work ahead or behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in their order, the next one made in a thread while one is worked on.

    What making an item raises is raised in its place.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, "reader") as pool:
        coming: Future[Any] = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item


class Behind:
    """Does work in a thread, in order, one at a time: a call waits for the one before it.

    An error is raised by the next call, or at the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "writer")
        self._last: Future[None] | None = None

    def call(self, work: Callable[..., None], *given: object) -> None:
        """Begin the work once the work before it is done."""
        self.wait()
        self._last = self._pool.submit(work, *given)

    def wait(self) -> None:
        """Wait for what was begun; raises what it raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:  # else what ended the work first is what is told
                raise
        finally:
            self._pool.shutdown()
