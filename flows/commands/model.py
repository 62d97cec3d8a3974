"""The command that gives a built-in model as a folder to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Answer, command, line
from reranking.errors import ConfigError


@command
def model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="builtin:NAME")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="a new folder")],
) -> Answer:
    """Write a built-in model as an ordinary folder: to train on, to look at, to change."""
    from reranking.models.builtin import BUILTIN_PREFIX, write_copy

    if not name.startswith(BUILTIN_PREFIX):
        raise ConfigError(
            f"{name!r} is no built-in model: expected builtin:minilm-reranker or "
            "builtin:all-MiniLM-L6-v2; a folder or a hub model needs no copy"
        )
    files = write_copy(name, out)
    return Answer({"model": name, "folder": str(out), "files": files}, line(f"{name} -> {out}"))
