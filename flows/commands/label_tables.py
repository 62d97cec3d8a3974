"""Labels, agreement, work lists and mining for people, from the values that --json prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from flows.commands.tables import add_row, new_table


def calibration_lines(of: Mapping[str, Any]) -> list[str]:
    """What the calibration rests on and how good it is, or why there is none."""
    if not of["calibrated"]:
        return [f"Not calibrated, labels are cut on raw scores: {of['reason']}"]
    return [
        f"Calibration: {of['method']}, on {of['judged']} judged pairs ({of['positives']} relevant) "
        f"of {of['queries']} queries",
        f"Cross-fitted: Brier score {of['brier']:.3f} (base rate {of['base_brier']:.3f}), "
        f"expected calibration error {of['ece']:.3f}",
    ]


def calibration_table(of: Mapping[str, Any]) -> Table | None:
    """The reliability plot as a table; None without a calibration."""
    if not of["calibrated"]:
        return None
    columns = ["predicted", "observed", "95% interval", "pairs"]
    table = new_table("Reliability", columns, columns)
    for one in of["bins"]:
        interval = f"{one['low']:.2f} .. {one['high']:.2f}"
        add_row(table, f"{one['predicted']:.2f}", f"{one['observed']:.2f}", interval, one["count"])
    return table


def rules_table(values: Mapping[str, Any]) -> Table:
    """The rules side by side."""
    numbers = ["positive", "negative", "unsure"]
    columns = ["rule", *numbers, "precision [95%]", "recall [95%]"]
    table = new_table(f"Rules on {values['pairs']:,} pairs", columns, numbers)
    for row in values["rules"]:
        name = f"{row['rule']} *" if row["rule"] == values["apply"] else row["rule"]
        counts = (f"{row[n]:,}" for n in numbers)
        add_row(table, name, *counts, row["precision"], row["recall"])
    return table


def conflicts_table(values: Mapping[str, Any]) -> Table | None:
    """The labels that people contradict, the most confident first; None where nobody does."""
    rows = values.get("first_conflicts")
    if not rows:
        return None
    columns = ["query", "document", "label", "probability", "grade", "rater"]
    table = new_table(f"{values['conflicts']} labels contradict a person's grade", columns)
    for row in rows[:10]:
        sure = "" if row["probability"] is None else f"{row['probability']:.3f}"
        add_row(
            table,
            row["query_id"],
            row["doc_id"],
            row["label"],
            sure,
            row["relevance"],
            row["source"],
        )
    return table


def agreement_line(values: Mapping[str, Any]) -> str:
    """What was compared with what, on how many pairs."""
    if values["right"] is None:
        return f"Raters {', '.join(values['raters'])}: {values['pairs']} pairs with several grades"
    how = "relevant or not" if values["binary"] else "grade for grade"
    return (
        f"{values['left']} and {values['right']}: {values['pairs']} pairs of {values['queries']} "
        f"queries, {values['same']:.1%} the same, {how}"
    )


def agreement_tables(values: Mapping[str, Any]) -> list[Table | None]:
    """Kappa and alpha, the confusion by grade, and the disagreements that tell most."""
    if values["right"] is None:
        names = {name: f"alpha ({name})" for name in ("nominal", "ordinal", "interval")}
        return [_figures(values, names), _raters(values)]
    names = {
        "kappa": "kappa",
        "kappa_linear": "kappa, linear weights",
        "kappa_quadratic": "kappa, quadratic weights",
        "alpha_nominal": "alpha (nominal)",
        "alpha_ordinal": "alpha (ordinal)",
    }
    if values["binary"]:
        names = {name: names[name] for name in ("kappa", "alpha_nominal")}
    return [_figures(values, names), _confusion(values), _disagreements(values)]


def _figures(values: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    table = new_table("Beyond chance", ["figure", "value", "95% interval over queries"], ["value"])
    for name, text in names.items():
        one = values[name]
        if one["value"] is None:
            add_row(table, text, "", "chance explains all: one grade only")
        else:
            interval = f"{one['low']:.3f} .. {one['high']:.3f}"
            add_row(table, text, f"{one['value']:.3f}", interval)
    return table


def _raters(values: Mapping[str, Any]) -> Table | None:
    """Each rater beside the others; who disagrees with everybody is marked."""
    if not values["each"]:
        return None
    columns = ["rater", "pairs", "alpha with the others", "of the others alone", ""]
    table = new_table("Rater by rater (ordinal alpha)", columns, ["pairs"])
    for one in values["each"]:
        figures = (_estimate(one[name]) for name in ("against", "others"))
        said = "disagrees with everybody" if one["apart"] else ""
        add_row(table, one["rater"], f"{one['pairs']:,}", *figures, said)
    return table


def _estimate(of: Mapping[str, Any]) -> str:
    if of["value"] is None:
        return "unknown"
    return f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}]"


def _confusion(values: Mapping[str, Any]) -> Table:
    cells = {(row["left"], row["right"]): row["count"] for row in values["confusion"]}
    columns = sorted({right for _, right in cells})
    names = [f"{values['right']} {grade}" for grade in columns]
    table = new_table("Grade by grade", [values["left"], *names], names)
    for left in sorted({left for left, _ in cells}):
        add_row(table, left, *(cells.get((left, right), 0) for right in columns))
    return table


def _disagreements(values: Mapping[str, Any]) -> Table | None:
    if not values["disagreements"]:
        return None
    columns = ["query", "document", values["left"], values["right"]]
    table = new_table("The disagreements that tell most", columns)
    for row in values["disagreements"][:10]:
        add_row(table, row["query_id"], row["doc_id"], row["left"], row["right"])
    return table


def label_sets_table(rows: list[dict[str, Any]]) -> Table:
    """One line per label set."""
    numbers = ["labels", "positive", "unsure", "stale"]
    table = new_table(
        f"{len(rows)} label sets", ["label set", "", "run", *numbers, "made"], numbers
    )
    for row in rows:
        add_row(
            table,
            row["label_set"],
            "current" if row["current"] else "",
            ",".join(run[:8] for run in row["runs"]),
            *(f"{row[n]:,}" for n in numbers),
            f"{row['created_at']:%Y-%m-%d %H:%M}",
        )
    return table


def mining_table(values: Mapping[str, Any]) -> Table:
    """What a mining found, dropped and risks."""
    table = new_table(f"Negatives of run {values['run_id'][:8]}", ["what", "value"])
    for name in ("queries", "queries_without_positive", "queries_short_of_negatives"):
        add_row(table, name.replace("_", " "), f"{values[name]:,}")
    verified = f"{values['negatives']:,}, {values['verified']:,} of which judged"
    add_row(table, "negatives", verified)
    for reason, count in sorted(values["dropped"].items(), key=lambda item: -item[1]):
        add_row(table, f"dropped: {reason}", f"{count:,}")
    rate = values["false_negative_rate"]
    said = "unknown without a calibration" if rate is None else f"{rate:.3f}"
    add_row(table, "estimated false-negative rate", said)
    add_row(table, "hidden positives that were mined", values["hidden_positives"])
    if "rows" in values:
        split = ", ".join(f"{name} {count:,}" for name, count in values["rows"].items())
        add_row(table, f"{values['output_format']} rows in {values['folder']}", split)
    return table
