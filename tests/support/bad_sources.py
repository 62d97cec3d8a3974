"""Cases of docs/bad-input.md: what packs, quotes and shards do to a source."""

from __future__ import annotations

import bz2
import json
import lzma
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from reranking.errors import EXIT_DONE
from tests.support import tiny
from tests.support.bad_bench import Bench, Outcome, case

VECTOR = [1, 0, 0, 0, 0, 0, 0, 0]


def stored(outcome: Outcome) -> list[str]:
    return [str(one) for one in outcome.table("documents").sort("doc_id")["doc_id"]]


def csv_of(bench: Bench, lines: dict[int, str], name: str = "d.csv") -> Outcome:
    """A run on eight documents, some lines of whose file are others."""
    rows = [f'd{n},"the river {n}"' for n in range(8)]
    for number, line in lines.items():
        rows[number] = line
    vector = f'"{VECTOR}",'
    bench.write(name, "vector,doc_id,text\n" + "\n".join(vector + row for row in rows))
    return bench.source(format="csv", path=name)


def column_of(bench: Bench, values: pa.Array) -> Outcome:
    """A run on eight documents with a column `mine` of these values."""
    table = pa.Table.from_pylist(tiny.documents(8))
    pq.write_table(table.append_column("mine", values), bench.folder / "d.parquet")
    return bench.source(format="parquet", path="d.parquet")


@case("a folder without files of the format")
def _(bench: Bench) -> Outcome:
    (bench.folder / "folder").mkdir()
    return bench.source(format="jsonl", path="folder")


@case("a CSV of 100,000 columns")
def _(bench: Bench) -> Outcome:
    bench.write("d.csv", ",".join(["doc_id", "text", *(f"c{n}" for n in range(99_998))]) + "\n")
    return bench.source(format="csv", path="d.csv")


@case("bzip2, xz or zstd, also without the ending")
def _(bench: Bench) -> Outcome:
    data = (bench.folder / "documents.jsonl").read_bytes()
    zstd = pa.compress(data, codec="zstd", asbytes=True)
    for packed in (bz2.compress(data), lzma.compress(data), zstd):
        bench.write("documents.jsonl", packed)
        outcome = bench.run()
        assert outcome.code == EXIT_DONE, outcome.text
        assert len(stored(outcome)) == 8
    return outcome


@case("a broken xz")
def _(bench: Bench) -> Outcome:
    packed = lzma.compress((bench.folder / "documents.jsonl").read_bytes())
    bench.write("d.jsonl.xz", packed[: len(packed) // 2])
    return bench.source(format="jsonl", path="d.jsonl.xz")


@case("a JSON array, or objects over several lines, as jsonl")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(8)
    printed = "\n".join(json.dumps(row, indent=1) for row in rows)
    for text in (json.dumps(rows), json.dumps(rows, indent=2), printed):
        bench.write("documents.jsonl", text)
        outcome = bench.run()
        assert outcome.code == EXIT_DONE, outcome.text
        assert len(stored(outcome)) == 8
    return outcome


@case("a JSON array that does not end")
def _(bench: Bench) -> Outcome:
    bench.write("documents.jsonl", json.dumps(tiny.documents(8))[:-1])
    return bench.run()


@case("a folder of shards, with values in folder names")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(8)
    for language, part in (("en", rows[:5]), ("de", rows[5:])):
        folder = bench.folder / "shards" / f"lang={language}"
        folder.mkdir(parents=True)
        (folder / "part-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    outcome = bench.source(format="jsonl", path="shards")
    assert sorted(outcome.table("documents")["lang"]) == ["de"] * 3 + ["en"] * 5
    return outcome


@case("JSON nested a thousand levels deep")
def _(bench: Bench) -> Outcome:
    deep = b"[" * 900 + b"]" * 900
    bench.first_line(b'{"doc_id": "deep", "text": "x", "mine": ' + deep + b"}")
    return bench.run()


@case("a CSV quote that never closes")
def _(bench: Bench) -> Outcome:
    outcome = csv_of(bench, {7: 'd7,"open'})
    assert stored(outcome) == ["d0", "d1", "d2", "d3", "d4", "d5", "d6"]
    return outcome


@case("a CSV quote that closes in another row")
def _(bench: Bench) -> Outcome:
    outcome = csv_of(bench, {3: 'd3,"half open'})
    assert stored(outcome) == ["d0", "d1", "d2", "d4", "d5", "d6", "d7"]
    return outcome


@case("a quoted CSV row of several lines with too many fields")
def _(bench: Bench) -> Outcome:
    outcome = csv_of(bench, {1: 'd1,"the\nriver",more'})
    assert stored(outcome) == ["d0", "d2", "d3", "d4", "d5", "d6", "d7"]
    return outcome


@case("a TSV field with a quote that does not enclose it")
def _(bench: Bench) -> Outcome:
    texts = ['"open', '"to be" or not', '5" pipe', "river"]
    bench.write(
        "d.tsv",
        "doc_id\ttext\tvector\n" + "".join(f"{n}\t{t}\t{VECTOR}\n" for n, t in enumerate(texts)),
    )
    outcome = bench.source(format="csv", path="d.tsv")
    assert list(outcome.table("documents").sort("doc_id")["text"]) == texts
    return outcome


@case("ids with outer blanks in CSV")
def _(bench: Bench) -> Outcome:
    outcome = csv_of(bench, {0: " d0 ,the river", 1: '" d1",the river'})
    assert stored(outcome)[:3] == [" d1", "d0", "d2"]
    return outcome


@case("ids that are decimals or UUIDs")
def _(bench: Bench) -> Outcome:
    big = [Decimal(10**19 + n) for n in range(4)]
    ids = [UUID(int=n) for n in range(4)]
    for values, kind in ((big, pa.decimal128(20, 0)), (ids, pa.uuid())):
        given = [one.bytes if isinstance(one, UUID) else one for one in values]
        array = pa.array(given, kind if kind != pa.uuid() else pa.binary(16))
        array = array.cast(pa.uuid()) if kind == pa.uuid() else array
        table = pa.table({"doc_id": array, "text": ["river"] * 4, "vector": [VECTOR] * 4})
        pq.write_table(table, bench.folder / "d.parquet")
        outcome = bench.source(format="parquet", path="d.parquet")
        assert set(map(str, values)) <= set(stored(outcome))
    return outcome


@case("decimals of more than 15 digits")
def _(bench: Bench) -> Outcome:
    digits = [Decimal(f"1234567890123456789.{n}") for n in range(10, 18)]
    outcome = column_of(bench, pa.array(digits, pa.decimal128(30, 2)))
    assert outcome.column("mine") == [str(one) for one in digits]
    return outcome


@case("UUIDs and durations")
def _(bench: Bench) -> Outcome:
    outcome = column_of(bench, pa.array([timedelta(seconds=90)] * 8, pa.duration("us")))
    assert outcome.column("mine") == ["0:01:30"] * 8
    return outcome


@case("times of a zone that no database knows")
def _(bench: Bench) -> Outcome:
    for zone in ("tzutc()", "tzoffset(None, 7200)", "UTC+1", "Z"):
        outcome = column_of(bench, pa.array([0] * 8, pa.timestamp("ms", zone)))
        assert outcome.code == EXIT_DONE, outcome.text
        assert outcome.column("mine") == ["1970-01-01T00:00:00+00:00"] * 8
    return outcome


@case("nanoseconds, at any depth")
def _(bench: Bench) -> Outcome:
    kind = pa.struct([("t", pa.time64("ns")), ("d", pa.list_(pa.timestamp("ns")))])
    outcome = column_of(bench, pa.array([{"t": 1000, "d": [0]}] * 8, kind))
    assert outcome.column("mine")[0] == '{"t": "00:00:00.000001", "d": ["1970-01-01 00:00:00"]}'
    return outcome


@case("tags that are numbers")
def _(bench: Bench) -> Outcome:
    first, second = tiny.queries(["river", "lamp"])
    bench.queries([first | {"tags": [2024, 1.5]}, second | {"tags": 7}])
    outcome = bench.run()
    assert outcome.table("queries").sort("query_id")["tags"].to_list() == [["2024", "1.5"], ["7"]]
    return outcome
