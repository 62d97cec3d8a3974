"""Cells that a spreadsheet opens as text: what it would run as a formula gets a space in front."""

from __future__ import annotations

import re
from typing import Final

_FORMULA: Final = re.compile(r" *[=+\-@\t\r\n]")
_ESCAPED: Final = re.compile(r" +[=+\-@\t\r\n]")


def escaped(text: str) -> str:
    """Return a cell that no spreadsheet runs as a formula, as Quepid's own exports write it.

    `unescaped` gives back exactly what was written.
    """
    return f" {text}" if _FORMULA.match(text) else text


def unescaped(cell: str) -> str:
    """Return the text that `escaped` made the cell of."""
    return cell[1:] if _ESCAPED.match(cell) else cell
