"""A forward for the BERT layout that does only the work a reranker's one logit needs.

Tokens are packed without padding; query, key and value are one product; the last layer is
computed for the first token only, the one position that the head reads. Same weights and formulas
as transformers' BertForSequenceClassification and its siblings ELECTRA, RoBERTa and XLM-RoBERTa,
checked against them at load (load.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding, gelu, layer_norm, linear

from reranking.models.files import ModelFiles
from reranking.scoring.attention import Attention, choose_attention
from reranking.scoring.cpu.linears import Linear, Maker, choose_linear
from reranking.scoring.packing import Packed

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_BACKBONES = {
    "BertForSequenceClassification": "bert",
    "ElectraForSequenceClassification": "electra",
    "RobertaForSequenceClassification": "roberta",
    "XLMRobertaForSequenceClassification": "roberta",
}

# What the forward reads of the model's config.
CONFIG_KEYS = (
    "num_attention_heads",
    "layer_norm_eps",
    "pad_token_id",
    "hidden_size",
    "hidden_act",
)

Norm = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    """One transformer layer; `qkv` is (queries, keys and values) apart in the last one."""

    query: Linear | None
    qkv: Linear
    out: Linear
    out_norm: Norm
    up: Linear
    down: Linear
    down_norm: Norm


def fast_architecture(files: ModelFiles) -> bool:
    """Whether config.json names an architecture of this layout."""
    named = files.object("config.json").get("architectures")
    return isinstance(named, list) and len(named) == 1 and named[0] in _BACKBONES


def bert_layout(model: CrossEncoder) -> str | None:
    """The layout's name if the model can take the fast path, otherwise None."""
    stock: Any = model.transformers_model
    layout = _BACKBONES.get(type(stock).__name__)
    config = stock.config
    if layout is None or len(model) != 1 or config.hidden_act not in _ACTIVATIONS:
        return None
    plain = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    if not plain or config.is_decoder or config.add_cross_attention or config.num_labels != 1:
        return None
    return layout


class FastBert:
    """The model's weights, rearranged; computes float32 logits of packed pairs."""

    def __init__(self, model: CrossEncoder, layout: str, dtype: torch.dtype, rows: int) -> None:
        stock: Any = model.transformers_model
        backbone = getattr(stock, layout)
        self.config = stock.config
        self.dtype = dtype
        self.device = torch.device(model.device)
        self.heads = self.config.num_attention_heads
        self.epsilon = self.config.layer_norm_eps
        # RoBERTa's positions start after the padding id, and padding has none.
        self.pad: int | None = self.config.pad_token_id if layout == "roberta" else None
        self._load_embeddings(backbone)
        self._load_head(stock, backbone, layout)
        self.attend: Attention
        width = self.config.hidden_size // self.heads
        self.scale = width**-0.5
        self.attend, attention = choose_attention(self.device, dtype, self.heads, width)
        make, gemm = self._choose_linear(backbone.encoder.layer[0], rows)
        self.name = f"{gemm}-{attention}"
        layers = list(backbone.encoder.layer)
        self.layers = [self._layer(x, make, rows, x is layers[-1]) for x in layers]

    def _cast(self, parameter: torch.Tensor) -> torch.Tensor:
        return parameter.detach().to(self.dtype)

    def _norm(self, module: Any) -> Norm:
        return self._cast(module.weight), self._cast(module.bias)

    def _load_embeddings(self, backbone: Any) -> None:
        tables = backbone.embeddings
        self.words = self._cast(tables.word_embeddings.weight)
        self.positions = self._cast(tables.position_embeddings.weight)
        self.types = self._cast(tables.token_type_embeddings.weight)
        self.embedding_norm = self._norm(tables.LayerNorm)
        project = getattr(backbone, "embeddings_project", None)
        self.project = project and (self._cast(project.weight), self._cast(project.bias))

    def _load_head(self, stock: Any, backbone: Any, layout: str) -> None:
        """Kept in float32: it costs nothing and gives half precision finer scores."""
        head = stock.classifier
        dense, last = (
            (backbone.pooler.dense, head) if layout == "bert" else (head.dense, head.out_proj)
        )
        self.head = [p.detach().float() for m in (dense, last) for p in (m.weight, m.bias)]
        self.head_activation = gelu if layout == "electra" else torch.tanh

    def _choose_linear(self, layer: Any, rows: int) -> tuple[Maker, str]:
        up = layer.intermediate.dense
        name = _ACTIVATIONS[self.config.hidden_act]
        return choose_linear(self._cast(up.weight), self._cast(up.bias), name, rows)

    def _layer(self, stock: Any, make: Maker, rows: int, last: bool) -> _Layer:
        own = stock.attention.self

        def fused(*modules: Any, activation: str = "") -> Linear:
            # Attention's scale is part of the query's weights.
            scales = [self.scale if m is own.query else 1.0 for m in modules]
            weights, biases = (
                torch.cat(
                    [self._cast(getattr(m, name) * s) for m, s in zip(modules, scales, strict=True)]
                )
                for name in ("weight", "bias")
            )
            return make(weights, biases, activation, rows)

        return _Layer(
            query=fused(own.query) if last else None,
            qkv=fused(own.key, own.value) if last else fused(own.query, own.key, own.value),
            out=fused(stock.attention.output.dense),
            out_norm=self._norm(stock.attention.output.LayerNorm),
            up=fused(stock.intermediate.dense, activation=_ACTIVATIONS[self.config.hidden_act]),
            down=fused(stock.output.dense),
            down_norm=self._norm(stock.output.LayerNorm),
        )

    def __call__(self, packed: Packed) -> torch.Tensor:
        """Float32 logits (pairs,)."""
        x = self._embed(packed)
        for layer in self.layers[:-1]:
            q, k, v = layer.qkv(x).view(len(x), 3, self.heads, -1).unbind(1)
            x = self._rest(layer, self.attend(q, k, v, packed, False), x)
        layer = self.layers[-1]
        first = x[packed.starts[:-1].long()]
        assert layer.query is not None
        q = layer.query(first).view(len(first), self.heads, -1)
        k, v = layer.qkv(x).view(len(x), 2, self.heads, -1).unbind(1)
        return self._score(self._rest(layer, self.attend(q, k, v, packed, True), first))

    def _embed(self, packed: Packed) -> torch.Tensor:
        x = embedding(packed.ids, self.words)
        x = x + embedding(packed.types, self.types)
        x = x + embedding(self._position_ids(packed), self.positions)
        x = layer_norm(x, x.shape[-1:], *self.embedding_norm, self.epsilon)
        return linear(x, *self.project) if self.project else x

    def _position_ids(self, packed: Packed) -> torch.Tensor:
        if self.pad is None:
            return packed.positions
        counted = (packed.ids != self.pad).long()
        before = torch.nn.functional.pad(counted.cumsum(0), (1, 0))[packed.starts[:-1].long()]
        return (counted.cumsum(0) - before[packed.rows]) * counted + self.pad

    def _rest(self, layer: _Layer, attended: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The layer from the attention's output on."""
        size = x.shape[-1:]
        x = layer_norm(
            layer.out(attended.reshape(len(x), -1)) + x, size, *layer.out_norm, self.epsilon
        )
        return layer_norm(layer.down(layer.up(x)) + x, size, *layer.down_norm, self.epsilon)

    def _score(self, first: torch.Tensor) -> torch.Tensor:
        dense, dense_bias, last, last_bias = self.head
        pooled = self.head_activation(linear(first.float(), dense, dense_bias))
        return linear(pooled, last, last_bias).squeeze(1)
