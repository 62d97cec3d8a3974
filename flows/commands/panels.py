"""The commands in groups, those that are needed first at the top: what `rescore --help` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_PANELS: Final[dict[str, tuple[str, ...]]] = {
    "First": ("quickstart", "doctor", "run", "ingest", "runs", "show", "rejects"),
    "Is it better?": (
        *("evaluate", "compare", "history", "report", "explain", "diff", "search", "sweep"),
        *("reevaluate", "bakeoff", "watch", "import_run", "promote"),
    ),
    "For others": ("publish", "export", "deploy"),
    "Labels and training data": (
        *("label", "labels", "worklist", "worklist_import", "agreement", "mine"),
        *("export_training", "export_judgments", "model"),
    ),
    "Upkeep": ("maintain", "forget", "queries", "judgments", "erase"),
}
_ORDER: Final = [name for names in _PANELS.values() for name in names]
_REST: Final = "More"


def panel_of(command: str) -> str:
    """Return the title of the group that a command is in."""
    return next((title for title, names in _PANELS.items() if command in names), _REST)


def in_order(commands: Sequence[str]) -> list[int]:
    """Return the places of the commands in the order in which they are shown."""

    def key(place: int) -> tuple[int, str]:
        name = commands[place]
        return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)

    return sorted(range(len(commands)), key=key)
