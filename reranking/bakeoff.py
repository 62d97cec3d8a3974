"""Several models on one corpus and query set: who takes part, and what came out, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from configs.documents import Encoder
from configs.schema import Config, Rerank, short_name
from reranking.evaluation.comparison import Comparison
from reranking.evaluation.measures import parse_primary
from reranking.evaluation.run_comparison import asked_measures, compare_sides
from reranking.evaluation.run_measures import evaluate_run
from reranking.evaluation.sides import Side, deciding_query_type, find_side
from reranking.pipeline import Pipeline
from reranking.runs.lengths import ALL, lengths_of
from reranking.runs.rates import scoring_rate
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.steps import step

NONE: Final = "none"  # for a reranker: the first stage
OTHERS: Final = "bakeoff"  # the pipeline of other models' runs: they are no nights of the config's
_BAND: Final = 1.96
# What a row says of quality: the rest costs the same whatever queries are looked at.
_QUALITY: Final = (
    *("name", "run_id", "mean", "mean_low", "mean_high", "difference", "low", "high", "p"),
    *("verdict", "why"),
)

# What a config says of its own model and of no other.
_OF_RERANKER: Final = (
    *("revision", "max_length", "activation", "prompt", "prompt_name", "label", "answer_tokens"),
    *("blend", "api"),
)
_OF_ENCODER: Final = ("revision", "prompt", "query_prompt", "truncate_dim")


@dataclass(frozen=True)
class Contender:
    """An encoder and a reranker (None: the first stage), and the config of their run."""

    name: str
    encoder: str | None
    reranker: str | None
    config: Config


def contenders(
    config: Config, rerankers: Sequence[str] = (), encoders: Sequence[str] = ()
) -> list[Contender]:
    """Return every encoder with every reranker, each once; those of the config where none is named.

    A reranker `none` is the first stage. What the config says of its own model only (revision,
    prompt, label, max_length, blend) is not said of others.
    """
    own = None if config.rerank is None else config.rerank.model
    embedded = None if config.documents.encoder is None else config.documents.encoder.model
    made: dict[str, Contender] = {}
    for encoder in encoders or (embedded,):
        for given in rerankers or (own,):
            reranker = None if given in (None, NONE) else given
            name = " + ".join(
                [
                    *([short_name(encoder)] if encoder and encoders else []),
                    short_name(reranker) if reranker else "no reranker",
                ]
            )
            if name in made:  # two folders of one name
                name = f"{name} ({encoder}, {reranker})"
            contender = Contender(name, encoder, reranker, _with(config, encoder, reranker))
            if all(c.config != contender.config for c in made.values()):
                made[name] = contender
    return list(made.values())


def _with(config: Config, encoder: str | None, reranker: str | None) -> Config:
    """The config with these models, without what is done with finished results."""
    rerank: Rerank | None = None
    if reranker is not None:
        rerank = config.rerank or Rerank()
        if rerank.model != reranker:
            rerank = _changed(rerank, _OF_RERANKER, model_name=reranker)
    documents = config.documents
    if encoder is not None and (documents.encoder is None or documents.encoder.model != encoder):
        own = documents.encoder or Encoder(model=encoder)
        documents = documents.model_copy(
            update={"encoder": _changed(own, _OF_ENCODER, model=encoder)}
        )
    same = (rerank, documents) == (config.rerank, config.documents)
    name = config.name if same else OTHERS
    values = config.model_dump() | {
        "name": name,
        "results": {},
        "gates": (),
        "labels": None,
    }
    values |= {"documents": documents.model_dump(), "rerank": rerank and rerank.model_dump()}
    return Config.model_validate(values)


def _changed(part: Any, reset: Sequence[str], **changes: Any) -> Any:
    fields = type(part).model_fields
    return part.model_copy(update={name: fields[name].default for name in reset} | changes)


@dataclass(frozen=True)
class Row:
    """One contender: what it scored and cost; `reason` says why it did not finish, if so.

    `mean` has a normal 95 % interval, `difference` is to the first contender that finished, with
    its bootstrap interval, p corrected over all contenders and verdict. `seconds` are those of
    scoring all pairs at the contender's own speed. Of `pareto` rows none is better and cheaper.
    """

    name: str
    encoder: str | None
    reranker: str | None
    reason: str | None = None
    run_id: str | None = None
    mean: float | None = None
    mean_low: float | None = None
    mean_high: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    verdict: str | None = None
    why: str | None = None
    pairs: int = 0
    scored: int = 0
    pairs_per_second: float | None = None
    tokens_per_pair: float | None = None
    truncated: float | None = None
    megabytes: float | None = None
    seconds: float | None = None
    pareto: bool = False


def failed(contender: Contender, error: Exception) -> Row:
    """Return the row of a contender that could not finish."""
    line = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {line[:300]}"
    return Row(contender.name, contender.encoder, contender.reranker, reason=reason)


@step("measure-contender")
def finished(contender: Contender, pipeline: Pipeline, run: Run) -> tuple[Row, Side]:
    """Return the row of a contender whose run is done, without its quality; and what compares."""
    side = find_side(run.database, run.run_id)
    counts = side.run.stored["counts"]
    pairs, model = int(counts.get("pairs", 0)), pipeline.reranker
    rate = None if run.reranker is None else scoring_rate(run.database, run.reranker)
    lengths = lengths_of(counts, ())
    read = None if lengths is None else lengths[ALL]
    known = 0 if read is None else read["pairs"] - read["unknown"]
    row = Row(
        name=contender.name,
        encoder=contender.encoder,
        reranker=contender.reranker,
        run_id=run.run_id,
        pairs=pairs,
        scored=int(counts.get("scored", 0)),
        pairs_per_second=rate,
        tokens_per_pair=read["tokens"] / known if read and known else None,
        truncated=None if read is None else read["share"],
        megabytes=_megabytes(pipeline),
        seconds=0.0 if model is None else (pairs / rate if rate else None),
    )
    return row, side


def _megabytes(pipeline: Pipeline) -> float:
    """The size of the contender's weights on disk, both models' together."""
    folders: list[Path] = []
    if pipeline.encoder is not None:
        folders.append(pipeline.encoder.folder.path)
    if isinstance(pipeline.reranker, CrossEncoderModel):
        folders.append(pipeline.reranker.folder.path)
    sizes = (file.stat().st_size for f in folders for file in f.glob("**/*.safetensors"))
    return sum(sizes) / 1e6


@step("compare-contenders")
def compared(
    config: Config, rows: Sequence[Row], known: Mapping[str, Side], query_set: str | None = None
) -> list[Row]:
    """Return the rows with their quality, compared with the first that finished, and marked.

    `known` are the sides of those that finished, by run. One judgment list and one query type for
    all; p-values corrected over all comparisons. With `query_set` all is on that set's queries.
    """
    config = config if query_set is None else config.of_set(query_set)
    done = [row for row in rows if row.run_id is not None]
    if not done or config.judgments is None:
        return list(rows)
    judgment_list = config.judgments.judgment_list
    sides = [known[str(row.run_id)] for row in done]
    if query_set is not None:
        sides = [side.of_set(query_set) for side in sides]
    rules = config.comparison
    ignore = config.ignore_identical_ids
    made: list[Comparison] = []
    if len(sides) > 1:
        made = list(
            compare_sides(
                sides[0],
                sides[1:],
                judgment_list,
                rules,
                asked_measures(config),
                ignore_identical_ids=ignore,
            ).comparisons
        )
    measure, kind = str(parse_primary(rules.primary)), deciding_query_type(rules.query_type, sides)
    better: dict[str, Row] = {}
    for place, (row, side) in enumerate(zip(done, sides, strict=True)):
        metrics = evaluate_run(
            side.run, judgment_list, [measure], ignore_identical_ids=ignore
        ).metrics
        mean, low, high = _mean(metrics, measure, kind)
        new = replace(row, mean=mean, mean_low=low, mean_high=high)
        if place:
            comparison = made[place - 1]
            paired = comparison.primary.paired
            new = replace(
                new,
                difference=paired.difference,
                low=paired.low,
                high=paired.high,
                p=comparison.primary.p_corrected,
                verdict=comparison.verdict,
                why=comparison.reason,
            )
        better[str(row.run_id)] = new
    front = pareto(list(better.values()))
    return [
        row
        if row.run_id is None
        else replace(better[row.run_id], pareto=better[row.run_id].name in front)
        for row in rows
    ]


def _mean(metrics: pa.Table, measure: str, kind: str) -> tuple[float, float, float]:
    rows = [r for r in metrics.to_pylist() if (r["measure"], r["query_type"]) == (measure, kind)]
    last = "reranked" if any(r["stage"] == "reranked" for r in rows) else "first"
    values = np.array([r["value"] for r in rows if r["stage"] == last])
    error = _BAND * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    mean = float(values.mean()) if len(values) else 0.0
    return mean, mean - error, mean + error


def pareto(rows: Sequence[Row]) -> set[str]:
    """Return the names of the rows that no other one beats in quality without costing more.

    Of two that are alike both are named; a row without a cost takes no part.
    """
    known = [(r.name, r.mean, r.seconds) for r in rows if r.mean is not None]
    ranked = [(n, m, s) for n, m, s in known if m is not None and s is not None]
    return {
        name
        for name, mean, cost in ranked
        if not any(m >= mean and s <= cost and (m > mean or s < cost) for _, m, s in ranked)
    }


def table_of(
    config: Config, rows: Sequence[Row], sets: Mapping[str, Sequence[Row]]
) -> dict[str, Any]:
    """Return a bake-off as JSON-like values; `sets` has the rows on each query set's queries."""
    done = [r.name for r in rows if r.run_id is not None]
    judgments = config.judgments
    return {
        "query_set": config.queries.query_set,
        "judgment_list": None if judgments is None else judgments.judgment_list,
        "measure": str(parse_primary(config.comparison.primary)),
        "base": done[0] if done else None,
        "failed": len(rows) - len(done),
        "rows": [asdict(row) for row in rows],
        "sets": {
            name: [{k: v for k, v in asdict(row).items() if k in _QUALITY} for row in own]
            for name, own in sets.items()
        },
    }


def forecast_of(contender: Contender) -> Mapping[str, Any]:
    """Return what a contender will cost, or why it cannot be told; nothing is written."""
    from reranking.forecast import forecast
    from reranking.reevaluation import documents_to_encode

    shown: dict[str, Any] = {"name": contender.name, "reason": None, "documents_to_encode": 0}
    try:
        pipeline = Pipeline(contender.config)
        pipeline.check()
        shown["documents_to_encode"] = documents_to_encode(pipeline)
        if shown["documents_to_encode"]:
            return shown | {"reason": "its candidates are known once the documents are encoded"}
        return shown | forecast(pipeline)
    except Exception as error:
        return shown | {"reason": failed(contender, error).reason}
