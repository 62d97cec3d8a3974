"""From a report's content to one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reranking.errors import ConfigError
from reranking.evaluation.comparison import Row
from reranking.files import check_out, whole_file
from reranking.labelling.calibration import Calibration
from reranking.report import charts, plots, words
from reranking.report.content import Report, ShownDocument, ShownQuery
from reranking.report.curves import curves

TEMPLATES: Final = Path(__file__).parent / "templates"
# What HTML cannot hold, and the marks that reorder text around them (Unicode TR 9, TR 36).
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def render(report: Report) -> str:
    """Render the report as an HTML document.

    Texts from outside are escaped wherever they stand, and the page's own policy forbids every
    script and style but the two whose digests it names, and every request.
    """
    return page_of("report.html.jinja", report=report, **_pictures(report))


def page_of(template: str, **values: Any) -> str:
    """Render a template of the package: escaped, with its style and script and no others."""
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    page = (
        _environment()
        .get_template(template)
        .render(
            style=Markup(style),  # noqa: S704 - a file of the package
            script=Markup(script),  # noqa: S704 - a file of the package
            policy=_policy(style, script),
            **values,
        )
    )
    return _UNPRINTABLE.sub("\ufffd", page)


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy that allows this style, this script and nothing else."""
    return (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (
        words.number,
        words.signed,
        words.count,
        words.percent,
        words.p_value,
        words.seconds,
        words.ordinary,
        words.short_id,
        shlex.quote,
    )
    made.filters.update({function.__name__: function for function in shown})
    made.globals.update(
        way=charts.way,
        dumbbell=charts.dumbbell,
        share_bar=charts.share_bar,
        slopes=charts.slopes,
        interval_cell=charts.interval_cell,
        interval_axis=charts.interval_axis,
        columns=columns,
        whereabouts=words.whereabouts,
        changes=changes,
    )
    return made


def _pictures(report: Report) -> dict[str, Any]:
    """The headline, the words below it and the large pictures; None if there is no such one."""
    comparison = report.comparison
    margin = report.rules.margin
    row_limits = slice_limits = None
    if comparison is not None:
        row_limits = charts.interval_scale([r.paired for r in comparison.rows], margin)
        slice_limits = charts.interval_scale([r.paired for r in report.slices], margin)
    past = report.history
    judged_sets = [one for one in report.sets if one.comparison is not None]
    deciding = [one.comparison.primary.paired for one in judged_sets if one.comparison is not None]
    return {
        "judged_sets": judged_sets,
        "set_limits": charts.interval_scale(deciding, margin) if deciding else None,
        "headline": words.headline(report),
        "explanation": words.explanation(report),
        "interval": None
        if comparison is None
        else charts.interval_picture(
            comparison.primary.paired,
            margin,
            certain=comparison.verdict in ("improved", "regressed"),
        ),
        "differences": None
        if comparison is None or not any(value for _, value in report.per_query)
        else charts.differences(report.per_query, comparison.primary.measure),
        "row_limits": row_limits,
        "slice_limits": slice_limits,
        "uncertain": [] if comparison is None else _uncertain(comparison.rows, report.rules.alpha),
        "row_groups": [] if comparison is None else _by_type(comparison.rows),
        "distributions": [(d, plots.distribution(d)) for d in report.distributions],
        "history": None
        if past is None or len(past.points) < 2
        else plots.history(past, report.run.run_id),
        "reliability": [
            (e, plots.reliability(e.calibration.reliability))
            for e in report.labels
            if isinstance(e.calibration, Calibration)
        ],
        "curves": {}
        if report.sweep is None
        else {c.family: curves(report.sweep, c) for c in report.sweep.choices},
        "provenance": _provenance(report),
    }


def _by_type(rows: tuple[Row, ...]) -> list[tuple[str, list[Row]]]:
    types = dict.fromkeys(row.query_type for row in rows)
    return [(t, [row for row in rows if row.query_type == t]) for t in types]


def _uncertain(rows: tuple[Row, ...], alpha: float) -> list[Row]:
    """The rows whose own interval leaves out 0, though their corrected p is no small one."""
    return [
        row
        for row in rows
        if row.p_corrected is not None
        and row.p_corrected >= alpha
        and row.paired.low is not None
        and row.paired.high is not None
        and (row.paired.low > 0 or row.paired.high < 0)
    ]


def _provenance(report: Report) -> list[tuple[str, str, str | None]]:
    """(what, this run's, the other run's); the other's is None if it is the same or absent."""
    own = report.run.provenance
    other = {} if report.against is None else report.against.provenance
    keys = dict.fromkeys([*own, *other])
    return [
        (k, own.get(k, words.DASH), other.get(k) if other.get(k) != own.get(k) else None)
        for k in keys
    ]


def columns(query: ShownQuery, ranks: int) -> list[list[ShownDocument | None]]:
    """Return the two rankings of a query, rank by rank; None if a ranking has no such rank."""
    left = {d.base_rank: d for d in query.documents}
    right = {d.candidate_rank: d for d in query.documents}
    shown = [rank for rank in range(1, ranks + 1) if rank in left or rank in right]
    return [[side.get(rank) for rank in shown] for side in (left, right)]


def changes(query: ShownQuery, ranks: int) -> str:
    """Return how many documents entered and left the shown ranks, and how many moved."""
    entered = left = moved = 0
    for d in query.documents:
        was, now = (r is not None and r <= ranks for r in (d.base_rank, d.candidate_rank))
        entered += now and not was
        left += was and not now
        moved += was and now and d.base_rank != d.candidate_rank
    return f"{entered} in, {left} out, {moved} moved"


def make_folder(folder: Path) -> None:
    """Make the folder unless it exists; raises ConfigError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder {folder} for reports cannot be made: {error.strerror}; name another one"
        ) from error


def write(report: Report, out: Path) -> int:
    """Write the page whole or not at all; its size in bytes.

    Raises ConfigError if no file can be written there.
    """
    check_out(out)
    data = render(report).encode("utf-8")
    with whole_file(out) as file:
        file.write(data)
    return len(data)
