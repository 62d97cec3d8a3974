"""The CUDA attention without CUDA: by torch's versions, in numbers on a plain CPU kernel."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from configs.schema import Rerank
from tests.support.model_zoo import bert, modernbert

torch = pytest.importorskip("torch")
pytest.importorskip("torch.nn.attention.varlen")

from reranking.scoring import attention  # noqa: E402
from reranking.scoring.attention import attend_varlen, choose_attention  # noqa: E402
from reranking.scoring.cpu.attention import attend_runs  # noqa: E402
from reranking.scoring.packing import Packed  # noqa: E402
from reranking.scoring.scorer import PairScorer  # noqa: E402

LENGTHS = (12, 12, 7, 1)
HEADS, WIDTH = 2, 8


def packed_of(lengths: tuple[int, ...]) -> Packed:
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    empty = torch.zeros(0)
    return Packed(empty, empty, empty, empty, starts, lengths)


def softmax(q: Any, k: Any, v: Any, scale: float | None, window: tuple[int, int]) -> Any:
    """Attention of one sequence; a window is counted from the end, as flash attention does."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = torch.einsum("qhd,khd->hqk", q, k) * scale
    at = torch.arange(len(q))[:, None] + len(k) - len(q)
    away = torch.arange(len(k)) - at
    if window[0] >= 0:
        logits = logits.masked_fill(away < -window[0], -torch.inf)
    if window[1] >= 0:
        logits = logits.masked_fill(away > window[1], -torch.inf)
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), v)


def by_sequence(
    q: Any, k: Any, v: Any, of_q: Any, of_k: Any, scale: float | None, window: tuple[int, int]
) -> Any:
    parts = [
        softmax(q[a:b], k[c:d], v[c:d], scale, window)
        for a, b, c, d in zip(of_q[:-1], of_q[1:], of_k[:-1], of_k[1:], strict=True)
    ]
    return torch.cat(parts)


# The public signatures of torch 2.10, 2.11 and 2.12, which 2.13 keeps; 2.9 has no such function.
def torch_2_10(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int,
    is_causal: bool = False, return_aux: Any = None,
) -> Any:  # fmt: skip
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, None, (-1, -1))


def torch_2_11(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Any:  # fmt: skip
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, scale, window_size)


def torch_2_12(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *,
    return_aux: Any = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False, seqused_k: Any = None, block_table: Any = None,
    num_splits: int | None = None,
) -> Any:  # fmt: skip
    assert num_splits == 1  # otherwise scores depend on the other pairs of a batch
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, scale, window_size)


def tensors() -> Any:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, sum(LENGTHS), HEADS, WIDTH, generator=generator)


def assert_equals_runs(first_only: bool, window: int | None) -> None:
    q, k, v = tensors()
    packed = packed_of(LENGTHS)
    if first_only:
        q = q[packed.starts[:-1].long()]
    expected = attend_runs(q, k, v, packed, first_only, window)
    torch.testing.assert_close(attend_varlen(q, k, v, packed, first_only, window), expected)


CASES = [(False, None), (True, None), (False, 3), (False, 11), (False, 40)]


@pytest.mark.parametrize("installed", [torch_2_10, torch_2_11, torch_2_12])
@pytest.mark.parametrize(("first_only", "window"), CASES)
def test_each_torch_is_called_with_what_it_accepts(
    monkeypatch: pytest.MonkeyPatch,
    installed: Callable[..., Any],
    first_only: bool,
    window: int | None,
) -> None:
    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = installed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    assert_equals_runs(first_only, window)


@pytest.mark.parametrize("installed", [torch_2_10, torch_2_11, torch_2_12])
@pytest.mark.parametrize("build", [bert, modernbert])
def test_a_whole_forward_on_each_torchs_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Any, installed: Callable[..., Any]
) -> None:
    """Local and global layers, the first token's alone in the last: as the CPU's own attention."""
    scorer: Any = PairScorer.load(build(tmp_path / "model"), Rerank(device="cpu"))
    texts, index = ["river stone", "winter paper signal " * 9, ""], (np.arange(3), np.arange(3))
    expected = scorer.score(texts, texts, *index)
    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = installed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(scorer._engine.forward, "attend", attend_varlen)
    np.testing.assert_allclose(scorer.score(texts, texts, *index), expected, atol=1e-5)
    assert "then" not in scorer.path  # the stock model would give the same scores


def test_the_newest_stand_in_is_the_installed_kernel() -> None:
    """A torch whose kernel takes other arguments needs a stand-in of its own here."""
    from torch.nn.attention.varlen import varlen_attn

    stand_ins = [torch_2_10, torch_2_11, torch_2_12]
    assert attention._parameters(varlen_attn) in map(attention._parameters, stand_ins)


def test_a_torch_without_the_kernel_takes_its_own_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    device = torch.device("cuda")
    assert choose_attention(device, torch.float16, HEADS, WIDTH) == (attend_runs, "sdpa")
    assert choose_attention(device, torch.float32, HEADS, WIDTH) == (attend_runs, "sdpa")


def test_half_types_on_cuda_take_the_kernel() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        chosen = choose_attention(torch.device("cuda"), dtype, HEADS, WIDTH)
        assert chosen == (attend_varlen, "varlen")


@pytest.fixture
def plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own varlen_attn, whose operator runs on the CPU as attention written out."""
    from torch.nn.attention import varlen

    names = list(inspect.signature(varlen._varlen_attn._init_fn).parameters)

    def kernel(*given: Any) -> Any:
        a = dict(zip(names, given, strict=False))
        window = tuple(a.get("window_size") or (-1, -1))
        sides = a["cu_seq_q"], a["cu_seq_k"]
        out = by_sequence(a["query"], a["key"], a["value"], *sides, a.get("scale"), window)
        return out, out.new_zeros(0), torch.zeros(2, dtype=torch.uint64)

    varlen._varlen_attn.register_kernel("cpu", kernel)


@pytest.mark.parametrize(("first_only", "window"), CASES)
def test_the_installed_operator_gives_what_runs_give(
    plain_kernel: None, first_only: bool, window: int | None
) -> None:
    assert_equals_runs(first_only, window)


def test_the_parameters_are_read_once() -> None:
    assert attention._parameters(torch_2_12) is attention._parameters(torch_2_12)
