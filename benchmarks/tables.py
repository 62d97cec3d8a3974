"""The figures as tables, each beside what it must reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

# text -> least ratio over the other side; other texts are shown without a target
TARGETS: dict[str, dict[str, float]] = {
    "hybrid": {"scifact": 2.7, "mixed": 4.0},
    "three": {"scifact": 5.5, "mixed": 8.0},
    "half": {"scifact": 4.5, "mixed": 7.0},
    "predict": {"scifact": 1.8, "mixed": 2.5},
}
MEANING = {
    "hybrid": "hybrid, float32, whole job over LanceDB's loop",
    "three": "three query types in one run over LanceDB's three loops",
    "half": "hybrid, bfloat16, whole job over LanceDB's float32 loop",
    "predict": "engine, float32, over one pooled predict",
}
Row = tuple[str, str, str, str, str, str]


def of(found: dict[str, Any]) -> Iterator[Table]:
    """The tables of what was measured."""
    if "device" in found:
        yield _device_table(found["device"])
        return
    yield _figures_table(found)
    yield _factors_table(found["texts"])
    yield _speed_table(found)
    if found["large"] is not None:
        yield _large_table(found["large"])


def rows(found: dict[str, Any]) -> Iterator[Row]:
    """Figure, text, value by the clock, by CPU time, target, reached or not."""
    for key, text in MEANING.items():
        for name, values in found["texts"].items():
            wall, cpu = values[key]
            yield text, name, *_against(wall, cpu, TARGETS[key].get(name), "x")
    for name, values in found["texts"].items():
        wall, cpu = values["hybrid_of_product"]
        yield "the first figure over the product of its factors", name, *_against(wall, cpu, 0.85)
        wall, cpu = values["share_of_peak"]
        yield "FLOP/s over the measured GEMM peak, float32", name, *_against(wall, cpu, 0.6)
        yield _at_most("largest difference of scores, float32", name, values["gap"], 1e-4)
        overlap = values["overlap"]
        verdict = "yes" if overlap >= 0.98 else "NO"
        what = "top-10 overlap of bfloat16 with float32"
        yield what, name, f"{overlap:.3f}", "", ">= 0.98", verdict
    large = found["large"]
    if large is None:
        return
    what = f"share of time outside the model, {large['pairs']:,} pairs, Prefect included"
    yield _at_most(what, large["text"], large["outside"], 0.10)
    growth = large["peak_mb"] / large["peak_mb_of_one_chunk"]
    pairs = f"{large['pairs']:,} pairs over one chunk of {large['pairs_of_one_chunk']:,}"
    what = f"peak memory of {pairs}"
    yield _at_most(what, large["text"], growth, 1.05)


def _against(
    wall: float, cpu: float, target: float | None, unit: str = ""
) -> tuple[str, str, str, str]:
    shown = f"{wall:.2f}{unit}", f"{cpu:.2f}{unit}"
    if target is None:
        return *shown, "", ""
    if wall >= target:
        return *shown, f">= {target}", "yes"
    return *shown, f">= {target}", "by CPU time" if cpu >= target else "NO"


def _at_most(what: str, name: str, value: float, target: float) -> Row:
    return what, name, f"{value:.2g}", "", f"<= {target:g}", "yes" if value <= target else "NO"


def _figures_table(found: dict[str, Any]) -> Table:
    table = Table(title="Figures: medians over rounds", title_justify="left")
    for name in ("figure", "text", "wall", "CPU time", "must reach", "reached"):
        right = name in ("wall", "CPU time")
        table.add_column(name, justify="right" if right else "left")
    for row in rows(found):
        table.add_row(*row)
    return table


def _factors_table(texts: dict[str, Any]) -> Table:
    table = Table(title="Where it comes from: ratios by the clock (by CPU time)")
    table.add_column("factor")
    for name in texts:
        table.add_column(name, justify="right")
    names = list(next(iter(texts.values()))["factors"])

    def add(label: str, values: list[Any]) -> None:
        shown = (
            f"{v[0]:.2f} ({v[1]:.2f})" if isinstance(v, (list, tuple)) else f"{v:.2f}"
            for v in values
        )
        table.add_row(label, *shown)

    for name in names:
        add(name, [t["factors"][name] for t in texts.values()])
    add("product", [t["product"] for t in texts.values()])
    add("whole job, hybrid", [t["hybrid"] for t in texts.values()])
    add("de-duplication of three query types", [t["de-duplication"] for t in texts.values()])
    add("product with it", [_times(t["product"], t["de-duplication"]) for t in texts.values()])
    add("whole job, three query types", [t["three"] for t in texts.values()])
    add(
        "real tokens of LanceDB's padded ones", [t["real_tokens_of_padded"] for t in texts.values()]
    )
    return table


def _times(product: tuple[float, float], factor: float) -> tuple[float, float]:
    return product[0] * factor, product[1] * factor


def _speed_table(found: dict[str, Any]) -> Table:
    table = Table(title="Pairs per second by the clock, and the rest of a run")
    table.add_column("what")
    for name in found["texts"]:
        table.add_column(name, justify="right")
    texts = list(found["texts"].values())
    table.add_row("tokens of a pair", *(f"{t['tokens']:.0f}" for t in texts))
    for name in texts[0]["pairs_per_second"]:
        table.add_row(name, *(f"{t['pairs_per_second'][name]:.1f}" for t in texts))
    for name in texts[0].get("outside_seconds", {}):
        table.add_row(
            f"seconds outside the model: {name}",
            *(f"{t['outside_seconds'][name]:.3f}" for t in texts),
        )
    table.add_row("GEMM peak of a core, GFLOP/s", f"{found['peak']['flops'] / 1e9:.0f}")
    return table


def _large_table(large: dict[str, Any]) -> Table:
    title = f"A job of {large['pairs']:,} pairs of {large['text']} through the flow"
    table = Table("what", "figure", title=title)
    stages = ", ".join(f"{k} {v:.1f}" for k, v in large["seconds"].items())
    table.add_row("seconds", f"{large['wall']:.0f}, in the model {large['model']:.0f}")
    table.add_row("seconds by stage", stages)
    table.add_row("pairs per second", f"{large['pairs_per_second']:.0f}")
    peaks = f"{large['peak_mb']} MB; one chunk alone {large['peak_mb_of_one_chunk']} MB"
    table.add_row("peak memory", f"{peaks}; before the job {large['before_mb']} MB")
    return table


def _device_table(runs: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{runs[0]['device']}: {runs[0]['path']}, {runs[0]['dtype']}")
    table.add_column("what")
    for run in runs:
        table.add_column(run["text"], justify="right")
    for key, shown in {
        "tokens": ".0f",
        "pairs_per_second": ",.0f",
        "share_of_peak": ".1%",
        "waiting": ".1%",
        "largest_gap_to_float32": ".3f",
    }.items():
        table.add_row(key.replace("_", " "), *(f"{r[key]:{shown}}" for r in runs))
    return table
