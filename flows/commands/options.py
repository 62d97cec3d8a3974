"""The arguments and options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.usual import complete_run, need_config

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="[CONFIG]",
        help="YAML config file; default: RESCORE_CONFIG, or ./rescore.yaml",
        default_factory=need_config,
        show_default=False,
    ),
]
NamedConfig = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="override a config key")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="config that names the database")
]
DatabaseOption = Annotated[str | None, typer.Option("--database", metavar="URI")]

RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID", help="a run's id or its beginning", autocompletion=complete_run
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="RUN_ID",
        help="default: the config's newest",
        autocompletion=complete_run,
    ),
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="RUN",
        help="a run id or promoted name to compare with",
        autocompletion=complete_run,
    ),
]
QueryTypeOption = Annotated[
    str | None, typer.Option("--query-type", help="vector, fts or hybrid; default: hybrid")
]
QuerySetOption = Annotated[
    str | None,
    typer.Option("--query-set", metavar="NAME", help="only one of the config's several sets"),
]
JudgmentList = Annotated[
    str | None,
    typer.Option("--judgments", metavar="LIST", help="judgment list; default: the config's"),
]
Primary = Annotated[str | None, typer.Option("--primary", help="the measure that decides")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what it would do and cost")]

AllowRejects = Annotated[
    bool, typer.Option("--allow-rejects", help="exit with 0 where rows were rejected")
]
Server = Annotated[
    bool,
    typer.Option("--server", help="record a flow run, on a temporary server if none is set"),
]

AsJson = Annotated[bool, typer.Option("--json", help="one JSON object as the last line of stdout")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="print every line of the log")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, warnings only")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", metavar="FILE", help="append the log to a file")
]
