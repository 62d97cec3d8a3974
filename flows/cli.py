"""The command line. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys

import flows.commands.deploy  # noqa: F401 - its commands register themselves
import flows.commands.doctor  # noqa: F401 - its commands register themselves
import flows.commands.evaluation  # noqa: F401 - its commands register themselves
import flows.commands.explain  # noqa: F401 - its commands register themselves
import flows.commands.jobs  # noqa: F401 - its commands register themselves
import flows.commands.labelling  # noqa: F401 - its commands register themselves
import flows.commands.model  # noqa: F401 - its commands register themselves
import flows.commands.report  # noqa: F401 - its commands register themselves
import flows.commands.runs  # noqa: F401 - its commands register themselves
import flows.commands.stored  # noqa: F401 - its commands register themselves
import flows.commands.what_if  # noqa: F401 - its commands register themselves
from flows.commands.console import app, readable_anywhere
from flows.commands.panels import in_order

readable_anywhere()
_registered = app.registered_commands
_names = [command.callback.__name__ for command in _registered if command.callback is not None]
app.registered_commands = [_registered[place] for place in in_order(_names)]

if __name__ == "__main__":
    sys.exit(app())
