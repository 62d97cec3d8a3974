"""The command that says whether the configured run has everything that it needs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.console import Answer, command, read_config
from flows.commands.doctor_documents import DocumentsHealth, need_writable
from flows.commands.options import ConfigFile, Overrides
from flows.commands.schedules import TAG, name_of
from flows.commands.server import ask_for, check, configured
from reranking.errors import EXIT_DONE, MissingPrerequisite, RescoreError, worst

if TYPE_CHECKING:
    from configs.schema import Config


@command
def doctor(config: ConfigFile, set: Overrides = None) -> Answer:
    """Check versions, models, devices, database, indexes, server and disk; estimate the run."""
    settings = read_config(config, set)
    findings = examine(settings, config)
    values: dict[str, Any] = {"findings": [vars(f) for f in findings], "estimate": None}
    code = worst_code(findings)
    if code == EXIT_DONE:
        from reranking.forecast import forecast
        from reranking.pipeline import Pipeline

        try:
            values["estimate"] = forecast(Pipeline(settings))
        except RescoreError as error:  # e.g. nothing is ingested yet
            values["estimate_not_possible"] = str(error)
    return Answer(values, _show, code)


def _show(values: dict[str, Any]) -> None:
    from flows.commands.tables import estimate_table, findings_table, show

    show(findings_table(values["findings"]), estimate_table(values["estimate"]))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `code` is the exit code it asks for, 0 where it is well."""

    what: str
    code: int
    detail: str


def examine(config: Config, file: Path) -> list[Finding]:
    """Look at everything, in the order in which a run needs it."""
    from reranking.forecast import queries_asked
    from reranking.pipeline import Pipeline

    looks: list[tuple[str, Callable[[], str]]] = [
        ("system", _system),
        ("versions", _versions),
        ("cache", _cache),
        ("proxy", _proxy),
        ("config and models", lambda: _models(config)),
        *(
            [("reranker's server", lambda: _served(config))]
            if config.rerank and config.rerank.api
            else []
        ),
        ("device", lambda: _device(config)),
        ("database", lambda: _database(config)),
        ("disk", lambda: _disk(config)),
        *DocumentsHealth(config).looks,
        ("queries", lambda: f"{queries_asked(Pipeline(config)).num_rows:,} queries"),
        ("prefect server", _server),
        ("scheduled runs", lambda: _scheduled(config, file)),
    ]
    return [_look(what, look) for what, look in looks]


def worst_code(findings: list[Finding]) -> int:
    """The exit code that stands for all findings."""
    return worst(EXIT_DONE, *(f.code for f in findings))


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, EXIT_DONE, look())
    except RescoreError as error:
        return Finding(what, error.exit_code, str(error))


def _versions() -> str:
    from importlib.metadata import version

    faults = list(_wrong_versions())
    if faults:
        raise MissingPrerequisite("; ".join(faults) + ". Install with constraints.txt")
    return f"lancedb {version('lancedb')}, prefect {version('prefect')}, torch {version('torch')}"


def _system() -> str:
    """Python, operating system, processor: what a report should say first."""
    from reranking.scoring.machine import processor

    known = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve"}
    able = sorted(known & {*processor().lower().split()})
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores, {', '.join(able) or 'no vector instructions that are known'}"
    )


def _cache() -> str:
    from reranking.models.builtin import cache_origin, default_cache

    folder = default_cache()
    try:
        need_writable(folder)
    except MissingPrerequisite as error:
        raise MissingPrerequisite(
            f"{error}; {cache_origin()} names the cache. Set RESCORE_CACHE to a folder of your own"
        ) from error
    return f"{folder} ({cache_origin()})"


def _proxy() -> str:
    """Which variables name a proxy; never their values, which may hold passwords."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    given = [n for name in names for n in (name, name.lower()) if os.environ.get(n)]
    if not given:
        return "none is set"
    return f"{', '.join(given)}; this machine's own addresses are asked directly"


def _wrong_versions() -> Iterator[str]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    for line in requires("rescore") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            present = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is not installed"
            continue
        if not wanted.specifier.contains(present, prereleases=True):
            yield f"{wanted.name} is {present}, expected {wanted.specifier}"


def _models(config: Config) -> str:
    from reranking.pipeline import Pipeline

    pipeline = Pipeline(config)
    pipeline.check()
    encoder, reranker = pipeline.configured_encoder, pipeline.reranker
    names = [
        "no encoder" if encoder is None else f"encoder {encoder.fingerprint[:8]}",
        "no reranker"
        if reranker is None
        else f"reranker {reranker.fingerprint.hex()[:8]} ({reranker.dtype}"
        + (f", {reranker.max_length} tokens)" if reranker.max_length else ")"),
    ]
    return ", ".join(names)


def _served(config: Config) -> str:
    from reranking.pipeline import Pipeline
    from reranking.scoring.served import ServedModel

    model = Pipeline(config).reranker
    assert isinstance(model, ServedModel)
    return model.probe()


def _device(config: Config) -> str:
    from reranking.scoring.scorer import resolve_device

    given = None if config.rerank is None else config.rerank.device
    devices = given if isinstance(given, list) else [given]
    return ", ".join(resolve_device(device) for device in devices)


def _database(config: Config) -> str:
    from reranking.files import need_links
    from reranking.store import Database

    remote = "://" in config.database
    if not remote:
        need_writable(Path(config.database))
        need_links(Path(config.database))
        if not Path(config.database).is_dir():
            return f"{config.database} will be made"
    database = Database(config.database)
    names = database.names()
    for name in names:
        database.open(name)  # raises for a broken one and for another schema version
    return f"{len(names)} tables in {config.database}"


def _disk(config: Config) -> str:
    if "://" in config.database:
        return "an object store"
    from reranking.files import nearest_folder

    place = nearest_folder(Path(config.database))
    free = shutil.disk_usage(place).free / 1e9
    if free < 1:
        raise MissingPrerequisite(f"{free:.2f} GB free at {place}: less than 1 GB")
    return f"{free:,.0f} GB free"


def _server() -> str:
    server = configured()
    if server is None:
        return "none is configured: jobs run in this process, recorded only with --server"
    check(server)
    return f"{server.shown} answers ({server.origin})"


def _scheduled(config: Config, file: Path) -> str:
    """Whether the server plans the config's scheduled runs: a dead scheduler does not say so."""
    server = configured()
    if server is None:
        return "no server: cron or a timer starts `rescore run`"
    name = name_of(config, file)
    tags = {"tags": {"all_": [f"{TAG}:{name}"]}}
    deployed = ask_for(server, "deployments/filter", {"deployments": tags})
    if not deployed:
        return f"{name} is not deployed: `rescore deploy {file}`"
    planned = [d for d in deployed if any(s.get("active") for s in d.get("schedules") or [])]
    if not planned:
        return f"{len(deployed)} deployments of {name}, none on a schedule that is active"
    waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}, **tags}
    order = {"sort": "NEXT_SCHEDULED_START_TIME_ASC", "limit": 1}
    runs = ask_for(server, "flow_runs/filter", {"flow_runs": waiting, **order})
    if not runs:
        newest = max(str(d.get("updated") or d.get("created")) for d in planned)
        raise MissingPrerequisite(
            f"{len(planned)} deployments of {name} have a schedule, but the server has planned no "
            f"run of them. It plans within a minute or two of `rescore deploy` (last: {newest}); "
            "if none comes, its scheduler is dead: look at the server's log and the versions that "
            "pyproject.toml bounds"
        )
    return f"the next run of {name} is planned for {runs[0].get('next_scheduled_start_time')}"
