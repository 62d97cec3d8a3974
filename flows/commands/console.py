"""What all commands share: the app, its options, errors as exit codes, reading a config."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reranking.errors import (
    EXIT_DONE,
    EXIT_REJECTS,
    EXIT_UNEXPECTED,
    ConfigError,
    RescoreError,
)

if TYPE_CHECKING:
    from configs.schema import Config

app = typer.Typer(
    name="rescore",
    help="The offline side of LanceDB search: ingest, search, rerank, publish, evaluate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="override a config key")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object as the last line of stdout")]
AllowRejects = Annotated[
    bool, typer.Option("--allow-rejects", help="exit with 0 where rows were rejected")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="config that names the database")
]
DatabaseOption = Annotated[str | None, typer.Option("--database", metavar="URI")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="a run's id or its beginning")]

CANCELLED = "Stopped. What was committed is kept: start the same command again to continue."


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """The function as a command: its errors become messages and exit codes."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _stoppable():
                code = function(*args, **kwargs)
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
            raise typer.Exit(code or EXIT_DONE)

    return app.command()(run)  # type: ignore[return-value]


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


def _unexpected(error: Exception) -> str:
    """One line about an error that nobody foresaw; where it was raised, for those who ask."""
    if os.environ.get("RESCORE_TRACEBACK"):
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    cut = text if len(text) < 500 else f"{text[:500]}..."
    return f"unexpected {type(error).__name__}: {cut} (RESCORE_TRACEBACK=1 shows where)"


def _fail(message: str, code: int) -> None:
    typer.echo(f"rescore: {message}", err=True)
    raise typer.Exit(code)


def read_config(path: Path, overrides: list[str] | None) -> Config:
    """The validated config; every fault is in one error message."""
    from configs.load import ConfigFault, load_config

    try:
        return load_config(path, overrides or ())
    except ConfigFault as fault:
        raise ConfigError(str(fault)) from None


def database_uri(config: Path | None, database: str | None) -> str:
    """The database that the options name."""
    if (config is None) == (database is None):
        raise ConfigError("name the database by either --config FILE or --database URI")
    return database if database is not None else read_config(config or Path(), None).database


def calm_prefect() -> None:
    """Keep Prefect and LanceDB offline and quiet, where the environment does not say otherwise."""
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
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "LANCE_LOG": "error",
        "TOKENIZERS_PARALLELISM": "true",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }.items():
        os.environ.setdefault(name, value)


def say(values: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print one JSON value as a line on stdout."""
    typer.echo(json.dumps(values, default=str))


def exit_code(rejected: int, allow: bool) -> int:
    """0, or 7 where rows were rejected and that was not allowed."""
    return EXIT_REJECTS if rejected and not allow else EXIT_DONE
