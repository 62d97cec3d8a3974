"""The whole job at size, and at a tenth of it: seconds a stage, memory, disk, requests to the CPU.

    python -m benchmarks.scale --documents 100000 --queries 1000 --limit 100 --data ../shared/data

Encoder and scorer are stand-ins that cost nothing, so all that is measured is the job's own:
reading, hashing, committing, indexing, searching, looking up, publishing. Each size has a process
of its own, whose peak resident memory is taken. Documents are pieces of BEIR texts of mixed length,
queries a few words in a row out of them. What 10 million pairs hold in memory, beside 1 million:

    python -m benchmarks.scale --documents 20000 --queries 50000 --limit 200 --query-types vector \
        --same-documents --rate 1e9 --data ../shared/data

Printed are seconds by the clock and, in brackets, of the
CPU; where the machine is busy the latter are the honest ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.standins import StandInPipeline, StandInReranker
from benchmarks.texts import beir
from configs.load import load_config
from reranking import chunks
from reranking.progress import unwatched
from reranking.runs import search
from reranking.steps import Here
from reranking.store import Database
from reranking.summary import Summary

MOST_TIMES, MOST_MEMORY, MOST_WAITING = 12.0, 1.3, 0.10
BLOCK = 10_000  # documents written at once
CHANGED = 0.01
LOOK_UPS = "another model: look up, texts, commits"
SEARCH = ("search, exact vectors", "search, FTS")


def main() -> None:
    """Measure both sizes and print the table; write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of BEIR folders")
    parser.add_argument("--texts", nargs="+", default=["scifact", "tldr"])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--rate", type=float, default=5000.0, help="pairs/s of the scorer")
    parser.add_argument("--query-types", nargs="+", default=["vector", "fts", "hybrid"])
    parser.add_argument("--same-documents", action="store_true", help="a tenth of queries only")
    parser.add_argument("--folder", type=Path, help="where the tables are for the time of the run")
    parser.add_argument("--whole-only", action="store_true", help="no tenth to compare with")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    parser.add_argument("--json", type=Path, help="a file to write, or to draw from with --again")
    parser.add_argument("--again", action="store_true", help="show what --json holds")
    parser.add_argument("--size", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size:
        print(json.dumps(of_size(options, *map(int, options.size.split("x")))))
        return
    found = json.loads(options.json.read_text()) if options.again else measured(options)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    from benchmarks.scale_tables import picture_of, table_of

    table_of(found)
    if options.picture is not None:
        options.picture.write_text(picture_of(found), "utf-8")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """What each size took, each in a process of its own."""
    whole, tenth = (options.documents, options.queries), None
    if not options.whole_only:
        documents = options.documents // (1 if options.same_documents else 10)
        tenth = (documents, options.queries // 10)
    found: dict[str, Any] = {"limit": options.limit, "rate": options.rate}
    for name, size in (("tenth", tenth), ("whole", whole)):
        if size is not None:
            asked = [sys.executable, "-m", "benchmarks.scale", *sys.argv[1:]]
            asked += ["--size", "x".join(map(str, size))]
            done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def of_size(options: argparse.Namespace, documents: int, queries: int) -> dict[str, Any]:
    """The stages of a job of so many documents and queries."""
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as given:
        folder = Path(given)
        made = subprocess.run(  # what makes the files is not part of the job's memory
            [sys.executable, "-c", _WRITE, str(folder), str(documents), str(queries)]
            + [str(options.data), *options.texts],
            check=False,
        )
        if made.returncode:
            raise SystemExit("the files could not be written")
        return Job(folder, options).all() | {"documents": documents, "queries": queries}


_WRITE = (
    "import sys; from benchmarks.scale import write; "
    "write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])"
)


def write(folder: str, documents: int, queries: int, data: str, names: list[str]) -> None:
    """A source of documents and one of queries; a second one of which 1 % of the rows differ."""
    words = " ".join(t for name in names for t in beir(Path(data) / name, 5_000).documents).split()
    rng = np.random.default_rng(3)
    with (
        Path(folder, "documents.jsonl").open("w", encoding="utf-8") as out,
        Path(folder, "changed.jsonl").open("w", encoding="utf-8") as other,
    ):
        for first in range(0, documents, BLOCK):
            count = min(BLOCK, documents - first)
            sizes = np.exp(rng.normal(np.log(40), 0.8, count)).astype(int).clip(3, 600)
            starts = rng.integers(0, len(words) - 600, count)
            for i, (size, start) in enumerate(zip(sizes, starts, strict=True), first):
                row = {
                    "doc_id": f"d{i:08d}",
                    "text": f"{i} {' '.join(words[start : start + size])}",
                }
                out.write(json.dumps(row) + "\n")
                if i % round(1 / CHANGED) == 7:
                    row["text"] += " and what was added"
                other.write(json.dumps(row) + "\n")
    with Path(folder, "queries.jsonl").open("w", encoding="utf-8") as out:
        for i in range(queries):
            start, size = rng.integers(0, len(words) - 10), rng.integers(3, 9)
            text = " ".join(words[start : start + size])
            out.write(json.dumps({"query_id": f"q{i:06d}", "text": text}) + "\n")


class Job:
    """One job, stage by stage."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.stages: dict[str, list[float]] = {}
        self.peaks: dict[str, float] = {}
        self.executor = Waiting()

    def pipeline(self, source: str = "documents.jsonl", index: str | None = None) -> Any:
        """The job as a new process would see it."""
        (self.folder / "config.yaml").write_text(
            json.dumps(
                {
                    "database": "db",
                    "documents": {
                        "source": {"format": "jsonl", "path": source},
                        "vector_index": index and {"type": index},
                    },
                    "queries": {
                        "query_set": "q",
                        "source": {"format": "jsonl", "path": "queries.jsonl"},
                    },
                    "search": {
                        "limit": self.options.limit,
                        "query_types": self.options.query_types,
                    },
                }
            )
        )
        config = load_config(self.folder / "config.yaml")
        return StandInPipeline(config, self.executor, self.options.rate)

    def all(self) -> dict[str, Any]:
        """Every stage; how long the scorer waited, how much memory and disk it took."""
        facts: dict[str, Any] = {"before": peak()}
        with self.stage("ingest"):
            report = self.pipeline().ingest()
        assert report["inserted"] == report["rows"], report
        table = Database(str(self.folder / "db")).need("documents")
        facts["fragments"] = table.stats()["fragment_stats"]["num_fragments"]
        with self.stage("ingest, unchanged"):
            report = self.pipeline().ingest()
        assert report["unchanged"] == report["rows"], report
        facts["unchanged rows/s"] = report["rows"] / self.stages["ingest, unchanged"][0]
        with self.stage("queries"):
            self.pipeline().load_queries()
        facts |= self.run()
        facts["peak"] = peak()
        with self.stage("ingest, 1 % changed"):
            report = self.pipeline("changed.jsonl").ingest()
        facts["changed"] = report["updated"]
        facts["disk"] = sum(f.stat().st_size for f in (self.folder / "db").rglob("*"))
        facts["peak of all"] = peak()
        return facts | {"stages": self.stages, "peaks": self.peaks}

    def run(self) -> dict[str, Any]:
        """Search, score, publish; then the same again, which finds it finished."""
        pipeline, summary = self.pipeline(), Summary(self.pipeline().config)
        with self.stage("plan"):
            run = pipeline.plan()
        legs = {name: self.timed(search, at) for name, at in zip(SEARCH, _LEGS, strict=True)}
        began = time.perf_counter()
        with self.stage("search and score"):
            for report in chunks.work(pipeline, run):
                summary.worked(report)
        seconds = time.perf_counter() - began
        for undo in legs.values():
            undo()
        scorer = pipeline.reranker.scorer
        with self.stage("publish"):
            counts = chunks.publish(pipeline, run, summary.counts, summary.seconds)
        with self.stage("again, finished"):
            again = self.pipeline().plan()
        assert again.finished and again.run_id == run.run_id
        changed = self.pipeline()
        changed.reranker = StandInReranker(rate=1e12, number=1)
        rerun = changed.plan()
        with self.stage(LOOK_UPS):  # candidates are stored, scores cost nothing
            assert all(report["scored"] for report in chunks.work(changed, rerun))
        return {
            "pairs": counts["pairs"],
            "results": counts["candidates"],
            "search and score": seconds,
            "scorer": scorer.seconds,
            "first chunk": self.executor.waits[0],
            "waited": sum(self.executor.waits[1:]),
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Take the block's seconds, by the clock and of the CPU, and the peak after it."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        took = self.stages.setdefault(name, [0.0, 0.0])
        took[0] += time.perf_counter() - wall
        took[1] += time.process_time() - cpu
        self.peaks[name] = peak()
        print(f"{name}: {took[0]:.1f} s ({took[1]:.1f}), {peak():.0f} MB", file=sys.stderr)

    def timed(self, module: Any, names: tuple[str, str]) -> Callable[[], None]:
        """Count a function's time as a stage; what puts the function back."""
        stage, name = names
        function = getattr(module, name)

        @wraps(function)
        def wrapped(*given: Any, **named: Any) -> Any:
            with self.stage(stage):
                return function(*given, **named)

        setattr(module, name, wrapped)
        return partial(setattr, module, name, function)


_LEGS = tuple(zip(SEARCH, ("vector_hits", "_fts_leg"), strict=True))


class Waiting(Here):
    """Carries out steps in this process, and takes the time that a chunk's search is waited for."""

    def __init__(self) -> None:
        super().__init__(unwatched)
        self.waits: list[float] = []

    def submit(self, work: Any, *given: Any, **named: Any) -> Any:
        """Begin the step in a thread."""
        return _Waited(super().submit(work, *given, **named), self.waits)


class _Waited:
    def __init__(self, pending: Any, waits: list[float]) -> None:
        self.pending, self.waits = pending, waits

    def result(self) -> Any:
        began = time.perf_counter()
        value = self.pending.result()
        self.waits.append(time.perf_counter() - began)
        return value


def peak() -> float:
    """Megabytes that were resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
