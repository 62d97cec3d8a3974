"""Tables as Prefect assets: what was made of what, with row counts and versions."""

from __future__ import annotations

from collections.abc import Iterable

from prefect.assets import add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS

from reranking.store import Database

_ALLOWED = str.maketrans({c: "_" for c in RESTRICTED_ASSET_CHARACTERS})


def show_tables(uri: str, made: Iterable[str], made_of: Iterable[str] = ()) -> None:
    """Post those of the tables `made` that are there, as assets made of the others."""
    database = Database(uri)
    facts = {}
    for name in made:
        table = database.open(name)
        if table is not None:
            facts[asset_key(uri, name)] = {"rows": table.count_rows(), "version": table.version}
    if not facts:
        return

    @materialize(
        *facts,
        name="show-tables",
        cache_policy=NO_CACHE,
        asset_deps=[asset_key(uri, name) for name in made_of],
    )
    def post() -> None:
        for key, known in facts.items():
            add_asset_metadata(key, known)

    post()


def asset_key(uri: str, table: str) -> str:
    """`lance://DATABASE/TABLE`; what Prefect does not take in a key becomes `_`."""
    place = uri.partition("://")[2] or uri
    key = f"{place.strip('/')}/{table}".translate(_ALLOWED)
    return f"lance://{key[-(MAX_ASSET_KEY_LENGTH - len('lance://')) :]}"
