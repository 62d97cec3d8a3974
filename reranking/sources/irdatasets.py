"""Collections of the optional package ir-datasets, by ids such as `beir/scifact/test`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal

from reranking.errors import ConfigError, MissingPrerequisite, MissingResource
from reranking.sources.rows import Reject, Row

Part = Literal["docs", "queries", "qrels", "scoreddocs"]


def ir_dataset_rows(name: str | None, part: Part) -> Iterator[Row | Reject]:
    """The rows of one part of a collection, which is downloaded at its first use."""
    if not name:
        raise ConfigError("a source of format 'ir-datasets' needs a name, as 'beir/scifact/test'")
    dataset = _load(name)
    if not getattr(dataset, f"has_{part}")():
        raise MissingResource(f"ir-datasets: {name!r} has no {part}; name one of its subsets")
    number = 0
    try:
        for number, item in enumerate(getattr(dataset, f"{part}_iter")(), start=1):
            yield Row(number, _values(item))
    except Exception as error:  # downloads and parsers of a hundred collections raise anything
        raise MissingResource(
            f"ir-datasets: {name!r} failed after {number} {part}: {error}; it must be downloaded "
            "once while online"
        ) from error


def _load(name: str) -> Any:  # noqa: ANN401 - the package has no types
    try:
        ir_datasets = import_module("ir_datasets")
    except ImportError as error:
        raise MissingPrerequisite(
            "format 'ir-datasets' needs a package: pip install 'rescore[ir-datasets]'"
        ) from error
    try:
        return ir_datasets.load(name)
    except KeyError as error:
        raise MissingResource(
            f"ir-datasets knows no collection {name!r}: see https://ir-datasets.com"
        ) from error


def _values(item: Any) -> dict[str, object]:  # noqa: ANN401 - a named tuple of the collection's
    values: dict[str, object] = dict(item._asdict())
    if "text" not in values and hasattr(item, "default_text"):
        values["text"] = item.default_text()
    return values
