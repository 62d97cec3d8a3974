"""Score with something of your own behind the Protocol: here, by shared words.

A reranker says what names its scores and how it is loaded; a scorer turns pairs into logits. The
fingerprint must change whenever a score does: it is what stored scores are found by.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from examples.changed_model import write_inputs
from reranking import Pipeline


class SharedWords:
    """Scores a pair by the number of words that it has in common."""

    dtype, path, max_length = "float32", "shared words", 10_000

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return one logit a pair."""
        asked, known = ([set(t.lower().split()) for t in texts] for texts in (queries, documents))
        pairs = zip(query_index, document_index, strict=True)
        return np.array([len(asked[q] & known[d]) for q, d in pairs], np.float32)

    def batches(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the positions of pairs with their logits; here all at once."""
        scores = self.score(queries, documents, query_index, document_index)
        yield np.arange(len(scores)), scores


@dataclass(frozen=True)
class SharedWordsReranker:
    """Names the scores of `SharedWords`."""

    name: str = "shared-words"
    revision: str | None = "1"
    dtype: str = "float32"
    max_length: int = 10_000
    activation: str = "identity"

    @property
    def fingerprint(self) -> bytes:
        """The digest of what decides a score: the method and its version."""
        return blake2b(f"{self.name} {self.revision}".encode(), digest_size=16).digest()

    def load(self) -> SharedWords:
        """Return the scorer; called once, when the first pair needs it."""
        return SharedWords()

    def is_unchanged(self) -> bool:
        """Return whether the model is still the one that the fingerprint names."""
        return True


def main(folder: Path) -> pa.Table:
    """Run the job with the scorer of our own and return the results."""
    config = write_inputs(folder)
    pipeline = Pipeline(config | {"rerank": {"model_name": "builtin:minilm-reranker"}})
    pipeline.reranker = SharedWordsReranker()
    return pipeline.run().results()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(main(Path(temporary)).to_pandas())  # noqa: T201 - an example shows what it did
