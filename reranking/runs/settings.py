"""What decides a run's results, read from its config: the pipeline it is a night of, its settings.

A pipeline is a name, a query set and a documents table. Its settings may change from night to
night: another limit, filter or model is another setting of the same pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from os.path import isabs
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from configs.schema import Config, short_name
from reranking import fingerprints

_MACHINE: Final = {
    *("device", "batch_size", "batch_tokens", "window_rows", "commit_seconds"),
    *("url", "key_env", "batch", "concurrency"),  # of a server that scores
}
_LATER: Final = {
    "name",
    "schedule",
    "results",
    "judgments",
    "comparison",
    "gates",
    "data_gates",
    "labels",
    "training",
    "keep",
}
_PLACES: Final = {"database", "path"}
_MODELS: Final = {"model", "model_name"}  # a folder's own name counts, not where it lies


class PipelineName(NamedTuple):
    """What names a pipeline; `ranking` tells somebody else's ranking from a search."""

    name: str | None
    query_set: str
    documents_table: str
    ranking: bool = False

    def __str__(self) -> str:
        parts = [self.name, self.query_set, self.documents_table]
        return "/".join([part for part in parts if part] + ["ranking"] * self.ranking)

    def includes(self, other: PipelineName) -> bool:
        """Whether the other one's runs are nights of this pipeline.

        Runs that were stored without a name are nights of any of the same queries and documents:
        a config that is given a name keeps its history.
        """
        return other[1:] == self[1:] and other.name in (self.name, None)


def pipeline_of(config: Config) -> PipelineName:
    """Return the pipeline that a config describes."""
    ranking = config.candidates is not None
    return PipelineName(config.name, config.queries.query_set, config.documents.table, ranking)


def pipeline_of_row(row: Mapping[str, Any]) -> PipelineName:
    """Return the pipeline that a row of the table `runs` is of, whatever version wrote it."""
    given = _given(row["config_json"])
    ranking = given.get("candidates") is not None
    return PipelineName(given.get("name"), row["query_set"], row["documents_table"], ranking)


def settings_digest(config: Config) -> str:
    """Digest what a config says of the results; where its database and files lie is no setting.

    Knobs of the machine, and what is done with finished results, are none either. Defaults are left
    out: a newer release's new keys must not make other settings.
    """
    return fingerprints.fingerprint(fingerprints.canonical(_kept(_deciding(config), _PLACES)))


def same_inputs(one: Config, other: Config) -> bool:
    """Whether two configs ask for the same results of the same files."""
    return _kept(_deciding(one), set()) == _kept(_deciding(other), set())


def _deciding(config: Config) -> dict[str, Any]:
    data = config.model_dump(mode="json", exclude_defaults=True, exclude={"execution", *_LATER})
    for one in data["queries"].get("sets", {}).values():  # what is measured on it decides nothing
        one.pop("judgments", None)
        one.pop("gates", None)
    return data


def settings_of_row(row: Mapping[str, Any]) -> str:
    """Return the digest of a stored run's settings.

    Earlier versions stored one that holds their paths; it stays, so that runs which `keep` kept
    apart are not counted together.
    """
    stored = str(row["pipeline"])
    return settings_of_json(row["config_json"]) if "/" in stored else stored


def differing(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of each row of `runs` what it has otherwise than another of the same pipeline.

    Each is {what: value}, in the words of the config; models are told apart by their fingerprints.
    """
    said = [_said(row) for row in rows]
    values: dict[tuple[str, str], set[str]] = {}
    for row, settings in zip(rows, said, strict=True):
        for what, value in settings.items():
            of = f"{row['query_set']}/{row['documents_table']}"
            values.setdefault((of, what), set()).add(fingerprints.canonical(value))
    return [
        {
            what: value
            for what, value in settings.items()
            if len(values[f"{row['query_set']}/{row['documents_table']}", what]) > 1
        }
        for row, settings in zip(rows, said, strict=True)
    ]


def changes(before: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Return in words what a run has otherwise than the run before it: `limit 10 -> 20`."""
    one, other = _said(before), _said(row)
    return [
        f"{what} {shown(one.get(what))} -> {shown(other.get(what))}"
        for what in dict.fromkeys([*one, *other])
        if one.get(what) != other.get(what)
    ]


def shown(value: Any) -> str:  # noqa: ANN401
    """Return a setting's value as people read it."""
    if isinstance(value, Mapping):
        parts = (
            f"{k} {shown(v)}" if isinstance(v, Mapping) else f"{k}={shown(v)}"
            for k, v in value.items()
        )
        return ", ".join(parts) or "none"
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value))
    return "none" if value is None else str(value)


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    given = _given(row["config_json"])
    search, rerank = given.get("search") or {}, given.get("rerank") or {}
    return {
        "limit": search.get("limit"),
        "where": search.get("where") or None,
        "types": search.get("query_types"),
        "metric": search.get("metric"),
        "nprobes": search.get("nprobes"),
        "refine_factor": search.get("refine_factor"),
        "ef": search.get("ef"),
        "encoder": _model((given["documents"].get("encoder") or {}).get("model"), row["encoder"]),
        "reranker": _model(row["reranker_model"], row["reranker"]),
        "top_k": rerank.get("top_k"),
        "return_score": rerank.get("return_score"),
        "activation": rerank.get("activation"),
        "fusion": search.get("fusion"),
        "blend": rerank.get("blend"),
    }


def _model(name: str | None, fingerprint: str | None) -> str | None:
    if fingerprint is None:
        return None
    short = "" if name is None else f"{short_name(name)} "
    return f"{short}{fingerprint[:8]}"


def _kept(value: object, places: set[str]) -> object:
    if isinstance(value, dict):
        return {
            k: short_name(v) if places and k in _MODELS and v and isabs(v) else _kept(v, places)
            for k, v in value.items()
            if k not in _MACHINE | places
        }
    return [_kept(v, places) for v in value] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=1000)
def settings_of_json(config_json: str) -> str:
    """Return the digest of a stored config's settings, as this version digests them."""
    try:
        return settings_digest(Config.model_validate_json(config_json))
    except ValidationError:  # another rescore wrote other keys
        return fingerprints.fingerprint(fingerprints.canonical(_kept(_given(config_json), _PLACES)))


@lru_cache(maxsize=1000)
def _given(config_json: str) -> dict[str, Any]:
    given: dict[str, Any] = json.loads(config_json)
    return given
