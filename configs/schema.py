"""The config: what a run is made of, validated as a whole before anything heavy is imported.

Every part is frozen and refuses unknown keys. A key's default is right for most; its description
is the documentation (the README's table of keys is generated from it).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.blending import Blend, Fusion, metric_fault
from configs.documents import Documents
from configs.evaluation import ComparisonSettings, DataGates, Gate, Judgments
from configs.execution import Execution
from configs.labelling import Labels, Training
from configs.part import LEGS, Name, Part, QueryType
from configs.queries import Queries
from configs.results import Results
from configs.schedule import Schedule
from configs.served import RerankApi
from configs.source import DatabasePlace, Place, Source, readable

Scalar = str | int | float | bool
Metric = Literal["cosine", "l2", "dot"]


class Search(Part):
    query_types: tuple[QueryType, ...] = Field(
        ("vector", "fts", "hybrid"), min_length=1, description="views of the candidates"
    )
    limit: int = Field(50, ge=1, le=10_000, description="per leg, as LanceDB's limit")
    where: dict[str, Scalar | list[Scalar] | dict[str, Scalar]] = Field(
        {}, description="column: value, [values] or {gte: value, lt: value}; in structs meta.lang"
    )
    metric: Metric | None = Field(None, description="None: the vector index's own, else cosine")
    nprobes: int | None = Field(
        None, ge=1, description="IVF partitions searched; None: as many as min_recall needs"
    )
    refine_factor: int | None = Field(
        None, ge=1, description="limit times it are ranked exactly; None: as min_recall needs"
    )
    ef: int | None = Field(
        None, ge=1, description="HNSW candidates of a query; None: as many as min_recall needs"
    )
    bypass_vector_index: bool = Field(False, description="search exactly although there is one")
    min_recall: float | None = Field(
        0.95,
        gt=0,
        le=1,
        description="of exact search's hits, what a vector index must find; None: not measured",
    )
    chunk_queries: int = Field(1000, ge=1, description="queries searched and scored together")
    fusion: Fusion | None = Field(
        None, description="how hybrid's first stage joins its legs; None: rrf, as LanceDB"
    )

    @model_validator(mode="after")
    def _joins_something(self) -> Search:
        if self.fusion is not None and "hybrid" not in self.query_types:
            raise ValueError("fusion joins the legs of hybrid search, which query_types lacks")
        if fault := metric_fault(self.metric, self.fusion):
            raise ValueError(fault)
        return self

    @property
    def legs(self) -> tuple[str, ...]:
        """The legs that the query types need, each once."""
        return tuple(dict.fromkeys(leg for t in self.query_types for leg in LEGS[t]))

    @field_validator("query_types")
    @classmethod
    def _once(cls, value: tuple[QueryType, ...]) -> tuple[QueryType, ...]:
        if len(set(value)) != len(value):
            raise ValueError("each query type at most once")
        return value

    @field_validator("where", mode="before")
    @classmethod
    def _conditions(cls, value: Any) -> Any:
        """Each condition checked here: of a union every member would report a fault of its own."""
        if not isinstance(value, dict):
            raise ValueError("expected column: condition")
        found, faults = {}, []
        for column, condition in value.items():
            try:
                found[column] = _condition(column, condition)
            except ValueError as fault:
                faults.append(str(fault))
        if faults:
            raise ValueError("; ".join(faults))
        return found


OPERATORS = ("eq", "ne", "gt", "gte", "lt", "lte")


def _condition(column: object, condition: Any) -> Any:
    if isinstance(condition, dict):
        unknown = [name for name in condition if name not in OPERATORS]
        if unknown or not condition:
            raise ValueError(
                f"{column}: operators are {', '.join(OPERATORS)}, not {unknown}; a field inside a "
                "struct is named by its path, as `meta.lang: en`"
            )
        return {name: _literal(column, one) for name, one in condition.items()}
    if isinstance(condition, list | tuple):
        if not condition:
            raise ValueError(f"{column}: an empty list would match nothing")
        return [_literal(column, one) for one in condition]
    return _literal(column, condition)


def _literal(column: object, value: Any) -> Scalar:
    if isinstance(value, date):  # YAML reads 2026-01-31 as a date
        return value.isoformat()
    if not isinstance(value, str | int | float | bool):
        raise ValueError(
            f"{column}: expected a value, a list of values, or operators with a value each, "
            f"got {type(value).__name__}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{column}: {value} can be compared with nothing")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{column}: {value:.3e} is beyond 64 bits")
    return value


class Candidates(Part):
    source: Source = Field(description="rows of query_id, doc_id and, if there are, score or rank")
    query_type: QueryType = Field(
        "hybrid", description="the name its results go by; fts keeps its scores as _score"
    )

    @field_validator("source")
    @classmethod
    def _holds_rankings(cls, value: Source) -> Source:
        readable(value, "rankings", "beir", "quepid", "python-docs")
        return value


class AnswerTokens(Part):
    positive: str = Field(min_length=1, description="token of a match, e.g. yes")
    negative: str | None = Field(
        None, min_length=1, description="token of no match; None: the positive logit alone"
    )


_OF_LOCAL_MODELS = (
    *("model_name", "revision", "max_length", "precision", "batch_tokens", "refine", "prompt"),
    *("prompt_name", "label", "answer_tokens", "trust_remote_code"),
)


class Rerank(Part):
    model_name: Place = Field(
        "cross-encoder/ms-marco-TinyBERT-L-6", description="builtin:NAME, local folder or hub id"
    )
    return_score: Literal["relevance", "all"] = Field(
        "relevance", description="all: _distance and _score as well"
    )
    column: str | None = Field(None, description="text to score; None: the documents' text")
    device: str | tuple[str, ...] | None = Field(
        None, description="None: cuda if available, else cpu; a list: one process per device"
    )
    revision: str | None = Field(None, description="hub revision; the commit is recorded")
    max_length: int | None = Field(None, ge=4, description="tokens per pair; None: the model's own")
    activation: Literal["identity", "sigmoid"] | None = Field(
        None, description="applied when results are published; None: the model's own"
    )
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "auto", description="auto: float32 on CPU, half on CUDA"
    )
    batch_tokens: int | None = Field(None, ge=64, description="tokens per batch; None: measured")
    top_k: int | None = Field(None, ge=1, description="ranks kept; None: all (hybrid: limit)")
    refine: Literal["float32"] | None = Field(
        None, description="after half precision: score again what may be among the top_k"
    )
    blend: Blend | None = Field(
        None, description="the final score is the raw logit with the legs' scores; None: it alone"
    )
    prompt: str | None = Field(None, description="instruction; None: the model's own, if any")
    prompt_name: str | None = Field(None, description="one of the prompts in the model's folder")
    label: int | str | None = Field(
        None, description="of several labels the one that ranks, by name or number"
    )
    answer_tokens: AnswerTokens | None = Field(
        None, description="what a language model answers; its logits make the score"
    )
    trust_remote_code: bool = Field(False, description="run code from the model's folder")
    api: RerankApi | None = Field(
        None, description="a server scores, not a model here; None: no text leaves this machine"
    )

    @property
    def model(self) -> str:
        """The name of the model that scores, on a server or here."""
        return self.model_name if self.api is None else self.api.model

    @model_validator(mode="after")
    def _one_place(self) -> Rerank:
        fields = type(self).model_fields
        given = [n for n in _OF_LOCAL_MODELS if getattr(self, n) != fields[n].default]
        if self.api is not None and given:
            raise ValueError(
                f"api has a server score, {', '.join(given)} would say how a model is loaded here: "
                "leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _one_prompt(self) -> Rerank:
        if self.prompt is not None and self.prompt_name is not None:
            raise ValueError("prompt and prompt_name are two ways to say the same: give one")
        return self

    @model_validator(mode="after")
    def _refines_something(self) -> Rerank:
        if self.refine and (self.top_k is None or self.precision == "float32"):
            raise ValueError(
                "refine scores again what half precision leaves near the top_k-th rank: give a "
                "top_k, and precision bfloat16, float16 or auto"
            )
        if self.refine and self.blend is not None and self.blend.method == "ranks":
            raise ValueError(
                "refine knows how far a logit may be off, not a rank: blend by scores, or leave "
                "out refine"
            )
        return self


class Keep(Part):
    runs: int = Field(30, ge=1, description="newest finished runs of the same settings that stay")
    days: int = Field(90, ge=0, description="younger runs stay as well")
    scores: Literal["all", "used"] = Field(
        "all", description="used: maintain drops scores that nothing asks for any more"
    )


class Config(Part):
    name: Name | None = Field(
        None, description="of deployments and lists; None: the config file's name without .yaml"
    )
    database: DatabasePlace = Field(description="folder or URI: s3://, gs://, az://")
    documents: Documents
    queries: Queries
    search: Search = Search()
    candidates: Candidates | None = Field(
        None, description="somebody else's ranking instead of a search, cut at search.limit"
    )
    rerank: Rerank | None = Field(Rerank(), description="null publishes the first stage")
    results: Results = Results()
    judgments: Judgments | None = None
    comparison: ComparisonSettings = ComparisonSettings()
    gates: tuple[Gate, ...] = Field((), description="exit code 1 where one of them fails")
    data_gates: DataGates = Field(
        DataGates(), description="the same for what came in and what changed since last time"
    )
    labels: Labels | None = None
    training: Training = Training()
    keep: Keep | None = Field(None, description="what maintain forgets; None: nothing")
    execution: Execution = Execution()
    schedule: Schedule = Field(Schedule(), description="when deployed flows run by themselves")

    @property
    def judgment_lists(self) -> tuple[str, ...]:
        """The judgment lists that labels and training data are made with."""
        if self.labels is not None and self.labels.judgments:
            return self.labels.judgments
        return tuple(dict.fromkeys(given.judgment_list for given in self.all_judgments))

    @property
    def all_judgments(self) -> tuple[Judgments, ...]:
        """What is said of judgments: for all queries, then for each query set that has its own."""
        given = (self.judgments, *(one.judgments for one in self.queries.sets.values()))
        return tuple(one for one in given if one is not None)

    def of_set(self, name: str) -> Config:
        """Return the config as it is for one of its query sets: that one's judgments and gates."""
        own = self.queries.sets[name]
        return self.model_copy(
            update={"judgments": own.judgments or self.judgments, "gates": own.gates}
        )

    @property
    def ignore_identical_ids(self) -> bool:
        """Whether measures leave out a document that is named like its query."""
        return self.judgments is not None and self.judgments.ignore_identical_ids

    @property
    def gated(self) -> bool:
        """Whether anything may refuse a run."""
        of_sets = any(one.gates for one in self.queries.sets.values())
        return bool(self.gates) or of_sets or self.data_gates.active

    @property
    def title(self) -> str:
        """Query set and models, for lists of runs."""
        encoder, reranker = self.documents.encoder, self.rerank
        models = [] if encoder is None else [short_name(encoder.model)]
        models += [] if reranker is None else [short_name(reranker.model)]
        return " ".join([self.queries.query_set, *models])

    @model_validator(mode="after")
    def _whole(self) -> Config:
        publish, place = self.results.table, self.results.place
        if (
            place in (None, self.database)
            and publish is not None
            and publish.lower() == self.documents.table.lower()
        ):
            raise ValueError("results.publish must not be the documents table")
        if self.candidates is not None and self.search.where:
            raise ValueError("candidates are not searched: search.where cannot filter them")
        blend = None if self.rerank is None else self.rerank.blend
        if fault := metric_fault(self.search.metric, blend):
            raise ValueError(fault)
        if self.candidates is not None and (blend is not None or self.search.fusion is not None):
            raise ValueError(
                "candidates are one given ranking: there are no legs to fuse (search.fusion) or to "
                "blend with (rerank.blend)"
            )
        if self.gates and self.judgments is None:
            raise ValueError("gates need judgments: name a judgments.judgment_list")
        if faults := [*self._sets_without_judgments(), *self._lists_of_two_sources()]:
            raise ValueError("; ".join(faults))
        return self

    def _sets_without_judgments(self) -> Iterator[str]:
        for name in self.queries.sets:
            own = self.of_set(name)
            if own.gates and own.judgments is None:
                yield (
                    f"the gates of query set {name!r} need judgments: name "
                    f"queries.sets.{name}.judgments or judgments"
                )

    def _lists_of_two_sources(self) -> Iterator[str]:
        """A list that is shared has one source: of two the last would win."""
        sources: dict[str, Source] = {}
        for given in self.all_judgments:
            name, source = given.judgment_list, given.source
            if source is not None and sources.setdefault(name, source) != source:
                yield (
                    f"judgment list {name!r} is given two sources: name it in several places, but "
                    "give its source in one"
                )


def short_name(model: str) -> str:
    """The model's name without its folder, organisation or `builtin:`."""
    return PurePath(model.removeprefix("builtin:")).name
