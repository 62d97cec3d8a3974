"""Digests: what makes two texts, documents, searches or runs the same.

All are blake2b with 16 bytes. Structured inputs are digested through canonical JSON (sorted keys,
no spaces), so a digest does not depend on the order in which a dictionary was filled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa

SIZE = 16
SEARCH_VERSION = 1  # bumped by hand when our code changes which candidates a search finds
RESULT_VERSION = 1  # bumped by hand when our code changes how results follow from scores

_MODULUS = 1 << (8 * SIZE)
_AT_ONCE = 10_000  # digests that are added up at once

# json.dumps would make these anew for every value, which takes most of its time.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_ROW = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str)


def digest(data: bytes) -> bytes:
    """16 bytes that name `data`."""
    return blake2b(data, digest_size=SIZE).digest()


def text_hash(text: str) -> bytes:
    """16 bytes that name a document's or a query's text (its UTF-8 bytes, nothing normalised)."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()


def text_hashes(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """`text_hash` of each text; a null stays null."""
    values = (None if t is None else text_hash(t) for t in texts.to_pylist())
    return pa.array(values, pa.binary(SIZE))


def canonical(value: object) -> str:
    """JSON with sorted keys and without spaces; raises TypeError for what JSON cannot say."""
    return _CANONICAL.encode(value)


def fingerprint(value: object) -> str:
    """32 hex digits that name a JSON-like value."""
    return digest(canonical(value).encode("utf-8", "surrogatepass")).hex()


def row_hash(row: Mapping[str, object], settings: Mapping[str, object]) -> bytes:
    """16 bytes that name a source row together with the settings that turn it into a document."""
    pair = [sorted((k, v) for k, v in row.items() if v is not None), sorted(settings.items())]
    return digest(_ROW.encode(pair).encode("utf-8", "surrogatepass"))


class ContentDigest:
    """An order-free digest of rows: the sum of the rows' digests modulo 2**128, and their count.

    Order-free because scans return rows in storage order, which compaction changes.
    """

    def __init__(self) -> None:
        self.total = 0
        self.rows = 0

    def add(self, rows: Iterable[bytes]) -> None:
        """Count in each row, given as bytes that already say everything that matters about it."""
        rest = iter(rows)
        while part := [digest(row) for row in islice(rest, _AT_ONCE)]:
            words = np.frombuffer(b"".join(part), ">u4").reshape(-1, SIZE // 4)
            sums = words.sum(axis=0, dtype=np.uint64).tolist()  # of 32 bits each: none overflows
            for place, word in enumerate(reversed(sums)):
                self.total += word << (32 * place)
            self.total %= _MODULUS
            self.rows += len(part)

    def hex(self) -> str:
        """32 hex digits that name the set of rows seen so far."""
        return digest(self.total.to_bytes(SIZE, "big") + self.rows.to_bytes(8, "big")).hex()


def search_id(inputs: Mapping[str, object]) -> str:
    """32 hex digits that name a search: everything that decides its candidates."""
    return fingerprint({"search_version": SEARCH_VERSION, **inputs})


def run_id(inputs: Mapping[str, object]) -> str:
    """32 hex digits that name a run: everything that decides its results."""
    return fingerprint({"result_version": RESULT_VERSION, **inputs})
