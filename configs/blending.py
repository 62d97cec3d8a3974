"""How scores are joined: the legs' into the first stage, the reranker's with the legs'."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from configs.part import Part

RRF_K = 60  # LanceDB's RRFReranker and Cormack et al. (2009)


class _Named(Part):
    @property
    def named(self) -> dict[str, Any]:
        """What names results: the keys that differ from their defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Fusion(_Named):
    method: Literal["rrf", "convex", "distribution"] = Field(
        "rrf", description="by ranks, by scaled scores, or by scores in standard deviations"
    )
    k: int = Field(RRF_K, ge=1, description="of rrf: 1 / (k + rank)")
    vector: float = Field(
        0.5, ge=0, le=1, description="the vector leg's share; the rest is the FTS leg's"
    )
    scale: Literal["min-max", "theoretical"] = Field(
        "min-max",
        description="of convex: the lowest score is the query's lowest, or the least "
        "possible: cosine -1, BM25 0",
    )

    @model_validator(mode="after")
    def _of_its_method(self) -> Fusion:
        if self.method != "rrf" and self.k != RRF_K:
            raise ValueError(f"k belongs to the method rrf, not to {self.method}")
        if self.method != "convex" and self.scale != "min-max":
            raise ValueError(f"scale belongs to the method convex, not to {self.method}")
        return self

    @property
    def needs_cosine(self) -> bool:
        """Whether distances must be cosine distances."""
        return self.method == "convex" and self.scale == "theoretical"


class Blend(_Named):
    method: Literal["scores", "ranks"] = Field(
        "scores", description="logit plus weighted scores of the legs, or reciprocal ranks"
    )
    vector: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="weight of the vector leg: of its cosine"
    )
    fts: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the FTS leg: of BM25 as a share of the query's best",
    )
    scale: Literal["raw", "min-max"] = Field(
        "raw", description="min-max: both legs' scores from 0 to 1 within a query"
    )
    k: int = Field(RRF_K, ge=1, description="of ranks: 1 / (k + rank), the reranker's weight is 1")

    @model_validator(mode="after")
    def _of_its_method(self) -> Blend:
        if not (self.vector or self.fts):
            raise ValueError("blend adds nothing: give vector or fts a weight above 0")
        if self.method == "scores" and self.k != RRF_K:
            raise ValueError("k belongs to the method ranks")
        if self.method == "ranks" and self.scale != "raw":
            raise ValueError("scale belongs to the method scores")
        return self

    @property
    def needs_cosine(self) -> bool:
        """Whether distances must be cosine distances."""
        return self.method == "scores" and self.scale == "raw" and self.vector > 0


def metric_fault(metric: str | None, *joined: Fusion | Blend | None) -> str | None:
    """Return what is wrong if one of them needs cosine distances and the metric gives others."""
    for part in joined:
        if part is not None and part.needs_cosine and metric not in (None, "cosine"):
            name = {Fusion: "search.fusion", Blend: "rerank.blend"}[type(part)]
            return (
                f"{name} takes the cosine from the distance, but the metric is {metric}: give it "
                "scale: min-max, which takes any distance, a method by ranks, or set "
                "search.metric: cosine"
            )
    return None
