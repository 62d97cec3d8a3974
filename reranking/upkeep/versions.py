"""Versions of whole tables: old ones pruned, tables of an older schema upgraded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from reranking.schemas import SCHEMA_VERSION, VERSION_KEY
from reranking.store import Database, schema_version

log = logging.getLogger(__name__)

Step = Callable[[str, Any], None]

STEPS: tuple[Step, ...] = ()
"""STEPS[n - 1] brings a table, given by name and opened, from schema version n to n + 1.

It sees every table of ours and changes those it is about. A killed upgrade starts the step again,
so a step must not mind that its changes are there already.
"""

_LEAST = timedelta(milliseconds=1)  # LanceDB takes no age at all for its own default
_MARGINS = (1.0, 60.0, 3600.0)  # seconds: LanceDB's cut-off moves on while it compacts


def upgrade(database: Database, steps: Sequence[Step] | None = None) -> list[str]:
    """Bring every table of ours to the present schema version; the names of those that were older.

    Each table's mark moves after each step, so a killed upgrade goes on where it stopped. The
    database must have been opened with `upgrading`.
    """
    older = outdated(database)
    for name in older:
        table = database.need(name)
        first = str(table.schema.names[0])
        for version in range(schema_version(table.schema) or SCHEMA_VERSION, SCHEMA_VERSION):
            (STEPS if steps is None else steps)[version - 1](name, table)
            mark = {VERSION_KEY.decode(): str(version + 1)}
            table.update_field_metadata({"path": first, "metadata": mark})
    return older


def outdated(database: Database) -> list[str]:
    """The names of our tables whose schema version is older than the present one."""
    versions = {name: schema_version(database.need(name).schema) for name in our_tables(database)}
    return [name for name, version in versions.items() if version and version < SCHEMA_VERSION]


def our_tables(database: Database) -> list[str]:
    """The names of the tables that rescore made: their first column carries a schema version."""
    opened = {name: database.open(name) for name in sorted(database.names())}
    return [n for n, table in opened.items() if table is not None and schema_version(table.schema)]


def held_versions(database: Database, name: str, older_than: timedelta) -> tuple[int, list[str]]:
    """Return how many versions are older and still there, and the tags that hold them back.

    Every version since the oldest tagged one stays, so that one's tags are what holds.
    """
    table = database.need(name)
    now = datetime.now().astimezone()
    made = {v["version"]: v["timestamp"].astimezone() for v in table.list_versions()}
    old = [v for v, then in made.items() if now - then > older_than and v != table.version]
    tags = {tag: v for tag, v in database.tags(name).items() if v in made}
    first = min(tags.values(), default=None)
    held = [v for v in old if first is not None and v >= first]
    return len(held), sorted(tag for tag, v in tags.items() if v == first) if held else []


def prune(database: Database, name: str, older_than: timedelta) -> int:
    """Remove the table's versions that are older, up to its oldest tagged one; how many.

    LanceDB refuses to go past a tagged version, and removing versions between tags would leave
    their data files behind for ever (https://github.com/lance-format/lance/issues/8705).
    """
    for margin in _MARGINS:
        table = database.need(name)
        made = {v["version"]: v["timestamp"].astimezone() for v in table.list_versions()}
        now = datetime.now().astimezone()
        tagged = [now - made[v] for v in database.tags(name).values() if v in made]
        age = max([older_than, _LEAST, *(a + timedelta(seconds=margin) for a in tagged)])
        if not any(now - then > age for version, then in made.items() if version != table.version):
            return 0
        try:
            table.optimize(cleanup_older_than=age)
        except Exception as error:
            if "tagged version" in str(error):
                continue
            log.warning("versions of table %s were not pruned: %s", name, error)
            return 0
        return len(made) - sum(v["version"] in made for v in database.need(name).list_versions())
    log.warning("versions of table %s were not pruned: a tag is in the way", name)
    return 0
