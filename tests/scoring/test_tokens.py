"""Pairs put together from single texts equal the tokenizer's own pair encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer

from reranking.scoring.packing import Packed, pack, padded_features
from reranking.scoring.tokens import PairTokens, find_template, tokenize, truncated
from tests.support.model_zoo import FAMILIES

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module", params=["bert", "roberta", "xlm_roberta", "deberta"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    folder: Path = FAMILIES[request.param](tmp_path_factory.mktemp("tokens") / "model")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_truncation()
    own.no_padding()
    return own


def assembled(tokenizer: Tokenizer, pairs: list[tuple[str, str]], limit: int) -> Packed:
    """All pairs in one batch."""
    index = np.arange(len(pairs))
    tables = [tokenize(tokenizer, [p[side] for p in pairs], limit) for side in (0, 1)]
    tokens = PairTokens(find_template(tokenizer), *tables, index, index, limit)
    packed = pack(
        torch.from_numpy(tokens.pool), torch.from_numpy(tokens.types), tokens.segments(index)
    )
    assert packed.lengths == tuple(tokens.lengths)
    return packed


def check(tokenizer: Tokenizer, pairs: list[tuple[str, str]], limit: int) -> None:
    packed = assembled(tokenizer, pairs, limit)
    tokenizer.enable_truncation(limit)  # longest_first is its default
    try:
        expected = tokenizer.encode_batch(pairs)
    finally:
        tokenizer.no_truncation()
    assert packed.ids.tolist() == [i for e in expected for i in e.ids]
    assert packed.types.tolist() == [i for e in expected for i in e.type_ids]
    assert packed.positions.tolist() == [i for e in expected for i in range(len(e.ids))]
    assert packed.rows.tolist() == [r for r, e in enumerate(expected) for _ in e.ids]
    starts = np.cumsum([0, *(len(e.ids) for e in expected)])
    assert packed.starts.tolist() == starts.tolist()


@pytest.mark.parametrize("limit", [9, 16, 17])
def test_every_combination_of_lengths(tokenizer: Tokenizer, limit: int) -> None:
    counts = range(limit + 3)
    check(tokenizer, [("a " * a, "b " * b) for a in counts for b in counts], limit)


def test_any_text(tokenizer: Tokenizer) -> None:
    text = st.text(max_size=40)

    @settings(max_examples=60)
    @given(pairs=st.lists(st.tuples(text, text), min_size=1, max_size=5), limit=st.integers(8, 40))
    def run(pairs: list[tuple[str, str]], limit: int) -> None:
        check(tokenizer, pairs, limit)

    run()


def test_special_tokens_inside_texts(tokenizer: Tokenizer) -> None:
    texts = ["[SEP] x [CLS]", "</s> <s> <pad>", "[PAD]", "[MASK] <mask>", ""]
    check(tokenizer, [(a, b) for a in texts for b in texts], 20)


def test_pairs_share_texts_tokenised_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Counting:
        def encode_batch_fast(self, texts: Sequence[str], **kwargs: Any) -> list[Encoding]:
            seen.extend(texts)
            return tokenizer.encode_batch_fast(texts, **kwargs)

    queries, documents = ["river", "stone lamp"], ["winter", "paper", ""]
    tables = [tokenize(Counting(), texts, 16) for texts in (queries, documents)]
    assert seen == queries + documents
    index = np.array([0, 1, 1, 0]), np.array([2, 0, 1, 0])
    tokens = PairTokens(find_template(tokenizer), *tables, *index, 16)
    order = np.array([3, 1])
    packed = pack(
        torch.from_numpy(tokens.pool), torch.from_numpy(tokens.types), tokens.segments(order)
    )
    own = tokenizer.encode_batch([("river", "winter"), ("stone lamp", "winter")])
    assert packed.ids.tolist() == [i for e in own for i in e.ids]


@pytest.mark.parametrize("room", [1, 2, 9, 10])
def test_truncation_is_that_of_the_library(room: int) -> None:
    """Against the library's rule written out pair by pair (truncate_encodings, longest_first)."""

    def rule(a: int, b: int) -> tuple[int, int]:
        if a + b <= room:
            return a, b
        swap = a > b
        n1, n2 = sorted((a, b))
        n2 = n1 if n1 > room else max(n1, room - n1)
        if n1 + n2 > room:
            n1 = room // 2
            n2 = n1 + room % 2
        return (n2, n1) if swap else (n1, n2)

    grid = np.array([(a, b) for a in range(24) for b in range(24)])
    found = np.stack(truncated(grid[:, 0], grid[:, 1], room), axis=1)
    assert found.tolist() == [list(rule(a, b)) for a, b in grid.tolist()]


def test_left_padding(tokenizer: Tokenizer) -> None:
    packed = assembled(tokenizer, [("a", "b"), ("a b c", "d")], 16)
    right = padded_features(packed, pad_id=7, pad_type=0, left=False)
    left = padded_features(packed, pad_id=7, pad_type=0, left=True)
    short = packed.lengths[0]
    assert left["input_ids"][0, -short:].tolist() == right["input_ids"][0, :short].tolist()
    assert set(left["input_ids"][0, :-short].tolist()) == {7}
    assert left["attention_mask"].sum(1).tolist() == list(packed.lengths)


def test_long_texts_are_cut_before_they_are_tokenised(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reranking.scoring import tokens

    monkeypatch.setattr(tokens, "_TEXT_CHARACTERS", 200)
    monkeypatch.setattr(tokens, "_CALL_CHARACTERS", 300)
    longest = 0

    class Measuring:
        def encode_batch_fast(self, texts: Sequence[str], **kwargs: Any) -> list[Encoding]:
            nonlocal longest
            longest = max(longest, sum(map(len, texts)))
            return tokenizer.encode_batch_fast(texts, **kwargs)

        def encode(self, text: str, **kwargs: Any) -> Encoding:
            return tokenizer.encode(text, **kwargs)

    texts = ["river stone " * 100, "lamp", "", "y" * 3000, *["paper " * 20] * 5]
    cut = tokenize(Measuring(), texts, 10)
    whole = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
    assert longest <= 300
    for i, ids in enumerate(whole):
        start = cut.starts[i]
        assert cut.ids[start : start + min(10, len(ids))].tolist() == ids[:10]
        assert (cut.lengths[i] > 10) == (len(ids) > 10)
