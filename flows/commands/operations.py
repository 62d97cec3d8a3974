"""Commands for those who run the thing: doctor, and what a deployment needs beside prefect.yaml."""

from __future__ import annotations

from typing import Any

import typer

from flows.commands.console import (
    AsJson,
    ConfigFile,
    Overrides,
    calm_prefect,
    command,
    read_config,
    say,
)


@command
def doctor(config: ConfigFile, set: Overrides = None, as_json: AsJson = False) -> int:
    """Check versions, models, devices, database, indexes, server and disk; estimate the run."""
    calm_prefect()
    settings = read_config(config, set)
    from flows.commands.examination import examine, exit_code, forecast
    from reranking.errors import RescoreError

    findings = examine(settings)
    values: dict[str, Any] = {"findings": [vars(f) for f in findings], "estimate": None}
    code = exit_code(findings)
    if code == 0:
        try:
            values["estimate"] = forecast(settings)
        except RescoreError as error:  # e.g. nothing is ingested yet
            values["estimate_not_possible"] = str(error)
    show_findings(values, as_json)
    return code


def show_findings(values: dict[str, Any], as_json: bool) -> None:
    """Print what was found, and the estimate where there is one."""
    if as_json:
        say(values)
        return
    from flows.commands.tables import estimate_table, findings_table, show

    show(findings_table(values["findings"]), estimate_table(values["estimate"]))


def dry_run(config: Any, as_json: bool) -> int:
    """Print what the run would cost; nothing is written."""
    from flows.commands.examination import forecast
    from flows.commands.tables import estimate_table, show

    values = forecast(config)
    say({"status": "dry run", **values}) if as_json else show(estimate_table(values))
    return 0


@command
def deploy(config: ConfigFile, as_json: AsJson = False) -> int:
    """Register the scheduled flows for a config on the server of PREFECT_API_URL."""
    calm_prefect()
    read_config(config, None)
    from flows.commands.deployment import deploy as register

    values = register(config)
    if as_json:
        say(values)
    else:
        typer.echo(
            f"registered from {values['root']}; start a worker with "
            f"`prefect worker start --pool {values['work_pool']}`"
        )
    return 0
