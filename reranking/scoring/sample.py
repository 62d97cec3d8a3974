"""Built-in pairs on which an engine is checked at load, from 3 tokens to beyond max_length."""

from __future__ import annotations

from itertools import product

_WORDS = (
    "the quick brown fox jumps over 13 lazy dogs; naïve café prices rose 4.5% in 2021 — "
    "reading CSV_rows(path='data.csv') as dictionaries, Straße, 東京 is a city, don't panic! "
    "protein kinase inhibitors reduce tumour growth in mice; how long does the flu last?"
).split()


SPOT = [0, 5]  # pairs of the sample that cost next to nothing


def words(count: int, start: int = 0) -> str:
    """`count` words, from the `start`-th of an endless list."""
    return " ".join(_WORDS[(start + i * 7) % len(_WORDS)] for i in range(count))


def score_sample(max_length: int) -> list[tuple[str, str]]:
    """16 pairs: empty, short, medium and overlong on both sides."""
    queries = ("", words(3), words(max(4, max_length // 12), 5), words(max_length, 11))
    documents = ("", words(2, 3), words(max(6, max_length // 4), 8), words(max_length + 7, 2))
    return list(product(queries, documents))


def token_sample(max_length: int) -> list[tuple[str, str]]:
    """Pairs for the tokenizer: the 16 above and lengths around every corner of the truncation."""
    half = max_length // 2
    counts = (1, half // 2, half - 2, half - 1, half, half + 1, max_length - 3, max_length)
    # One-token words, so that lengths hit the corners exactly.
    around = [("a " * a, "a " * b) for a in counts for b in (half - 1, half, max_length, 3)]
    odd = [(" ", "\t\n"), ("x" * 300, "y"), ("\u200b", "a\x00b"), ("<b>[SEP]</b>", "[MASK] </s>")]
    return [*score_sample(max_length), *around, *odd]
