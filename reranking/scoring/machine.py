"""Records of what was learned on this machine, one JSON file each in the cache folder.

The first record of a question stays: two processes that learn at the same time go on alike.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from reranking.errors import MissingPrerequisite
from reranking.models.builtin import default_cache

logger = logging.getLogger(__name__)

_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")


@dataclass(frozen=True)
class Record:
    """The answer, of a `kind`, that belongs to a key of JSON values."""

    kind: str
    key: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Its file; one that cannot exist if this user has no cache folder."""
        text = json.dumps(self.key, sort_keys=True)
        digest = blake2b(text.encode(), digest_size=12).hexdigest()
        try:
            folder = default_cache() / self.kind
        except MissingPrerequisite:
            folder = Path(os.devnull) / self.kind
        return folder / f"{digest}.json"

    def read(self) -> Mapping[str, Any] | None:
        """The stored answer, None if there is none or its file is damaged, which is told."""
        try:
            record = json.loads(self.path.read_text("utf-8"))
            stored, digest = record["answer"], record["digest"]
            if digest != _digest(stored) or record["key"] != json.loads(json.dumps(self.key)):
                raise ValueError("it is not what was written")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("%s is damaged and is replaced: %s", self.path, error)
            return None
        answer: Mapping[str, Any] = stored
        return answer

    def store(self, answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Store the answer unless another process was first; what is stored then, None if nothing.

        Nothing is stored if the cache folder cannot be written.
        """
        record = {"key": self.key, "answer": answer, "digest": _digest(answer)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(prefix=".", dir=self.path.parent)
            try:
                os.fchmod(handle, 0o644)  # a shared cache is read by other users too
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(record, file, indent=1)
                self._place(Path(scratch))
            finally:
                Path(scratch).unlink(missing_ok=True)
        except OSError as error:
            logger.info("%s are kept in this process only: %s", self.kind, error)
            return None
        return self.read()

    def _place(self, scratch: Path) -> None:
        """Move the file to its place unless a readable one exists."""
        try:
            os.link(scratch, self.path)  # unlike a rename, it does not replace what came first
        except FileExistsError:
            if self.read() is None:
                os.replace(scratch, self.path)
        except OSError:  # a file system without hard links
            os.replace(scratch, self.path)


@cache
def processor() -> str:
    """What decides which kernels this machine can run: the processor's model and instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = [line.partition(":") for line in lines]
    known = [value.strip() for name, _, value in facts if name.strip() in _CPU_FACTS]
    return " ".join([*(known or [platform.processor()]), platform.machine()])


def _digest(answer: object) -> str:
    return blake2b(json.dumps(answer, sort_keys=True).encode(), digest_size=16).hexdigest()
