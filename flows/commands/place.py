"""Where a job runs: in this process, or as a flow run that a Prefect server records."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flows.commands.console import echo

if TYPE_CHECKING:
    from configs.schema import Config


def do(job: str, config: Config, *args: Any, server: bool = False) -> dict[str, Any]:
    """Do the job of `reranking.order` and of the flow of the same name; what --json prints of it.

    It is a recorded flow run if a Prefect server is configured or `server` asks for one, else the
    same steps are called in this process. One line on stderr says which of the two it is.
    """
    from flows.commands.server import configured, prepare
    from flows.commands.temporary import temporary_server

    server_address = configured()
    if server_address is None and not server:
        echo(f"{job}: in this process, no Prefect server is configured", err=True)
        from reranking.order import JOBS
        from reranking.pipeline import Pipeline

        return JOBS[job](Pipeline(config), *args)
    prepare(server_address)
    where = (
        "a temporary server"
        if server_address is None
        else f"{server_address.shown} ({server_address.origin})"
    )
    echo(f"{job}: a flow run on {where}", err=True)
    with nullcontext() if server_address is not None else temporary_server():
        flow = getattr(import_module(f"flows.{job}"), job)
        values: Any = flow(config, *args)
    if not isinstance(values, dict):  # a state of its own, with the values as its data
        values = values.data
    return dict(values)
