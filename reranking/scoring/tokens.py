"""Pairs as token ids: each distinct text is tokenised once, pairs are put together by indexing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A tokenizer needs about 100 bytes per character while it works; this bounds a call to some 400 MB.
_CALL_CHARACTERS = 4_000_000
_TEXT_CHARACTERS = 1_000_000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TokenTable:
    """Texts as token ids without special tokens: only as many as a pair can use are kept."""

    ids: NDArray[np.int32]  # of all texts, one after the other
    starts: Ints  # where each text's ids start in `ids`
    lengths: Ints  # tokens of each whole text, also those that are not kept


@dataclass(frozen=True)
class PairTemplate:
    """What a tokenizer puts around and between two texts, e.g. [CLS] a [SEP] b [SEP]."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]  # token type of before, a, between, b, after

    @property
    def specials(self) -> int:
        """Tokens of a pair that come from neither text."""
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True)
class Segments:
    """Where the five parts of each pair of a batch stand in the pool of token ids."""

    sources: Ints  # (pairs, 5)
    lengths: Ints  # (pairs, 5)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], keep: int) -> TokenTable:
    """The texts' first `keep` token ids; `tokenizer` must neither truncate nor pad."""
    kept: list[NDArray[np.int32]] = []
    lengths = np.zeros(len(texts), np.int64)
    for first, part in _calls(texts):
        cut = [_cut(text) for text in part]
        for i, encoding in enumerate(tokenizer.encode_batch_fast(cut, add_special_tokens=False)):
            ids = encoding.ids
            if len(ids) <= keep and len(cut[i]) < len(part[i]):
                ids = tokenizer.encode(part[i], add_special_tokens=False).ids
            kept.append(np.array(ids[:keep], np.int32))
            lengths[first + i] = len(ids)
    sizes = np.minimum(lengths, keep)
    flat = np.concatenate(kept) if kept else np.zeros(0, np.int32)
    return TokenTable(flat, np.cumsum(sizes) - sizes, lengths)


def _calls(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Runs of texts whose characters stay within one call's bound, with their first position."""
    first, characters = 0, 0
    for i, text in enumerate(texts):
        characters += min(len(text), _TEXT_CHARACTERS)
        if characters > _CALL_CHARACTERS and i > first:
            yield first, texts[first:i]
            first, characters = i, len(text)
    if first < len(texts):
        yield first, texts[first:]


def _cut(text: str) -> str:
    """The text's head, far longer than a pair can use, ending at a space if it has one."""
    if len(text) <= _TEXT_CHARACTERS:
        return text
    end = text.rfind(" ", 0, _TEXT_CHARACTERS)
    return text[: end if end > 0 else _TEXT_CHARACTERS]


def find_template(tokenizer: Tokenizer) -> PairTemplate | None:
    """The tokenizer's pair template, read off one encoded pair; None if it has another shape."""
    encoding = tokenizer.encode("one", "two three")
    parts: list[list[int]] = [[], [], [], [], []]
    types: list[int] = [0] * 5
    at = 0
    for token, kind, side in zip(
        encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
    ):
        at = _part_after(at, side)
        if at > 4:
            return None
        parts[at].append(token)
        types[at] = kind
    if not parts[1] or not parts[3]:
        return None
    before, between, after = (tuple(parts[i]) for i in (0, 2, 4))
    return PairTemplate(before, between, after, (types[0], types[1], types[2], types[3], types[4]))


def _part_after(at: int, side: int | None) -> int:
    """The part that a token of `side` (None: special) belongs to, coming from part `at`."""
    if side is None:
        return at if at in (0, 2, 4) else at + 1
    wanted = 1 if side == 0 else 3
    return wanted if at <= wanted else 5


def truncated(a: Ints, b: Ints, room: int) -> tuple[Ints, Ints]:
    """Lengths of both texts after `longest_first` truncation to `room` tokens together.

    The rule of the Rust library `tokenizers` (truncate_encodings), for arrays.
    """
    short = np.minimum(a, b)
    fitted = np.where(short > room, short, np.maximum(short, room - short))
    halved = short + fitted > room
    short_cut = np.where(halved, room // 2, short)
    long_cut = np.where(halved, room // 2 + room % 2, fitted)
    over = a + b > room
    new_a = np.where(a > b, long_cut, short_cut)
    new_b = np.where(a > b, short_cut, long_cut)
    return np.where(over, new_a, a), np.where(over, new_b, b)


class PairTokens:
    """Pairs of two token tables: their lengths, and where their tokens stand in `pool`.

    `lengths` are the tokens that a model sees, at most `max_length`; `whole` those of the pairs
    before they are cut, special tokens included in both.
    """

    def __init__(
        self,
        template: PairTemplate,
        queries: TokenTable,
        documents: TokenTable,
        query_index: Ints,
        document_index: Ints,
        max_length: int,
    ) -> None:
        parts = (template.before, template.between, template.after)
        specials = np.array([token for part in parts for token in part], np.int32)
        self.pool = np.concatenate((specials, queries.ids, documents.ids))
        self.types = np.array(template.types, np.int64)
        self._special_lengths = [len(part) for part in parts]
        self._query_starts = queries.starts + len(specials)
        self._document_starts = documents.starts + len(specials) + len(queries.ids)
        self._query_index = query_index
        self._document_index = document_index
        self._query_tokens, self._document_tokens = truncated(
            queries.lengths[query_index],
            documents.lengths[document_index],
            max_length - template.specials,
        )
        self.lengths = self._query_tokens + self._document_tokens + template.specials
        self.whole = (
            queries.lengths[query_index] + documents.lengths[document_index] + template.specials
        )

    def segments(self, positions: Ints) -> Segments:
        """The parts of the pairs at `positions`."""
        before, between, after = self._special_lengths
        sources = np.zeros((len(positions), 5), np.int64)
        lengths = np.zeros_like(sources)
        sources[:, 1] = self._query_starts[self._query_index[positions]]
        sources[:, 2] = before
        sources[:, 3] = self._document_starts[self._document_index[positions]]
        sources[:, 4] = before + between
        lengths[:, 0] = before
        lengths[:, 1] = self._query_tokens[positions]
        lengths[:, 2] = between
        lengths[:, 3] = self._document_tokens[positions]
        lengths[:, 4] = after
        return Segments(sources, lengths)
