"""Sentence vectors of BERT-like encoders on a CPU: packed tokens, threads that run whole batches.

The same forward as the reranker's (scoring/fast_bert.py) with every position kept in the last
layer, then mean or first-token pooling. Used only where it gives the stock model's vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from reranking.errors import RescoreError
from reranking.models.resolve import ModelFolder
from reranking.scoring.fast_bert import CONFIG_KEYS, FastBert
from reranking.scoring.packing import CPU_TOKENS, Packed
from reranking.scoring.tokens import TokenTable, tokenize
from reranking.scoring.verdicts import saved_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    from reranking.scoring.machine import Record

log = logging.getLogger(__name__)

CLOSE = 1e-5  # most that a number of a vector may differ from the stock model's
_SPOT = 3  # texts at the beginning of the sample that cost next to nothing
_MODULES = ["Transformer", "Pooling", "Normalize"]


def fast_encoder(model: SentenceTransformer) -> FastEncoder | None:
    """The model's fast encoder if it has the layout and gives the same vectors, else None."""
    parts: list[Any] = list(model)
    try:
        if model.device.type != "cpu" or not _fits(model):
            return None
        fast = FastEncoder(_answer(model), parts[0].auto_model)
        gap = _gap(fast, model)
        if gap is None:
            return None
        log.info("encoding with the fast path, within %.1e of the stock model", gap)
        return fast
    except Exception as error:  # whatever fails there, the stock model still encodes
        log.warning("no fast encoder: %s: %s", type(error).__name__, error)
        return None


def is_known_chain(folder: ModelFolder) -> bool:
    """Whether the files name a BERT, pooling and perhaps normalisation, which may be fast."""
    kinds = [module.kind for module in folder.chain]
    if kinds not in (_MODULES, _MODULES[:2]):
        return False
    return folder.files.object(folder.chain[0].file("config.json")).get("model_type") == "bert"


def remembered_encoder(verdict: Record, folder: ModelFolder) -> FastEncoder | None:
    """The fast encoder made of the files alone, if it has passed the check on this machine.

    Raises RuntimeFailure if the files were changed meanwhile.
    """
    answer = verdict.read()
    return None if answer is None else _from_files(answer, folder)


def remember_encoder(verdict: Record, folder: ModelFolder, model: SentenceTransformer) -> None:
    """Keep what the model's fast encoder showed, if the one made of the files shows it too."""
    spot = model.encode(_SAMPLE[:_SPOT], convert_to_numpy=True, show_progress_bar=False)
    answer = _answer(model) | {"bound": _bound(spot), "spot": spot.tolist()}
    fast = _from_files(answer, folder)
    if fast is not None and _gap(fast, model) is not None:
        verdict.store(answer)


def _answer(model: SentenceTransformer) -> dict[str, Any]:
    """What the fast path needs beside the weights, as JSON."""
    parts: list[Any] = list(model)
    config = parts[0].auto_model.config
    return {
        "config": {key: getattr(config, key) for key in CONFIG_KEYS},
        "tokenizer": _bare(model.tokenizer).to_str(),
        "max_length": int(model.max_seq_length or 512),
        "mean": parts[1].pooling_mode == "mean",
        "normalise": len(parts) == len(_MODULES),
        "prompts": {k: v for k, v in model.prompts.items() if v},
        "default_prompt": model.default_prompt_name,
    }


def _from_files(answer: Mapping[str, Any], folder: ModelFolder) -> FastEncoder | None:
    try:
        with saved_weights(folder.files, folder.chain[0].path) as weights:
            backbone = getattr(weights, "bert", weights)
            backbone.config = SimpleNamespace(**answer["config"])
            fast = FastEncoder(answer, backbone)
        gap = np.abs(fast.encode(_SAMPLE[:_SPOT]) - np.array(answer["spot"], np.float32)).max()
        if not gap <= answer["bound"]:
            raise ValueError(f"off by {gap:.1e} for the shortest built-in texts")
        return fast
    except RescoreError:
        raise
    except Exception as error:  # the stock model is loaded instead
        log.info("not loaded from the files alone: %s: %s", type(error).__name__, error)
        return None


def _gap(fast: FastEncoder, model: SentenceTransformer) -> float | None:
    """How far the sample's vectors are off, in one batch and one by one; None if too far."""
    stock = model.encode(_SAMPLE, convert_to_numpy=True, show_progress_bar=False)
    gaps = [np.abs(fast.encode(_SAMPLE) - stock).max()]
    gaps += [np.abs(fast.encode([t]) - v).max() for t, v in zip(_SAMPLE, stock, strict=True)]
    gap = float(max(gaps))
    if not gap <= _bound(stock):
        log.warning("the fast encoder is off by %.1e: encoding with the stock model", gap)
        return None
    return gap


def _bound(vectors: NDArray[np.float32]) -> float:
    return CLOSE * max(1.0, float(np.abs(vectors).max()))


def _fits(model: SentenceTransformer) -> bool:
    parts: list[Any] = list(model)
    if [type(p).__name__ for p in parts] not in (_MODULES, _MODULES[:2]):
        return False
    config = parts[0].auto_model.config
    plain = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    modes = [parts[1].pooling_mode] if isinstance(parts[1].pooling_mode, str) else None
    return (
        type(parts[0].auto_model).__name__ == "BertModel"
        and config.hidden_act == "gelu"
        and plain
        and not config.is_decoder
        and modes in (["mean"], ["cls"])
    )


class FastEncoder:
    """Texts in, (n, dimension) float32 vectors out."""

    def __init__(self, answer: Mapping[str, Any], backbone: Any) -> None:  # noqa: ANN401
        """Take the weights of `backbone`, a BertModel or what is saved of one.

        `answer` is what the model's verdict says (`_answer`).
        """
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(answer["tokenizer"])
        self.first, self.last = _specials(self.tokenizer)
        self.max_length: int = answer["max_length"]
        self.mean: bool = answer["mean"]
        self.normalise: bool = answer["normalise"]
        self.prompts: Mapping[str, str] = answer["prompts"]
        self.default_prompt: str | None = answer["default_prompt"]
        with torch.inference_mode():
            self.trunk = _Trunk(backbone)
        self.dimension = int(self.trunk.config.hidden_size)
        self.pool = ThreadPoolExecutor(
            torch.get_num_threads(), "encoder", initializer=torch.set_num_threads, initargs=(1,)
        )

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of the texts."""
        table = tokenize(self.tokenizer, texts, self.max_length - 2)
        lengths = np.minimum(table.lengths, self.max_length - 2) + 2
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        batches = list(_batches(lengths))
        for rows, part in zip(
            batches, self.pool.map(lambda b: self._run(table, lengths, b), batches), strict=True
        ):
            vectors[rows] = part
        return vectors

    def _run(
        self, table: TokenTable, lengths: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        with torch.inference_mode():
            packed = self._packed(table, lengths, rows)
            x = self.trunk.tokens(packed)
            starts = packed.starts[:-1].long()
            if self.mean:
                summed = torch.zeros(len(rows), x.shape[1]).index_add_(0, packed.rows, x)
                pooled = summed / packed.starts.diff()[:, None]
            else:
                pooled = x[starts]
            if self.normalise:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
            values: NDArray[np.float32] = pooled.numpy()
            return values

    def _packed(
        self, table: TokenTable, lengths: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> Packed:
        sizes = lengths[rows]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        ids = np.empty(starts[-1], np.int32)
        for row, start, size in zip(rows, starts, sizes, strict=False):
            source = table.starts[row]
            ids[start + 1 : start + size - 1] = table.ids[source : source + size - 2]
        ids[starts[:-1]], ids[starts[1:] - 1] = self.first, self.last
        pair = np.repeat(np.arange(len(rows)), sizes)
        return Packed(
            ids=torch.from_numpy(ids),
            types=torch.zeros(len(ids), dtype=torch.long),
            positions=torch.from_numpy(np.arange(len(ids)) - starts[pair]),
            rows=torch.from_numpy(pair),
            starts=torch.from_numpy(starts.astype(np.int32)),
            lengths=tuple(sizes.tolist()),
        )


class _Trunk(FastBert):
    """The layers without a head, the last one computed for every token."""

    def __init__(self, backbone: Any) -> None:
        wrapped: Any = SimpleNamespace(
            transformers_model=SimpleNamespace(config=backbone.config, bert=backbone),
            device=torch.device("cpu"),
        )
        super().__init__(wrapped, "bert", torch.float32, CPU_TOKENS)

    def _load_head(self, stock: Any, backbone: Any, layout: str) -> None:
        self.head = []

    def _layer(self, stock: Any, make: Any, rows: int, last: bool) -> Any:
        return super()._layer(stock, make, rows, last=False)

    def tokens(self, packed: Packed) -> torch.Tensor:
        """(tokens, width) of the last layer."""
        x = self._embed(packed)
        for layer in self.layers:
            q, k, v = layer.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
            x = self._rest(layer, self.attend(q, k, v, packed, False), x)
        return x


def _bare(stock: Any) -> Tokenizer:
    """A copy of the model's tokenizer that neither truncates nor pads."""
    from tokenizers import Tokenizer

    backend = getattr(stock, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("the tokenizer is not a fast one")
    bare = Tokenizer.from_str(backend.to_str())
    bare.no_truncation()
    bare.no_padding()
    return bare


def _specials(tokenizer: Tokenizer) -> tuple[int, int]:
    ids = tokenizer.encode("").ids
    if len(ids) != 2:
        raise ValueError(f"expected two special tokens around a text, got {len(ids)}")
    return ids[0], ids[1]


def _batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows by length, longest first, in batches of about CPU_TOKENS tokens."""
    order = np.argsort(-lengths, kind="stable")
    filled = np.cumsum(lengths[order]) // CPU_TOKENS
    edges = np.flatnonzero(np.diff(filled)) + 1
    return (part for part in np.split(order, edges) if len(part))


_SAMPLE = [
    "",
    "a",
    "one two three",
    "A sentence of ordinary length, with punctuation; and a number: 1234.",
    "naïve café 日本語 🦊 x_y.z()",
    "longer " * 60,
    "far too long for any model of this kind " * 80,
]
