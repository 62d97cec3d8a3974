"""The ModernBERT layout on packed tokens: local and global attention, rotary positions, GeGLU.

Same weights and formulas as transformers' ModernBertForSequenceClassification, or as the trunk in
front of sentence-transformers' Pooling, Dense and LayerNorm (Ettin's rerankers); checked against
them at load (load.py). If the first token alone is read and the last layer is global, that layer
is computed for the first token only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding, layer_norm

from reranking.scoring.attention import Attention, choose_attention
from reranking.scoring.cpu.linears import Linear, Maker, choose_linear
from reranking.scoring.packing import Packed

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_HEAD = {"Dense", "LayerNorm"}  # modules behind the pooling that take a vector a pair

Norm = tuple[torch.Tensor, torch.Tensor | None]
Head = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    """One transformer layer; `query` is apart from `qkv` if only the first token asks."""

    window: int | None  # most tokens between a token and one that it attends to
    norm: Norm | None
    query: Linear | None
    qkv: Linear
    out: Linear
    mlp_norm: Norm
    value: Linear  # with the activation
    gate: Linear
    down: Linear


def modernbert_layout(model: CrossEncoder) -> str | None:
    """`modernbert` if the model has that layout and gives one label, otherwise None."""
    stock: Any = model.transformers_model
    config, modules = stock.config, list(model)
    if type(stock).__name__ == "ModernBertForSequenceClassification":
        fits = len(modules) == 1 and config.num_labels == 1
    elif type(stock).__name__ == "ModernBertModel":
        fits = _is_pooled_chain(modules)
    else:
        return None
    ropes = (config.rope_parameters or {}).values()
    plain = all(r is None or r.get("rope_type") == "default" for r in ropes)
    return "modernbert" if fits and plain and config.hidden_activation in _ACTIVATIONS else None


def _is_pooled_chain(modules: list[Any]) -> bool:
    """Whether a pooling and layers that end in one score follow the trunk."""
    if len(modules) < 3 or type(modules[1]).__name__ != "Pooling":
        return False
    pooling, last = modules[1], modules[-1]
    known = {type(m).__name__ for m in modules[2:]} <= _HEAD
    # Tokens of a prompt that are left out of the mean are not known here.
    pooled = pooling.pooling_mode in ("cls", "mean") and pooling.include_prompt
    return known and pooled and getattr(last, "out_features", 0) == 1


class FastModernBert:
    """The model's weights, rearranged; computes float32 logits of packed pairs."""

    def __init__(self, model: CrossEncoder, dtype: torch.dtype, rows: int) -> None:
        stock: Any = model.transformers_model
        trunk = getattr(stock, "model", stock)
        self.config = stock.config
        self.dtype = dtype
        self.device = torch.device(model.device)
        self.heads = self.config.num_attention_heads
        self.epsilon = self.config.norm_eps
        width = self.config.hidden_size // self.heads
        self.scale = width**-0.5
        self.activation = _ACTIVATIONS[self.config.hidden_activation]
        self.words = self._cast(trunk.embeddings.tok_embeddings.weight)
        self.embedding_norm = self._norm(trunk.embeddings.norm)
        self.final_norm = self._norm(trunk.final_norm)
        self.pooling, self.head = _head(model)
        self.rotary = self._frequencies(trunk)
        self.attend: Attention
        self.attend, attention = choose_attention(self.device, dtype, self.heads, width)
        make, gemm = self._choose_linear(trunk.layers[0], rows)
        self.name = f"{gemm}-{attention}"
        layers = list(trunk.layers)
        self.layers = [self._layer(x, make, rows, x is layers[-1]) for x in layers]

    def _cast(self, parameter: torch.Tensor) -> torch.Tensor:
        return parameter.detach().to(self.dtype)

    def _norm(self, module: Any) -> Norm:
        return self._cast(module.weight), None if module.bias is None else self._cast(module.bias)

    def _frequencies(self, trunk: Any) -> dict[int | None, tuple[torch.Tensor, float]]:
        """Window -> (angles per position, factor of sine and cosine), in float32."""
        rotary = trunk.rotary_emb
        return {
            self._window(kind): (
                getattr(rotary, f"{kind}_inv_freq").detach().float(),
                float(getattr(rotary, f"{kind}_attention_scaling")),
            )
            for kind in set(self.config.layer_types)
        }

    def _window(self, kind: str) -> int | None:
        return int(self.config.sliding_window) if kind == "sliding_attention" else None

    def _choose_linear(self, layer: Any, rows: int) -> tuple[Maker, str]:
        (weight, bias), _ = self._halves(layer.mlp.Wi)
        return choose_linear(weight, bias, self.activation, rows)

    def _halves(self, module: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Weights and biases of the two halves of a gated layer's first product."""
        weights = self._cast(module.weight).chunk(2)
        biases = (None, None) if module.bias is None else self._cast(module.bias).chunk(2)
        return [(w.contiguous(), b) for w, b in zip(weights, biases, strict=True)]

    def _layer(self, stock: Any, make: Maker, rows: int, last: bool) -> _Layer:
        window = self._window(stock.attention_type)
        q, k, v = self._thirds(stock.attn.Wqkv)

        def fused(*parts: tuple[torch.Tensor, torch.Tensor | None]) -> Linear:
            biases = [b for _, b in parts if b is not None]
            bias = torch.cat(biases) if biases else None
            return make(torch.cat([w for w, _ in parts]), bias, "", rows)

        def plain(module: Any) -> Linear:
            bias = None if module.bias is None else self._cast(module.bias)
            return make(self._cast(module.weight), bias, "", rows)

        value, gate = self._halves(stock.mlp.Wi)
        norm = None if type(stock.attn_norm).__name__ == "Identity" else stock.attn_norm
        alone = last and window is None and self.pooling == "cls"
        return _Layer(
            window=window,
            norm=norm and self._norm(norm),
            query=fused(q) if alone else None,
            qkv=fused(k, v) if alone else fused(q, k, v),
            out=plain(stock.attn.Wo),
            mlp_norm=self._norm(stock.mlp_norm),
            value=make(*value, self.activation, rows),
            gate=make(*gate, "", rows),
            down=plain(stock.mlp.Wo),
        )

    def _thirds(self, module: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Query, key and value apart; attention's scale is part of the query's weights."""
        weights = module.weight.detach().chunk(3)
        biases = (None,) * 3 if module.bias is None else module.bias.detach().chunk(3)
        scales = (self.scale, 1.0, 1.0)
        return [
            (self._cast(w * s), None if b is None else self._cast(b * s))
            for w, b, s in zip(weights, biases, scales, strict=True)
        ]

    def __call__(self, packed: Packed) -> torch.Tensor:
        """Float32 logits (pairs,)."""
        x = self._normed(embedding(packed.ids, self.words), self.embedding_norm)
        turns = {w: self._turn(packed, *rotary) for w, rotary in self.rotary.items()}
        for layer in self.layers:
            y = x if layer.norm is None else self._normed(x, layer.norm)
            if layer.query is None:
                q, k, v = layer.qkv(y).view(len(y), 3, self.heads, -1).unbind(1)
                q, k = (_rotated(part, *turns[layer.window]) for part in (q, k))
                x = self._rest(layer, self.attend(q, k, v, packed, False, layer.window), x)
            else:
                x = self._first(layer, x, y, packed, turns[None])
        return self._score(x, packed)

    def _first(
        self,
        layer: _Layer,
        x: torch.Tensor,
        y: torch.Tensor,
        packed: Packed,
        turn: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """The last layer for the first tokens, whose position 0 is not rotated."""
        assert layer.query is not None
        first = packed.starts[:-1].long()
        q = layer.query(y[first]).view(len(first), self.heads, -1)
        k, v = layer.qkv(y).view(len(y), 2, self.heads, -1).unbind(1)
        k = _rotated(k, *turn)
        # Rotating by no angle leaves the factor.
        q = q * self.rotary[None][1] if self.rotary[None][1] != 1 else q
        return self._rest(layer, self.attend(q, k, v, packed, True, None), x[first])

    def _turn(
        self, packed: Packed, angles: torch.Tensor, factor: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine (tokens, 1, width / 2) of each token's position."""
        steps = torch.arange(max(packed.lengths), device=angles.device, dtype=angles.dtype)
        table = torch.outer(steps, angles)
        cosine, sine = (t * factor for t in (table.cos(), table.sin()))
        return cosine[packed.positions].unsqueeze(1), sine[packed.positions].unsqueeze(1)

    def _normed(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], *norm, self.epsilon)

    def _rest(self, layer: _Layer, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The layer from the attention's output on."""
        x = x + layer.out(attended.reshape(len(x), -1))
        y = self._normed(x, layer.mlp_norm)
        return x + layer.down(layer.value(y).mul_(layer.gate(y)))

    def _score(self, x: torch.Tensor, packed: Packed) -> torch.Tensor:
        """The logits of all tokens' outputs, or of the first tokens' alone."""
        pairs = len(packed.lengths)
        if self.pooling == "cls" and len(x) != pairs:
            x = x[packed.starts[:-1].long()]
        x = self._normed(x, self.final_norm).float()
        if self.pooling == "mean":
            summed = x.new_zeros(pairs, x.shape[1]).index_add_(0, packed.rows, x)
            x = summed / packed.starts.diff()[:, None]
        return self.head(x).squeeze(1)


def _rotated(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """x (tokens, heads, width), each half turned with the other by the token's angles."""
    a, b = x.float().chunk(2, -1)
    turned = torch.cat((a * cosine - b * sine, b * cosine + a * sine), -1)
    return turned.to(x.dtype)


def _head(model: CrossEncoder) -> tuple[str, Head]:
    """How tokens are pooled, and the layers behind: copies, that stay in the float32 of loading."""
    stock: Any = model.transformers_model
    modules: list[Any] = list(model)
    if len(modules) == 1:
        layers: Any = torch.nn.Sequential(stock.head, stock.classifier)
        return stock.config.classifier_pooling, copy.deepcopy(layers)
    behind = copy.deepcopy(modules[2:])

    def score(pooled: torch.Tensor) -> torch.Tensor:
        features = {"sentence_embedding": pooled}
        for module in behind:
            features = module(features)
        return features["scores"]

    return modules[1].pooling_mode, score
