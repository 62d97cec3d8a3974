"""Search: each leg is a brute-force search of its kind; ties are cut by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from lancedb.index import FTS

from configs.documents import Documents
from configs.schema import Search
from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, content_digest
from reranking.corpus.foreign import pin_foreign
from reranking.corpus.indexes import need_fts
from reranking.errors import ConfigError, InputError, MissingResource
from reranking.fingerprints import text_hash
from reranking.runs.search import query_vectors, search_chunk
from reranking.store import Database
from tests.support import tiny


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    kind = pa.list_(pa.float32(), tiny.WIDTH)
    return pa.table(
        {
            "sku": pa.array([i for i, _ in enumerate(rows)], pa.int64()),
            "body": [r["text"] for r in rows],
            "embedding": pa.array([r["vector"] for r in rows], kind),
            "even": [i % 2 == 0 for i, _ in enumerate(rows)],
        }
    )


@pytest.fixture
def products(tmp_path: Path) -> tuple[Database, Corpus, pa.Table]:
    """A table of somebody else's, with its own names and integer ids."""
    table = table_of(tiny.documents(80))
    made = lancedb.connect(tmp_path / "db").create_table("products", table)
    made.create_index("body", config=FTS())
    database = Database(str(tmp_path / "db"))
    return database, foreign(database), table


def foreign(database: Database, **names: str) -> Corpus:
    given: dict[str, Any] = {"id": "sku", "text": "body", "vector": "embedding"}
    given |= {"table": "products", "managed": False} | names
    scored = given.pop("scored", None)
    return pin_foreign(database, Documents(**given), scored=scored, needs_vector=True)


def asked(texts: list[str]) -> pa.Table:
    rows = tiny.queries(texts)
    return pa.table(
        {
            "query_id": [r["query_id"] for r in rows],
            "text": texts,
            "text_hash": pa.array([text_hash(t) for t in texts], pa.binary(16)),
            "vector": pa.array([r["vector"] for r in rows], pa.list_(pa.float32())),
        }
    )


def search(
    products: tuple[Database, Corpus, pa.Table], queries: pa.Table, **options: Any
) -> pl.DataFrame:
    database, corpus, _ = products
    chosen: dict[str, Any] = {"query_types": ("hybrid",), "limit": 7} | options
    vectors = query_vectors(queries, None, tiny.WIDTH)
    return frame(search_chunk(database, corpus, queries, vectors, Search(**chosen)))


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
@pytest.mark.parametrize("count", [1, 3, 401])
def test_the_vector_leg_is_a_brute_force_search(
    products: tuple[Database, Corpus, pa.Table], metric: str, count: int
) -> None:
    queries = asked(["river"] * count)
    found = search(products, queries, query_types=("vector",), metric=metric)
    documents = np.array(products[2]["embedding"].to_pylist(), np.float32)
    for row in queries.slice(count - 1).to_pylist():
        query = np.array(row["vector"], np.float32)
        distance = {
            "cosine": 1 - documents @ query / np.linalg.norm(documents, axis=1),
            "l2": ((documents - query) ** 2).sum(axis=1),
            "dot": 1 - documents @ query,
        }[metric]
        mine = found.filter(query_id=row["query_id"]).sort("vector_rank")
        assert mine["doc_id"].to_list() == [str(i) for i in np.argsort(distance)[:7]]
        assert np.allclose(mine["_distance"], np.sort(distance)[:7], atol=1e-5)
    assert found["fts_rank"].null_count() == len(found)


def test_the_fts_leg_is_lancedbs_own(products: tuple[Database, Corpus, pa.Table]) -> None:
    queries = asked(["river stone", "winter", "", "zyzzyva"])
    found = search(products, queries, query_types=("fts",), limit=80)
    own = lancedb.connect(products[0].uri).open_table("products")
    for row in queries.to_pylist():
        theirs = own.search(row["text"], query_type="fts").limit(80).to_arrow()
        expected = dict(zip(map(str, theirs["sku"].to_pylist()), theirs["_score"], strict=True))
        mine = found.filter(query_id=row["query_id"])
        assert set(mine["doc_id"]) == set(expected)
        for doc_id, score in zip(mine["doc_id"], mine["_score"], strict=True):
            assert score == pytest.approx(expected[doc_id].as_py())


def test_a_tie_at_the_limit_is_cut_by_id_however_long(tmp_path: Path) -> None:
    same = [{"text": "river stone", "vector": [1.0] + [0.0] * 7}] * 120
    shuffled = table_of(same).take(np.random.default_rng(3).permutation(120))
    made = lancedb.connect(tmp_path / "db").create_table("products", shuffled)
    made.create_index("body", config=FTS())
    database = Database(str(tmp_path / "db"))
    found = search((database, foreign(database), shuffled), asked(["river"] * 2), limit=5)
    first = sorted(str(i) for i in range(120))[:5]
    for query_id in ("q000", "q001"):
        mine = found.filter(query_id=query_id).sort("vector_rank")
        assert mine["doc_id"].to_list() == first
        assert mine["fts_rank"].to_list() == [1, 2, 3, 4, 5]


def test_a_filter_holds_in_both_legs(products: tuple[Database, Corpus, pa.Table]) -> None:
    found = search(products, asked(["river"]), where={"even": True, "sku": {"lt": 50}}, limit=50)
    expected = {str(i) for i in range(0, 50, 2)}
    assert set(found["doc_id"]) == expected  # the vector leg reaches all that pass
    assert found["fts_rank"].drop_nulls().len() > 0


def test_hashes_are_those_of_the_text(products: tuple[Database, Corpus, pa.Table]) -> None:
    found = search(products, asked(["river"]))
    texts = products[2]["body"].to_pylist()
    hashes = {text_hash(texts[int(i)]) for i in found["doc_id"]}
    assert set(found["doc_hash"]) == hashes


def test_query_vectors_are_checked() -> None:
    queries = asked(["a", "b"])
    with pytest.raises(InputError, match="has 8 numbers, the documents' vectors have 5"):
        query_vectors(queries, None, 5)
    none = queries.drop_columns(["vector"])
    with pytest.raises(InputError, match="no vector and the config names no documents.encoder"):
        query_vectors(none, None, 8)

    class Broken:
        def encode_queries(self, texts: Any) -> np.ndarray:
            return np.full((len(texts), 8), np.nan, np.float32)

    with pytest.raises(InputError, match="the vector of query 'q000' is not finite"):
        query_vectors(none, Broken(), 8)


def test_a_foreign_table_is_checked_before_it_is_read(
    products: tuple[Database, Corpus, pa.Table],
) -> None:
    database = products[0]
    with pytest.raises(ConfigError, match=r"has no column \['nope'\]; its columns are"):
        foreign(database, text="nope")
    with pytest.raises(ConfigError, match="'even' is bool, expected text or integers"):
        foreign(database, id="even")
    with pytest.raises(ConfigError, match="expected a fixed-size list"):
        foreign(database, vector="body")
    with pytest.raises(MissingResource, match="no table 'other'"):
        foreign(database, table="other")


def test_a_missing_fts_index_says_what_to_run(tmp_path: Path) -> None:
    lancedb.connect(tmp_path / "db").create_table("products", table_of(tiny.documents(5)))
    database = Database(str(tmp_path / "db"))
    with pytest.raises(MissingResource, match=r"create_index\('body', config=FTS\(\)\)"):
        need_fts(database.need("products"), "products", "body")


def test_the_content_digest_sees_content_and_nothing_else(
    products: tuple[Database, Corpus, pa.Table], tmp_path: Path
) -> None:
    def digest(table: pa.Table, name: str, where: dict[str, Any] | None = None) -> str:
        made = lancedb.connect(tmp_path / name).create_table("products", table)
        made.add(table.slice(0, 0))
        other = Database(str(tmp_path / name))
        return content_digest(other, foreign(other), where or {})[0]

    table = products[2]
    base = digest(table, "a")
    assert digest(table.take(list(range(79, -1, -1))), "b") == base
    assert digest(table.slice(0, 79), "c") != base
    bodies = table["body"].to_pylist()
    changed = table.set_column(1, "body", pa.array(["new", *bodies[1:]]))
    assert digest(changed, "d") != base
    odd = table.set_column(3, "even", pa.array([True] * 80))
    assert digest(odd, "e") == base
    assert digest(odd, "f", {"even": True}) != digest(table, "g", {"even": True})


def test_ids_that_stand_twice_are_refused(tmp_path: Path) -> None:
    table = table_of(tiny.documents(5))
    lancedb.connect(tmp_path / "db").create_table("products", pa.concat_tables([table, table]))
    database = Database(str(tmp_path / "db"))
    with pytest.raises(InputError, match="ids that stand more than once"):
        content_digest(database, foreign(database), {})
