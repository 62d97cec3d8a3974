"""Queries by their text, as files of answers name them: a text may stand under several ids."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from reranking.spreadsheets import unescaped


class QueryTexts:
    """The queries by their text: exactly, else with line ends and outer blanks set aside."""

    def __init__(self, queries: pa.Table) -> None:
        self._exact: dict[str, list[dict[str, Any]]] = {}
        self._loose: dict[str, list[dict[str, Any]]] = {}
        for query in queries.to_pylist():
            self._exact.setdefault(query["text"], []).append(query)
            self._loose.setdefault(loose(query["text"]), []).append(query)

    def named(self, cell: str) -> list[dict[str, Any]]:
        """Return all queries whose text the cell holds; none if nobody asked so."""
        text = unescaped(cell)
        return self._exact.get(text) or self._loose.get(loose(text)) or []


def loose(text: str) -> str:
    """Return the text as a spreadsheet may leave it: no outer blanks, line ends of one kind."""
    return re.sub(r"\r\n?", "\n", text).strip()
