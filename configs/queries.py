"""What is asked: a query set, or several that are searched and scored as one."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from configs.evaluation import Gate, Judgments
from configs.part import Name, Part
from configs.source import Source, readable


class NamedSet(Part):
    source: Source | None = Field(None, description="None: as they are stored under that name")
    judgments: Judgments | None = Field(
        None, description="the set's own list and measures; None: the config's"
    )
    gates: tuple[Gate, ...] = Field((), description="on the queries of this set alone")

    @field_validator("source")
    @classmethod
    def _holds_queries(cls, value: Source | None) -> Source | None:
        return readable(value, "queries", "trec", "quepid", "python-docs")


class Queries(Part):
    query_set: Name = Field(description="the name under which the queries are stored")
    source: Source | None = Field(None, description="None: as they are stored already")
    sets: dict[Name, NamedSet] = Field(
        {}, description="NAME: the query sets that query_set is made of, each measured by itself"
    )

    @field_validator("source")
    @classmethod
    def _holds_queries(cls, value: Source | None) -> Source | None:
        return readable(value, "queries", "trec", "quepid", "python-docs")

    @model_validator(mode="after")
    def _made_of_sets(self) -> Queries:
        if self.sets and self.source is not None:
            raise ValueError("the queries are those of the sets: give source or sets, not both")
        if self.query_set in self.sets:
            raise ValueError(
                f"{self.query_set!r} is the name of all queries together: call the set otherwise"
            )
        piped = [n for n, s in self.sets.items() if s.source is not None and s.source.path == "-"]
        if len(piped) > 1:
            raise ValueError(f"only one set can be read from stdin, not {', '.join(piped)}")
        return self
