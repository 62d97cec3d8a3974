"""What commands print for people: rich tables, built from the values that --json prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flows.commands.console import printable
from reranking.numbers import cells as texts
from reranking.numbers import published_line
from reranking.runs.lengths import ALL, in_words, is_length, lengths_of
from reranking.runs.settings import shown


def show(*tables: Table | Text | None) -> None:
    """Print the tables that there are, as wide as they need to be where nobody watches."""
    console = _Console()
    if not console.is_terminal:
        console = _Console(width=400)
    for table in tables:
        if table is not None:
            console.print(table)


class _Console(Console):
    """A console to which no cell's text can send controls, whatever made the cell."""

    def on_broken_pipe(self) -> None:
        """Leave the end to the command: rich itself would end the process as if it was stopped."""
        raise BrokenPipeError

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def new_table(title: str, columns: Iterable[str], right: Iterable[str] = ()) -> Table:
    """An empty table; the columns `right` hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    aligned = set(right)
    for name in columns:
        table.add_column(name, justify="right" if name in aligned else "left", no_wrap=True)
    return table


def add_row(table: Table, *values: object) -> None:
    """A row of plain text: ids and texts come from outside and must not be read as markup."""
    table.add_row(
        *(v if isinstance(v, Text) else Text("" if v is None else str(v)) for v in values)
    )


def rejects_table(rows: list[dict[str, Any]]) -> Table:
    """Rejected rows with their source, place, id and reason."""
    table = new_table(f"{len(rows):,} rejected rows", ["source", "row", "id", "reason"], ["row"])
    for row in rows:
        add_row(table, row["source_fp"][:8], row["row_number"], row["id"], row["reason"])
    return table


def ingest_table(report: Mapping[str, Any]) -> Table:
    """Rows taken in, by what became of them."""
    names = ["rows", "inserted", "updated", "unchanged", "deleted", "rejected"]
    table = new_table(f"Documents, {report['seconds']:.1f} s", names, names)
    add_row(table, *(f"{report[n]:,}" for n in names))
    for reason, count in report["reasons"].items():
        add_row(table, *[""] * 5, f"{count} x {reason}")
    return table


_LEFT_OUT = {
    "without_vector": "documents without a vector: only words find them",
    "older": "rows left out, older than another of their id",
}


def run_table(values: Mapping[str, Any]) -> Table:
    """What the run did."""
    title = f"Run {values['run_id'][:8]}"
    if not values["computed"]:
        title += ": finished before, nothing was computed"
    table = new_table(title, ["what", "value"])
    for name in ("results_table", "queries", "queries_without_hits", "pairs", "scored", "reused"):
        add_row(table, name, _number(values[name]))
    if values["consumers"]:
        add_row(table, "published for consumers", published_line(values["consumers"]))
    if values["reused"] and values["seconds_saved"] is not None:
        add_row(table, "scoring time saved", f"{values['seconds_saved']:,.1f} s")
    if values["lengths"]:
        add_row(table, "longer than the model reads", in_words(values["lengths"][ALL]))
    if values["rejected"]:
        add_row(table, "rejected rows", _number(values["rejected"]))
    for name, text in _LEFT_OUT.items():
        if values["documents"].get(name):
            add_row(table, text, _number(values["documents"][name]))
    if values["pairs_per_second"]:
        add_row(table, "pairs per second", f"{values['pairs_per_second']:,.1f}")
        add_row(table, "scored with", values["score_path"])
    _add_approximations(table, values)
    add_row(table, "seconds", ", ".join(f"{k} {v:.1f}" for k, v in values["seconds"].items()))
    return table


def _add_approximations(table: Table, values: Mapping[str, Any]) -> None:
    """What an index and half precision lose, and what is done about it."""
    if values["recall"]:
        add_row(table, "recall of the vector index", recall_text(values["recall"]))
    if refined := values["refined"]:
        add_row(table, "refined in float32", f"{refined['refined']:,} pairs")
        of = f"{refined['rankings_equal']} of {refined['rankings_checked']} rankings checked"
        add_row(table, "top_k as float32 alone has it", of)


def measures_table(
    measures: list[dict[str, Any]], lengths: Mapping[str, Any] | None = None, title: str = ""
) -> Table | None:
    """What reranking changed, gain or loss; None where nothing was measured.

    With `lengths` also which share of a query type's pairs the model read in part only.
    """
    if not measures:
        return None
    columns = ["query type", "measure", "first stage", "reranked", "change", "queries"]
    columns += [] if lengths is None else ["cut pairs"]
    table = new_table(title or "What reranking changed", columns, columns[2:])
    for row in measures:
        first, reranked, change = texts(row)
        add_row(
            table,
            row["query_type"],
            row["measure"],
            first,
            reranked,
            _colored(change),
            row["queries"],
            *([] if lengths is None else [_share(lengths.get(row["query_type"]))]),
        )
    return table


def set_tables(sets: Iterable[Mapping[str, Any]]) -> list[Table | None]:
    """What reranking changed on the queries of each query set alone."""
    return [
        measures_table(one["measures"], title=f"{one['query_set']}, {one['queries']:,} queries")
        for one in sets
    ]


def _share(counted: Mapping[str, Any] | None) -> str:
    return "unknown" if counted is None or counted["share"] is None else f"{counted['share']:.1%}"


def _colored(change: str) -> Text:
    style = {"+": "green", "-": "red"}.get(change[:1], "") if change.strip("+-0.") else ""
    return Text(change, style=style)


def runs_table(rows: list[dict[str, Any]]) -> Table:
    """One line per run, and under it why it is unfinished; `differs` is what others have not."""
    columns = ["run", "status", "query set", "types", "reranker", "queries", "pairs", "started"]
    columns += ["promoted as", "differs"]
    table = new_table(f"{len(rows)} runs", columns, ["queries", "pairs"])
    for row in rows:
        counts = row["counts"]
        add_row(
            table,
            row["run_id"][:8],
            row["status"] + (f", again: {row['forced']}" if row["forced"] else ""),
            row["query_set"],
            ",".join(row["query_types"]),
            (row["reranker_model"] or "none").rsplit("/", 1)[-1],
            _number(counts.get("queries")),
            _number(counts.get("pairs")),
            f"{row['started_at']:%Y-%m-%d %H:%M}",
            ", ".join(row["promoted_as"]),
            "; ".join(f"{what} {shown(value)}" for what, value in row["differs"].items()),
        )
    return table


def unfinished_lines(rows: list[dict[str, Any]]) -> list[str]:
    """One line per unfinished run: since when nothing was committed, and why it ended."""
    lines = []
    for row in rows:
        if row["status"] != "done" or row["forced"]:
            reason = f": {row['failure']}" if row["failure"] else ""
            last = f"last commit {row['committed_at']:%Y-%m-%d %H:%M} UTC"
            state = row["status"]
            if row["forced"]:
                state = f"has results; scoring it again (run --force) is {row['forced']}"
            lines.append(f"{row['run_id'][:8]} {state}, {last}{reason}")
    return lines


def recall_text(recall: Mapping[str, Any]) -> str:
    """How much an index finds of what exact search does, and with which settings."""
    found = recall["found"]
    if "bypass_vector_index" in found:
        return f"{recall['recall_before']:.3f} by {recall['index_type']}: searched exactly instead"
    settings = "".join(f", {name} {value}" for name, value in found.items())
    before = f" ({recall['recall_before']:.3f} as set)" if found else ""
    return (
        f"{recall['recall']:.3f} of the first {recall['limit']} on {recall['queries']} queries: "
        f"{recall['index_type']}{settings}{before}"
    )


def details_tables(row: Mapping[str, Any]) -> list[Table | None]:
    """Everything that is known of one run."""
    table = new_table(f"Run {row['run_id']}", ["what", "value"])
    lengths = lengths_of(row["counts"], row["query_types"])
    for name, value in row.items():
        if name in ("config_json", "plan_json", "run_id", "measures") or value is None:
            continue
        if name == "counts":
            value = {k: v for k, v in value.items() if not is_length(k)}
        if name == "recall":
            value = recall_text(value)
        elif isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        add_row(table, name, value)
    for view, counted in (lengths or {}).items():
        add_row(table, f"longer than the model reads, {view}", in_words(counted))
    measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in row["measures"]:
        measured.setdefault((one["query_set"], one["judgment_list"]), []).append(one)
    titles = {key: "" if len(measured) == 1 else ", judged by ".join(key) for key in measured}
    told = lengths if len(measured) == 1 else None  # lengths are those of all sets' pairs
    return [table, *(measures_table(rows, told, titles[key]) for key, rows in measured.items())]


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ("" if value is None else str(value))


def findings_table(findings: list[dict[str, Any]]) -> Table:
    """What the doctor looked at."""
    table = Table(title="Doctor", title_justify="left", title_style="bold")
    for name in ("what", "state", "detail"):
        table.add_column(name)
    for row in findings:
        state = Text("well", "green") if not row["code"] else Text(f"exit {row['code']}", "red")
        add_row(table, row["what"], state, row["detail"])
    return table


def estimate_table(values: Mapping[str, Any] | None) -> Table | None:
    """What a run will cost; None where that could not be told."""
    if values is None:
        return None
    table = new_table(f"Estimate from {values['sampled']} queries", ["what", "value"])
    for name in ("queries", "candidates", "pairs", "to_score"):
        add_row(table, name.replace("_", " "), _number(values[name]))
    if values["hours"] is not None:
        add_row(table, "pairs per second", f"{values['pairs_per_second']:,.1f}")
        add_row(table, "hours of scoring", f"{values['hours']:,.2f}")
    if values["truncated"] is not None:
        share = f"{values['truncated']:.1%} of {values['measured']:,} pairs of the sample"
        add_row(table, "longer than the model reads", share)
    if sent := values["sent"]:
        add_row(table, "texts are sent to", f"{sent['to']} ({sent['model']})")
        add_row(table, "pairs sent", f"{sent['pairs']:,} in {sent['requests']:,} requests")
        add_row(table, "characters sent", _number(sent["characters"]))
    add_row(table, "gigabytes on disk", f"{values['gigabytes']:,.3f}")
    return table


def explanation_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> Table:
    """One document a row; the last column says why in words and wraps."""
    names = list(columns)
    texts_in = {"doc_id", "why", "excerpt"}
    table = new_table("", names, [n for n in names if n not in texts_in])
    table.title = None
    table.columns[-1].no_wrap = False
    for row in rows:
        add_row(table, *(f"{v:.3f}" if isinstance(v, float) else v for v in row))
    return table


def diff_table(made: Any, shown: int) -> Table:
    """The `shown` queries that changed most between two runs."""
    from reranking.evaluation.run_diff import COLUMNS

    table = new_table("", COLUMNS, COLUMNS[3:])
    table.title = f"{min(shown, len(made.queries)):,} of {len(made.queries):,} queries that changed"
    for column in table.columns[1:3]:
        column.no_wrap = False
    for row in made.rows[:shown]:
        add_row(table, *(f"{v:+.4f}" if isinstance(v, float) else v for v in row))
    return table
