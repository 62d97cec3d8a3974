"""Tables whose files are damaged: which table and file, what is lost, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from reranking.errors import MissingResource

_MAGIC: Final = b"LANC"  # the last bytes of every data file, https://lance.org/format/file
_LOST: Final = {
    "pair_scores": "stored scores, which are computed again",
    "candidates": "stored candidates, which are searched again",
    "searches": "which queries were searched, which is done again",
    "recalls": "what vector indexes lose, which is measured again",
    "runs": "the list of runs; their results tables stay",
    "queries": "query sets, which the next run reads from their sources again",
    "judgments": "judgment lists: imported ones are read again, people's answers are not",
    "metrics": "measures, which are computed again",
    "ingests": "that a source is unchanged, which the next ingest finds out again",
    "documents": "documents and their vectors, which the next ingest reads and encodes again",
}


def has_lost_its_manifests(uri: str, name: str) -> bool:
    """Return whether a table of a local database was committed to and has no version any more.

    The folder that a killed writer left before the first commit has at most one transaction.
    """
    if "://" in uri:
        return False
    place = Path(uri) / f"{name}.lance"
    transactions = place / "_transactions"
    if not transactions.is_dir() or len(list(transactions.iterdir())) < 2:
        return False
    versions = place / "_versions"
    return not (versions.is_dir() and any(versions.iterdir()))


def is_damage(error: Exception) -> bool:
    """Return whether LanceDB could not read what a file must hold."""
    text = str(error)
    return "LanceError(IO)" in text or "failed to fill whole buffer" in text


def damaged(uri: str, name: str, reason: str) -> MissingResource:
    """Return the error about a damaged table, with the files that are cut off, if any are found."""
    place = f"{uri.rstrip('/')}/{name}.lance"
    files = [] if "://" in uri else _cut_off(Path(place))
    shown = f" (cut off: {', '.join(files[:3])})" if files else ""
    lost = _LOST.get(name, "what it held")
    return MissingResource(
        f"table {name!r} in {uri} is damaged: {reason}{shown}. Restore {place} from a back-up, or "
        f"move it away. Lost with it: {lost}"
    )


def _cut_off(place: Path) -> list[str]:
    """The table's data files that do not end as such files do, by their names."""
    names = []
    for path in sorted((place / "data").glob("*.lance")):
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - len(_MAGIC), 0))
            if file.read() != _MAGIC:
                names.append(f"data/{path.name}")
    return names
