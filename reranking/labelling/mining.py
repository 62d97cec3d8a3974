"""Hard negatives from stored candidates and scores, without a model.

The parameters carry the names and the meaning of `sentence_transformers.util.mine_hard_negatives`
(6.2). Where that function embeds and scores, this one reads what was stored:

- its "closest matches" are the stored candidates by score; its window of range_max + the largest
  number of positives, its filters, and range_min counted among what the filters left are the same;
- a margin is kept from the worst scored positive of the query, as there;
- judged positives are excluded, as there, and beyond it labels above the cut, unsure labels, and
  documents whose text is nearly that of a positive.

Blocks of whole queries are mined one after the other, so memory does not grow with the corpus.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from configs.labelling import Training
from reranking.arrow import frame
from reranking.errors import InputError
from reranking.fingerprints import digest
from reranking.judgments.consensus import RELEVANT, consensus
from reranking.labelling.intervals import Proportion, proportion
from reranking.labelling.judged import pair_frame

TextLookup = Callable[[Sequence[str]], Mapping[str, str]]
"""From document ids to their texts; ids without a text may be absent."""

HIDDEN_PER_QUERY = 3
POSITIVE_COLUMNS = ["query_id", "doc_id", "relevance", "query_hash", "doc_hash", "score"]
NEGATIVE_COLUMNS = [
    *["query_id", "doc_id", "query_hash", "doc_hash", "score", "probability"],
    *["place", "verified"],
]


def window(settings: Training, max_positives: int) -> int:
    """Return `range_max`, or sentence-transformers' choice for it if it is not given."""
    if settings.range_max is not None:
        return settings.range_max
    filters = (
        settings.absolute_margin,
        settings.relative_margin,
        settings.max_score,
        settings.min_score,
    )
    spare = 10 if any(value is not None for value in filters) else 1
    return settings.range_min + spare * settings.num_negatives + max_positives


@dataclass(frozen=True)
class Mined:
    """One block's positives (POSITIVE_COLUMNS) and negatives (NEGATIVE_COLUMNS).

    A positive that was not scored has a null score. `place` counts a query's negatives from 1;
    `verified` ones were judged non-relevant by people.
    """

    positives: pa.Table
    negatives: pa.Table


@dataclass(frozen=True)
class MiningReport:
    """What a mining did, and how many of its negatives may be relevant after all.

    `dropped` counts candidates by the first reason that excluded them. `false_negative_rate` is the
    mean calibrated probability of the negatives (0 for verified ones), None without a calibration.
    `hidden_positives` hides known positives one at a time, in queries with several, and says how
    many would have been mined: the risk that a relevant document nobody judged becomes a negative.
    """

    queries: int
    queries_without_positive: int
    queries_short_of_negatives: int
    negatives: int
    verified: int
    dropped: dict[str, int]
    false_negative_rate: float | None
    hidden_positives: Proportion


class Miner:
    """Mines block after block; `report` sums up what was mined so far."""

    def __init__(
        self,
        mining: Training,
        judgments: pa.Table,
        *,
        relevant: int = RELEVANT,
        texts: TextLookup | None = None,
    ) -> None:
        """Take `texts` to find near-duplicates; without it only equal texts are found (by hash).

        Judgments with query_hash are pooled by the query's text, whatever ids it has.
        """
        self._mining = mining
        self._texts = texts
        grades = frame(consensus(judgments), (), "judgments").drop("raters")
        # by text, if judgments say it: a query's ids are judged as one
        self._asked = "query_hash" if "query_hash" in grades.columns else "query_id"
        keys = [self._asked, "doc_id"]
        grades = grades.group_by(keys).agg(pl.col("relevance").max())
        self._positives = grades.filter(pl.col("relevance") >= relevant)
        self._rejected = grades.filter(pl.col("relevance") < relevant).select(keys)
        largest = self._positives.group_by(self._asked).len()["len"].max()
        self._max_positives = int(largest) if isinstance(largest, int) else 0
        self._seen_texts: set[bytes] = set()
        self._seen: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._risk = 0.0
        self._calibrated = True
        self._hidden: list[tuple[str, bool]] = []

    def mine(self, pairs: pa.Table, labels: pa.Table | None = None) -> Mined:
        """The positives and negatives of a block of scored pairs that holds whole queries.

        `labels` are the block's labels, if there are any. InputError where a query comes twice.
        """
        rows = self._block(pairs, labels)
        known = self._known(rows)
        chosen, dropped = self._select(rows, known)
        self._count(rows, known, chosen, dropped)
        self._hide(rows, known)
        negatives = chosen.sort("query_id", "place").select(NEGATIVE_COLUMNS)
        positives = known.sort("query_id", "doc_id").select(POSITIVE_COLUMNS)
        return Mined(positives.to_arrow(), negatives.to_arrow())

    def report(self) -> MiningReport:
        """The counts over all blocks so far."""
        names = np.array([name for name, _ in self._hidden], dtype=object)
        mined = np.array([was for _, was in self._hidden], dtype=bool)
        rate = self._risk / self._counts["negatives"] if self._counts["negatives"] else None
        return MiningReport(
            queries=self._counts["queries"],
            queries_without_positive=self._counts["without"],
            queries_short_of_negatives=self._counts["short"],
            negatives=self._counts["negatives"],
            verified=self._counts["verified"],
            dropped=dict(self._dropped),
            false_negative_rate=rate if self._calibrated else None,
            hidden_positives=proportion(mined, names.astype(str)),
        )

    def _block(self, pairs: pa.Table, labels: pa.Table | None) -> pl.DataFrame:
        """The block's pairs with `group` (their query), `label` and `verified`."""
        rows = pair_frame(pairs, self._mining.on).with_columns(pl.col("query_id").alias("group"))
        queries = set(rows["query_id"].unique().to_list())
        if twice := queries & self._seen:
            raise InputError(f"query {min(twice)!r} is in two blocks; a block holds whole queries")
        self._seen |= queries
        rows = self._each_text_once(rows)
        if "probability" not in rows.columns:
            rows = rows.with_columns(pl.lit(None, pl.Float64).alias("probability"))
        said = pl.DataFrame(schema={"query_id": pl.String, "doc_id": pl.String, "label": pl.Int32})
        if labels is not None:
            said = frame(labels, ("query_id", "doc_id", "label"), "labels").select(said.columns)
        # an unsure label is null, like no label at all: -1 keeps the two apart
        said = said.with_columns(pl.col("label").fill_null(-1))
        judged_out = self._rejected.with_columns(verified=True)
        return (
            rows.join(said, on=["query_id", "doc_id"], how="left")
            .join(judged_out, on=[self._asked, "doc_id"], how="left")
            .with_columns(pl.col("verified").fill_null(False))
        )

    def _each_text_once(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The pairs of one query id for each text: others would only repeat its examples."""
        first = rows.group_by("query_hash").agg(pl.col("query_id").min())
        new = first.filter(~pl.col("query_hash").is_in(list(self._seen_texts)))
        self._seen_texts.update(new["query_hash"].to_list())
        return rows.join(new, on=["query_hash", "query_id"], how="semi", maintain_order="left")

    def _known(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The positives of the block's queries, each text once, with their stored scores if any."""
        queries = rows.select("query_id", "query_hash").unique()
        known = self._positives.join(queries, on=self._asked)
        scores = rows.select("query_id", "doc_id", "doc_hash", "score", self._scale())
        known = known.join(scores, on=["query_id", "doc_id"], how="left").sort("query_id", "doc_id")
        first = pl.col("doc_hash").is_null() | pl.struct("query_id", "doc_hash").is_first_distinct()
        return known.filter(first).with_columns(pl.col("query_id").alias("group"))

    def _scale(self) -> pl.Expr:
        return pl.col(self._mining.on).alias("value")

    def _select(self, rows: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The negatives of each group with their `place`, and the candidates with why they fell."""
        mining = self._mining
        limit = window(mining, self._max_positives)
        marked = self._marked(rows, known).filter(pl.col("position") <= limit + self._max_positives)
        copies = self._copies(marked.filter(pl.col("reason").is_null()), known)
        marked = marked.join(copies, on=["group", "doc_id"], how="left").with_columns(
            pl.coalesce("reason", "copy").alias("reason")
        )
        left = marked.filter(pl.col("reason").is_null()).with_columns(_place().alias("at"))
        left = left.filter((pl.col("at") > mining.range_min) & (pl.col("at") <= limit))
        order = pl.col("at")
        if mining.sampling_strategy == "random":
            drawn = [
                digest(f"{mining.seed}\0{group}\0{doc}".encode("utf-8", "surrogatepass"))
                for group, doc in left.select("group", "doc_id").iter_rows()
            ]
            left = left.with_columns(pl.Series("drawn", drawn, pl.Binary))
            order = pl.col("drawn")
        taken = left.filter(order.rank("ordinal").over("group") <= mining.num_negatives)
        return taken.with_columns(_place().alias("place")), marked

    def _marked(self, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
        """The candidates of groups with positives: `value`, `position` and `reason` to fall."""
        mining = self._mining
        bounds = known.group_by("group").agg(pl.col("value").min().alias("bound"))
        positive = known.select("group", "doc_id", pl.lit(True).alias("positive"))
        copied = known.select("group", "doc_hash", pl.lit(True).alias("copied")).drop_nulls()
        value, bound = pl.col("value"), pl.col("bound")
        checks: list[tuple[str, pl.Expr]] = [
            ("positive", pl.col("positive")),
            ("duplicate", pl.col("copied")),
            ("label", (pl.col("label") >= 1).any().over("group", "doc_hash")),
            ("unsure", (pl.col("label") == -1).any().over("group", "doc_hash")),
        ]
        if mining.absolute_margin is not None or mining.relative_margin is not None:
            checks.append(("positive not scored", bound.is_null()))
        if mining.absolute_margin is not None:
            checks.append(("absolute_margin", value + mining.absolute_margin > bound))
        if mining.relative_margin is not None:
            checks.append(("relative_margin", value > bound - bound.abs() * mining.relative_margin))
        if mining.max_score is not None:
            checks.append(("max_score", value > mining.max_score))
        if mining.min_score is not None:
            checks.append(("min_score", value < mining.min_score))
        fell = [pl.when(check.fill_null(False)).then(pl.lit(name)) for name, check in checks]
        return (
            rows.with_columns(self._scale())
            .join(bounds, on="group")
            .join(positive, on=["group", "doc_id"], how="left")
            .join(copied.unique(), on=["group", "doc_hash"], how="left")
            .with_columns(_place().alias("position"), pl.coalesce(fell).alias("reason"))
            .with_columns(
                pl.when(_again()).then(pl.lit("same text")).otherwise("reason").alias("reason")
            )
        )

    def _copies(self, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
        """The candidates whose words are nearly those of a positive: group, doc_id, copy."""
        found: list[tuple[str, str, str]] = []
        if self._texts is not None:
            both = pl.concat([rows["doc_id"], known["doc_id"]]).unique().to_list()
            words = {doc: _words(text) for doc, text in self._texts(both).items()}
            positives: dict[str, list[frozenset[str]]] = {}
            for group, doc in known.select("group", "doc_id").iter_rows():
                positives.setdefault(group, []).append(words.get(doc, frozenset()))
            for group, doc in rows.select("group", "doc_id").iter_rows():
                own = words.get(doc, frozenset())
                if any(self._alike(own, theirs) for theirs in positives[group]):
                    found.append((group, doc, "near-duplicate"))
        schema = {"group": pl.String, "doc_id": pl.String, "copy": pl.String}
        return pl.DataFrame(found, schema, orient="row")

    def _alike(self, one: frozenset[str], theirs: frozenset[str]) -> bool:
        common = len(one & theirs)
        return common > 0 and common >= self._mining.duplicate_overlap * len(one | theirs)

    def _count(
        self, rows: pl.DataFrame, known: pl.DataFrame, chosen: pl.DataFrame, marked: pl.DataFrame
    ) -> None:
        queries, answered = rows["query_id"].n_unique(), known["query_id"].n_unique()
        full = chosen.group_by("query_id").len().filter(pl.col("len") == self._mining.num_negatives)
        self._counts["queries"] += queries
        self._counts["without"] += queries - answered
        self._counts["short"] += answered - full.height
        self._counts["negatives"] += chosen.height
        self._counts["verified"] += int(chosen["verified"].sum())
        fallen = marked.filter(pl.col("reason").is_not_null()).group_by("reason").len()
        self._dropped.update(dict(fallen.iter_rows()))
        risk = chosen.select(pl.when("verified").then(0.0).otherwise("probability").alias("p"))
        self._calibrated &= not risk["p"].null_count()
        self._risk += float(risk["p"].sum())

    def _hide(self, rows: pl.DataFrame, known: pl.DataFrame) -> None:
        """Mine again with a known positive hidden, and note whether it became a negative."""
        scored = known.filter(pl.col("score").is_not_null()).sort("group", "doc_id")
        several = scored.filter(pl.len().over("group") > 1)
        hidden = several.group_by("group", maintain_order=True).head(HIDDEN_PER_QUERY)
        hidden = hidden.select("group", pl.col("doc_id").alias("hidden")).with_columns(
            pl.concat_str("group", "hidden", separator="\0").alias("variant")
        )
        if not hidden.height:
            return
        again = hidden.join(rows, on="group").drop("group").rename({"variant": "group"})
        rest = hidden.join(known, on="group").filter(pl.col("doc_id") != pl.col("hidden"))
        chosen, _ = self._select(again, rest.drop("group").rename({"variant": "group"}))
        caught = set(chosen.filter(pl.col("doc_id") == pl.col("hidden"))["group"].to_list())
        for group, variant in hidden.select("group", "variant").iter_rows():
            self._hidden.append((group, variant in caught))


def _again() -> pl.Expr:
    """Whether a candidate that no filter dropped repeats the text of a better one."""
    left = pl.col("reason").is_null()
    place = pl.when(left).then("position")
    return left & (place > place.min().over("group", "doc_hash"))


def _place() -> pl.Expr:
    """The row's place in its group, from 1: value descending, doc_id ascending."""
    keys = pl.struct(-pl.col("value"), pl.col("doc_id"))
    return keys.rank("ordinal").over("group").cast(pl.Int32)


_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_TOKEN = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+|[#+*@%&$€£=<>^|~/\\]+")
_FIRST = re.compile(f"[{_UNSPACED}]")
_GRAM = 3


def _words(text: str) -> frozenset[str]:
    """Return what two copies have in common: words, signs, and three characters each of a script
    without spaces. Signs count, punctuation does not: C, C# and C++ are three
    things."""
    words: set[str] = set()
    for token in _TOKEN.findall(text.casefold()):
        if len(token) > _GRAM and _FIRST.match(token):
            words.update(token[at : at + _GRAM] for at in range(len(token) - _GRAM + 1))
        else:
            words.add(token)
    return frozenset(words)
