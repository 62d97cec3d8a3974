"""Stored runs compared: what is read of them, the comparison, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from configs.evaluation import DEFAULT_MEASURES, ComparisonSettings
from configs.schema import Config
from reranking.corpus.corpus import columns_of, hashes_of, string_ids
from reranking.corpus.joined import still_stored
from reranking.errors import InputError
from reranking.evaluation.comparable import SideTables
from reranking.evaluation.comparison import Comparison, compare
from reranking.evaluation.measures import parse_measures, parse_primary, without_identical
from reranking.evaluation.run_ties import with_ties
from reranking.evaluation.sides import Side, deciding_query_type, find_side, judgments_of
from reranking.evaluation.unknown import Unknown, unknown_to
from reranking.judgments.lists import worded_grades
from reranking.runs.run import Run
from reranking.store import Database

_NO_GRADES: Final = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())]
)


@dataclass(frozen=True)
class Compared:
    """Several candidates against one base; without a judgment list only their overlap is known."""

    base: Side
    candidates: tuple[Side, ...]
    judgment_list: str | None
    judgments_fp: str | None
    comparisons: tuple[Comparison, ...]
    queries: pa.Table

    def unknown(self, place: int) -> Unknown | None:
        """Return what is judged that candidate number `place` does not know."""
        if self.judgment_list is None:
            return None
        return unknown_to(self.candidates[place].run, self.judgment_list)

    def sentence(self, place: int) -> str:
        """Return the verdict on candidate number `place` in one sentence."""
        comparison = self.comparisons[place]
        what = f"{comparison.candidate} against {comparison.base}"
        if self.judgment_list is None:
            return f"{what}: cannot tell, there are no judgments"
        deciding = f"{comparison.primary.measure} ({comparison.primary.query_type})"
        return f"{what}: {comparison.verdict}; {deciding} {comparison.reason}"

    def differing(self, place: int) -> dict[str, tuple[Any, Any]]:
        """Return the inputs that differ: {what: (the base's, candidate number `place`'s)}."""
        base, other = self.base.inputs, self.candidates[place].inputs
        return {k: (base[k], other[k]) for k in base if base[k] != other[k]}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the per-query values as JSON-like values."""
        texts = dict(
            zip(*self.queries.select(["query_id", "text"]).to_pydict().values(), strict=True)
        )
        comparisons = []
        for place, side in enumerate(self.candidates):
            values = self.comparisons[place].to_dict()
            for moved in values["moved"]:
                moved["text"] = texts.get(moved["query_id"])
            comparisons.append(
                {
                    "sentence": self.sentence(place),
                    "run_id": side.run.run_id,
                    "stage": side.stage,
                    "differing": {k: list(v) for k, v in self.differing(place).items()},
                    "unknown": None if (lost := self.unknown(place)) is None else lost.to_dict(),
                    **values,
                }
            )
        return {
            "base": {
                "name": self.base.name,
                "run_id": self.base.run.run_id,
                "stage": self.base.stage,
            },
            "judgment_list": self.judgment_list,
            "judgments": self.judgments_fp,
            "comparisons": comparisons,
        }


def compare_sides(
    base: Side,
    candidates: Sequence[Side],
    judgment_list: str | None,
    settings: ComparisonSettings,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    strict: bool = False,
    ignore_identical_ids: bool = False,
) -> Compared:
    """Return the comparison of stored runs on a judgment list; None: no judgments.

    `settings.query_type` None: hybrid, else the first query type that all runs have. With `strict`,
    raises InputError if the runs' documents or queries differ at all, or if judged queries had to
    be left out.
    """
    decides = deciding_query_type(settings.query_type, [base, *candidates])
    settings = settings.model_copy(update={"query_type": decides})
    queries = base.run.query_rows
    judged, fingerprint = _NO_GRADES.empty_table(), None
    if judgment_list is not None:
        judged, fingerprint = worded_grades(
            base.run.database, judgment_list, queries, ignore_identical_ids
        )
    if strict:
        for other in candidates:
            _refuse_drift(base, other)
    doc_ids = pc.unique(judged["doc_id"]).to_pylist()
    reader = _Reader(doc_ids, ignore_identical_ids)
    tables = [reader.tables(side) for side in (base, *candidates)]
    comparisons = [
        with_ties(made, (base, other), judged, settings, ignore_identical_ids)
        for made, other in zip(
            compare(tables[0], tables[1:], judged, settings, measures, strict=strict),
            candidates,
            strict=True,
        )
    ]
    kept = [n for n in ("query_id", "text", "tags") if n in queries.column_names]
    return Compared(
        base,
        tuple(candidates),
        judgment_list,
        fingerprint,
        tuple(comparisons),
        queries.select(kept),
    )


def _refuse_drift(base: Side, other: Side) -> None:
    for name in ("documents", "queries"):
        left, right = base.inputs[name], other.inputs[name]
        if left != right:
            raise InputError(
                f"{base.name} and {other.name} did not see the same {name}: {left} and {right}. "
                "Compare without --strict to leave out what differs, or run both on the same."
            )


class _Reader:
    """Reads each run's inputs once, however many stages of it take part."""

    def __init__(self, doc_ids: list[str], ignore_identical_ids: bool) -> None:
        self.doc_ids, self.ignore_identical_ids = doc_ids, ignore_identical_ids
        self._documents: dict[tuple[str | None, str, int], pa.Table] = {}

    def tables(self, side: Side) -> SideTables:
        """Read what a comparison looks at."""
        rankings = side.rankings
        return SideTables(
            name=side.name,
            rankings=without_identical(rankings) if self.ignore_identical_ids else rankings,
            queries=side.run.query_rows.select(["query_id", "text_hash"]),
            documents=self._known_documents(side.run),
        )

    def _known_documents(self, run: Run) -> pa.Table:
        """(doc_id, text_hash) of the judged documents in the run's corpus."""
        corpus = run.corpus
        key = (corpus.home, corpus.table, corpus.version)
        if key not in self._documents:
            stored = "text_hash" if corpus.managed else None
            texts = replace(corpus, scored=corpus.text, hash_column=stored)
            column = stored or corpus.text
            ids: list[str] = []
            hashes: list[bytes] = []
            for batch in columns_of(run.database, texts, self.doc_ids, [column]):
                ids += string_ids(batch.column(corpus.id), texts)
                hashes += hashes_of(batch.column(column), texts)
            self._documents[key] = pa.table(
                {"doc_id": pa.array(ids, pa.string()), "text_hash": pa.array(hashes, pa.binary(16))}
            )
        return self._documents[key]


class Comparisons:
    """The comparisons of one finished run, named as a side is; each is made once.

    A run's gates, its report and the verdict against the promoted run all look at them. With
    `part` they are on the queries of that query set alone, and the config is that set's.
    """

    def __init__(
        self,
        database: Database,
        run: str,
        config: Config | None,
        judgment_list: str | None = None,
        *,
        part: str | None = None,
    ) -> None:
        self._database, self._run, self._config = database, run, config
        self._given_list, self._part = judgment_list, part
        self.settings = ComparisonSettings() if config is None else config.comparison
        self.measures = asked_measures(config)
        self.ignore_identical_ids = config is not None and config.ignore_identical_ids
        named = None if config is None or config.judgments is None else config.judgments
        self.asked = judgment_list or (None if named is None else named.judgment_list)
        self._made: dict[tuple[str, str], Compared] = {}

    @cached_property
    def side(self) -> Side:
        """The run; raises MissingResource if it does not exist or is not finished."""
        side = find_side(self._database, self._run)
        return side if self._part is None else side.of_set(self._part)

    @cached_property
    def sets(self) -> dict[str, Comparisons]:
        """The comparisons on each query set of the config, by name; empty if there is one set."""
        if self._config is None or self._part is not None:
            return {}
        names = still_stored(self._database, self._config.queries.sets)
        return {name: self._of_set(self._config, name) for name in names}

    def _of_set(self, config: Config, name: str) -> Comparisons:
        made = Comparisons(
            self._database, self._run, config.of_set(name), self._given_list, part=name
        )
        made.__dict__["side"] = self.side.of_set(name)
        return made

    def judgment_list(self, base: Side | None) -> str | None:
        """Return the judgment list that the run is compared with `base` on; None if none is."""
        return judgments_of([self.side] if base is None else [base, self.side], self.asked)

    def query_type(self, base: Side | None) -> str:
        """Return the query type that decides the comparison with `base`."""
        sides = [self.side] if base is None else [base, self.side]
        return deciding_query_type(self.settings.query_type, sides)

    def against(self, base: Side) -> Compared:
        """Return the comparison with `base`, made at the first call."""
        key = (base.run.run_id, base.stage)
        if key not in self._made:
            base = base if self._part is None else base.of_set(self._part)
            chosen = self.judgment_list(base)
            self._made[key] = compare_sides(
                base,
                [self.side],
                chosen,
                self.settings,
                self.measures,
                ignore_identical_ids=self.ignore_identical_ids,
            )
        return self._made[key]

    def told(self, base: Side) -> dict[str, Any]:
        """Return the comparison with `base` as JSON-like values, with that of each query set."""
        sets = {name: own.against(base).to_dict() for name, own in self.sets.items()}
        return self.against(base).to_dict() | {"sets": sets}


def asked_measures(config: Config | None) -> tuple[str, ...]:
    """Return the measures that a config asks for, its gates' included; without it the default."""
    if config is None:
        return DEFAULT_MEASURES
    measures = DEFAULT_MEASURES if config.judgments is None else config.judgments.measures
    return tuple(dict.fromkeys([*measures, *(gate.metric for gate in config.gates)]))


def check_measures(config: Config) -> None:
    """Raise ConfigError for measures of the config that cannot be computed or cannot decide."""
    configs = [config, *map(config.of_set, config.queries.sets)]
    asked = [name for one in configs for name in asked_measures(one)]
    parse_measures([*dict.fromkeys(asked), config.comparison.primary])
    parse_primary(config.comparison.primary)
