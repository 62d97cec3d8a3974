"""What is done with a run's results: the table for consumers, the report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from configs.part import Name, Part, is_ours
from configs.source import DatabasePlace, open_place


class Publish(Part):
    table: Name = Field(description="the table's name")
    database: DatabasePlace = Field(description="folder or URI of the consumers' database")


def _kind_of_publish(value: object) -> str:
    return "name" if isinstance(value, str) else "place"  # so that a fault is told once


class Results(Part):
    publish: (
        Annotated[
            Annotated[Name, Tag("name")] | Annotated[Publish, Tag("place")],
            Discriminator(_kind_of_publish),
        ]
        | None
    ) = Field(
        None,
        description="also replace this table, in one commit; elsewhere: `{table: NAME, database: "
        "URI}`",
    )
    shared: bool = Field(
        False, description="several query sets share the table, each replacing its own rows"
    )
    serve: Literal["newest", "promoted"] = Field(
        "newest", description="which run is published; promoted: that of comparison.against"
    )
    columns: tuple[str, ...] = Field(
        (), description="for consumers: query_text, or any column of the documents"
    )
    report: str | None = Field(
        None, min_length=1, description="folder where flows write a report on each run"
    )

    report_url: str | None = Field(
        None, description="where that folder is served; links lead there, not to a file"
    )
    metrics: str | None = Field(
        None, min_length=1, description="file for Prometheus' textfile collector, ends in .prom"
    )

    @field_validator("metrics")
    @classmethod
    def _textfile(cls, value: str | None) -> str | None:
        if value is not None and ("://" in value or not value.endswith(".prom")):
            raise ValueError("metrics is a local file that ends in .prom: others are not collected")
        return value

    @field_validator("report_url")
    @classmethod
    def _served(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("report_url is an http:// or https:// address")
        return value

    @field_validator("report")
    @classmethod
    def _local(cls, value: str | None) -> str | None:
        if value is not None and "://" in open_place(value):
            raise ValueError("reports are written to a local folder")
        return value

    @property
    def table(self) -> str | None:
        """The name of the table for consumers."""
        return self.publish.table if isinstance(self.publish, Publish) else self.publish

    @property
    def place(self) -> str | None:
        """The database of the table for consumers; None: the one that is worked in."""
        return self.publish.database if isinstance(self.publish, Publish) else None

    @model_validator(mode="after")
    def _shares_something(self) -> Results:
        if self.publish is None and (self.shared or self.serve != "newest"):
            raise ValueError("shared and serve are about a table: name it with results.publish")
        if self.report_url is not None and self.report is None:
            raise ValueError("report_url is where reports are served: name their folder, report")
        return self

    @field_validator("publish")
    @classmethod
    def _not_ours(cls, value: str | Publish | None) -> str | Publish | None:
        table = value.table if isinstance(value, Publish) else value
        if table is not None and (is_ours(table) or table.lower() == "documents"):
            raise ValueError(f"{table} is a name of rescore's own; choose another")
        return value
