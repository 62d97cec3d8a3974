"""The documents: where they come from, their text, their encoder, their indexes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from configs.part import Name, Part, is_ours
from configs.source import DatabasePlace, Place, Source, readable


class Encoder(Part):
    model: Place = Field(description="builtin:NAME, a local folder, or a hub id")
    revision: str | None = Field(None, description="hub revision; the commit is recorded")
    batch_size: int = Field(64, ge=1, description="texts per forward pass")
    device: str | None = Field(None, description="None: cuda if available, else cpu")
    prompt: str | None = Field(None, description="put before every document")
    query_prompt: str | None = Field(None, description="put before every query")
    truncate_dim: int | None = Field(None, ge=1, description="keep the first N dimensions")
    trust_remote_code: bool = Field(False, description="run code from the model's folder")


class VectorIndex(Part):
    type: Literal[
        "auto",
        "IVF_FLAT",
        "IVF_SQ",
        "IVF_PQ",
        "IVF_RQ",
        "IVF_HNSW_FLAT",
        "IVF_HNSW_SQ",
        "IVF_HNSW_PQ",
    ] = Field("IVF_HNSW_SQ", description="LanceDB's; auto: an index where it is faster than none")
    num_partitions: int | None = Field(None, ge=1, description="IVF partitions")
    num_sub_vectors: int | None = Field(None, ge=1, description="PQ sub-vectors")
    num_bits: int | None = Field(None, ge=1, description="per sub-vector (PQ) or number (RQ)")
    m: int | None = Field(None, ge=1, description="neighbours of a node of HNSW")
    ef_construction: int | None = Field(None, ge=1, description="HNSW candidates while building")

    @model_validator(mode="after")
    def _fits_the_type(self) -> VectorIndex:
        given = self.model_dump(exclude={"type"}, exclude_none=True)
        wrong = [name for name in given if self.type not in _TYPES_WITH[name]]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)}: not of {self.type}; "
                + "; ".join(f"{name} is of {', '.join(_TYPES_WITH[name])}" for name in wrong)
            )
        return self


_HNSW = ("IVF_HNSW_FLAT", "IVF_HNSW_SQ", "IVF_HNSW_PQ")
_TYPES_WITH = {
    "num_partitions": ("auto", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", *_HNSW),
    "num_sub_vectors": ("IVF_PQ", "IVF_HNSW_PQ"),
    "num_bits": ("IVF_PQ", "IVF_RQ", "IVF_HNSW_PQ"),
    "m": _HNSW,
    "ef_construction": _HNSW,
}


class FtsIndex(Part):
    language: str = Field("English", description="of stemmer and stop words")
    base_tokenizer: Literal["simple", "whitespace", "raw", "ngram", "icu"] = Field(
        "simple", description="icu for text without spaces"
    )
    stem: bool = Field(True, description="reduce words to stems")
    remove_stop_words: bool = Field(True, description="leave out the language's stop words")
    ascii_folding: bool = Field(True, description="match letters without their accents")
    lower_case: bool = Field(True, description="match without regard to case")
    with_position: bool = Field(False, description="keep positions (phrase queries elsewhere)")


class Newest(Part):
    newest_by: str = Field(min_length=1, description="the row with its highest value counts")


def _kind_of_rule(value: object) -> str:
    return "word" if isinstance(value, str) else "rule"  # so that a fault is told once


class Documents(Part):
    source: Source | None = Field(None, description="where documents come from")
    table: Name = Field("documents", description="table in the database")
    managed: bool = Field(True, description="false: somebody else's table, read and never written")
    id: str = Field("doc_id", description="id column (of a table that is not managed)")
    text: str = Field("text", description="text column (of a table that is not managed)")
    vector: str = Field("vector", description="vector column")
    database: DatabasePlace | None = Field(
        None, description="where a table with managed: false is; only ever read; None: `database`"
    )
    version: int | str | None = Field(
        None, description="of a table with managed: false: number or tag; None: the newest"
    )
    on_duplicate: Annotated[
        Annotated[Literal["error"], Tag("word")] | Annotated[Newest, Tag("rule")],
        Discriminator(_kind_of_rule),
    ] = Field(
        "error", description="ids that stand twice with managed: false; or `{newest_by: COLUMN}`"
    )
    template: str | None = Field(
        None, description="text that is stored, e.g. '{title} {text}' (what beir defaults to)"
    )
    encoder: Encoder | None = Field(
        None, description="the embedding model; None: documents and queries bring their vectors"
    )
    vector_index: VectorIndex | None = Field(None, description="None: exact search")
    fts_index: FtsIndex = Field(FtsIndex(), description="LanceDB's FTS settings")
    types: dict[str, Literal["bool", "int64", "float64", "text"]] = Field(
        {}, description="of columns of the source's own; others have the narrowest that fits"
    )
    delete_missing: bool = Field(False, description="remove rows that left the source")
    delete_limit: float = Field(
        0.1, ge=0, le=1, description="share that may be removed at once (20 rows always may)"
    )
    window_rows: int = Field(20_000, ge=1, description="rows read and encoded at a time")

    @property
    def text_template(self) -> str:
        """The template of the text that is stored."""
        beir = self.source is not None and self.source.format == "beir"
        return self.template or ("{title} {text}" if beir else "{text}")

    @property
    def may_bypass_index(self) -> bool:
        """Whether a vector index that finds too little is not used."""
        return self.vector_index is not None and self.vector_index.type == "auto"

    @field_validator("source")
    @classmethod
    def _holds_documents(cls, value: Source | None) -> Source | None:
        return readable(value, "documents", "trec", "quepid")

    @model_validator(mode="after")
    def _consistent(self) -> Documents:
        if self.managed:
            if is_ours(self.table):
                raise ValueError(f"{self.table} is a name of rescore's own; choose another")
            renamed = [n for n in ("id", "text") if getattr(self, n) != _DOC_DEFAULTS[n]]
            if renamed or self.vector != "vector":
                raise ValueError(
                    "id, text and vector name columns of a table that is not managed; "
                    "map a source's columns with source.columns"
                )
            foreign = [n for n in ("database", "version") if getattr(self, n) is not None]
            foreign += ["on_duplicate"] if self.on_duplicate != "error" else []
            if foreign:
                raise ValueError(f"{', '.join(foreign)}: only of a table with managed: false")
        elif self.template is not None:
            raise ValueError(
                "template makes the text that an ingest stores, and a table with managed: false is "
                "never written: name the column to be scored as rerank.column"
            )
        elif self.source is not None or self.vector_index is not None:
            raise ValueError("a table with managed: false is never written: no source, no index")
        return self


_DOC_DEFAULTS = {"id": "doc_id", "text": "text"}
