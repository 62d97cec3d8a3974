"""What all commands share: the app, its options, errors as exit codes, reading a config."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.options import AsJson, LogFile, Quiet, Verbose
from flows.commands.panels import panel_of
from flows.commands.usual import need_config, usual_config
from reranking.errors import (
    EXIT_DONE,
    EXIT_REJECTS,
    EXIT_UNEXPECTED,
    ConfigError,
    MissingPrerequisite,
    RescoreError,
)

if TYPE_CHECKING:
    from configs.schema import Config

app = typer.Typer(
    name="rescore",
    help="The offline side of LanceDB search: ingest, search, rerank, publish, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"rescore {version('rescore')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say the version")
    ] = False,
) -> None:
    """The offline side of LanceDB search: ingest, search, rerank, publish, evaluate."""


_TOLD = 5  # rejected rows
_SIGPIPE = 141
CANCELLED = "Stopped. What was committed is kept: start the same command again to continue."


@dataclass(frozen=True)
class Answer:
    """What a command found: `values` for --json, `show` prints them for people.

    `fault` is an error that the command ends with after its values were shown. `database` is where
    rows were rejected: the first of them are told if that makes the exit code.
    """

    values: dict[str, Any] | list[dict[str, Any]]
    show: Callable[[Any], None]
    code: int = EXIT_DONE
    fault: RescoreError | None = None
    database: str | None = None


def line(text: str) -> Callable[[Any], None]:
    """Return what prints one line of text, whatever the values are."""
    return lambda values: echo(text)


def printable(text: str) -> str:
    """Return the text with characters that steer a terminal shown, not sent; line ends stay.

    They are C0 and C1 controls, and those that turn the direction of writing around.
    """
    return _STEERING.sub(lambda match: ascii(match[0])[1:-1], text)


_STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def echo(text: str, *, err: bool = False) -> None:
    """Print a line: every command prints by this, as JSON, or by `tables.show`."""
    typer.echo(printable(text), err=err)


def command(function: Callable[..., Answer]) -> Callable[..., None]:
    """Make the function a command: with --json and a log; errors are messages and exit codes."""

    @wraps(function)
    def run(
        *args: Any,
        as_json: bool,
        verbose: bool,
        quiet: bool,
        log_file: Path | None,
        **kwargs: Any,
    ) -> None:
        from flows.commands.log import logged

        calm_libraries()
        began = datetime.now(UTC)
        try:
            with _stoppable(), logged(verbose=verbose, quiet=quiet, file=log_file):
                _need_temporary_folder()
                answer = function(*args, **kwargs)
                _give(answer, as_json, began)
        except ClosedPipe:
            _end_quietly()
        except RescoreError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail(CANCELLED, 130)
        except SystemExit as stopped:
            _fail(CANCELLED, int(stopped.code or 0))
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            _fail(_unexpected(error), EXIT_UNEXPECTED)
        else:
            raise typer.Exit(answer.code)

    signature = inspect.signature(function, eval_str=True)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (
            ("as_json", False, AsJson),
            ("verbose", False, Verbose),
            ("quiet", False, Quiet),
            ("log_file", None, LogFile),
        )
    ]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *own]
    )
    return app.command(rich_help_panel=panel_of(function.__name__))(run)


class ClosedPipe(Exception):
    """Nobody reads stdout any more, as behind `| head`."""


def _end_quietly() -> None:
    """End as programs do that SIGPIPE ends: without a word, and with its exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed at the end once more
    raise typer.Exit(_SIGPIPE)


def _give(answer: Answer, as_json: bool, began: datetime) -> None:
    """Print what a command found; raises the fault that it ends with."""
    try:
        if as_json:
            echo(json.dumps(answer.values, default=str).replace("\x7f", "\\u007f"))
        else:
            answer.show(answer.values)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ClosedPipe from None
    if answer.fault is not None:
        raise answer.fault
    if answer.code == EXIT_REJECTS and answer.database is not None:
        _tell_rejects(answer.database, began)


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the command like Ctrl-C does, with its own exit code."""

    def stop(number: int, _: object) -> None:
        # Within a flow Prefect takes the signal first: the scores in hand were then committed by
        # the flow on its way out. To exit in order also ends Prefect's own server process.
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _need_temporary_folder() -> None:
    """Raise MissingPrerequisite if LanceDB could not write its temporary files."""
    named = os.environ.get("TMPDIR")
    place = Path(named or "/tmp")  # noqa: S108 - what LanceDB takes itself
    if os.name == "posix" and not (place.is_dir() and os.access(place, os.W_OK)):
        origin = "TMPDIR" if named else "TMPDIR is not set"
        raise MissingPrerequisite(
            f"{place} ({origin}) is no folder that can be written, and temporary files go there: "
            "set TMPDIR to one that can"
        )


def readable_anywhere() -> None:
    """Have characters that a terminal's encoding lacks shown as `?`, not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


def _unexpected(error: Exception) -> str:
    """One line about an error that nobody foresaw; where it was raised, for those who ask."""
    if os.environ.get("RESCORE_TRACEBACK"):
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    cut = text if len(text) < 500 else f"{text[:500]}..."
    return f"unexpected {type(error).__name__}: {cut} (RESCORE_TRACEBACK=1 shows where)"


def _fail(message: str, code: int) -> None:
    from configs.source import masked

    echo(f"rescore: {masked(message)}", err=True)
    raise typer.Exit(code)


def _tell_rejects(uri: str, began: datetime) -> None:
    """Print the first of the rows that the command rejected."""
    from configs.source import masked
    from reranking.corpus.rejects import stored_rejects
    from reranking.store import Database

    rows = [row for row in stored_rejects(Database(uri)) if row["rejected_at"] >= began]
    for row in rows[:_TOLD]:
        which = f"row {row['row_number']}" + (f", id {row['id']}" if row["id"] else "")
        echo(f"rejected: {which}: {row['reason']}", err=True)
    more = f"{len(rows) - _TOLD:,} more; " if len(rows) > _TOLD else ""
    echo(
        f"rejected: {more}`rescore rejects --database {masked(uri)}` lists them, --allow-rejects "
        "makes the exit code 0",
        err=True,
    )


def read_config(path: Path, overrides: list[str] | None) -> Config:
    """The validated config; every fault is in one error message."""
    from configs.load import ConfigFault, load_config

    try:
        return load_config(path, overrides or ())
    except ConfigFault as fault:
        raise ConfigError(str(fault)) from None


def database_of(
    config: Path | None, database: str | None, *, named: bool = False
) -> tuple[str, Config | None]:
    """Return the database that the options name, and the config if they name one.

    Without either it is that of the usual config, unless it has to be `named`: what deletes must
    not take another database than was meant.
    """
    neither = config is None and database is None
    if neither and not named and usual_config() is not None:
        config = need_config()
    elif neither or (config is not None and database is not None):
        raise ConfigError(
            "name the database by either --config FILE or --database URI"
            + (": what deletes takes no usual config" if named else "")
        )
    if database is not None:
        return database, None
    settings = read_config(config or Path(), None)
    return settings.database, settings


def open_database(config: Path | None, database: str | None, *, named: bool = False) -> Any:
    """Open the database that the options name, as `database_of` does."""
    uri, _ = database_of(config, database, named=named)
    from reranking.store import Database

    return Database(uri, must_exist=True)


def calm_libraries() -> None:
    """Keep Prefect and LanceDB offline and quiet, unless the environment says otherwise."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        # Without a server nobody reads Prefect's log, and errors are told once, by the command.
        "PREFECT_LOGGING_LEVEL": "INFO" if "PREFECT_API_URL" in os.environ else "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "LANCE_LOG": "error",
        "TOKENIZERS_PARALLELISM": "true",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        os.environ.setdefault(name, value)


def exit_code(rejected: int, allow: bool) -> int:
    """0, or 7 where rows were rejected and that was not allowed."""
    return EXIT_REJECTS if rejected and not allow else EXIT_DONE
