"""Numbers and verdicts as people read them."""

from __future__ import annotations

import json
import re
from typing import Final

from reranking.evaluation.statistics import CONFIDENCE, Paired
from reranking.report.content import Report

MINUS: Final = "\u2212"
DASH: Final = "\u2013"  # in place of a missing number


def number(value: float | None, digits: int = 3) -> str:
    """Return the number with a real minus sign; a dash for None."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def signed(value: float | None, digits: int = 3) -> str:
    """Return the number with its sign, unless it rounds to zero; a dash for None."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text) else text


def count(value: int | None) -> str:
    """Return the number with its thousands apart; a dash for None."""
    return DASH if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    """Return the share in per cent; small ones keep a digit."""
    if value is None:
        return DASH
    return f"{value:.1%}" if 0 < value < 0.1 or 0.9 < value < 1 else f"{value:.0%}"


def p_value(value: float | None) -> str:
    """Return the p-value as papers print it."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def seconds(value: float | None) -> str:
    """Return the duration in the two units that matter."""
    if value is None:
        return DASH
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ordinary(name: str) -> str:
    """Return `tag` and `fts` as readers call them."""
    return {"fts": "full-text", "length": "query length"}.get(name, name)


def clipped(text: str, limit: int) -> str:
    """Return the text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "\u2026"


_OWN: Final = {
    "improved": "Reranking improves {type} search",
    "regressed": "Reranking makes {type} search worse",
    "no difference": "Reranking makes no difference to {type} search that matters",
    "cannot tell": "Cannot tell whether reranking improves {type} search",
}
_TWO: Final = {
    "improved": "{candidate} is better than {base} in {type} search",
    "regressed": "{candidate} is worse than {base} in {type} search",
    "no difference": "{candidate} and {base} do not differ in {type} search in a way that matters",
    "cannot tell": "Cannot tell whether {candidate} is better than {base} in {type} search",
}


def headline(report: Report) -> str:
    """Return the verdict in one sentence, without its full stop."""
    if report.contrast is None:
        return f"What run {report.run.short} found"
    if report.comparison is None:
        if report.contrast.own_first_stage:
            return "How much reranking changes the results"
        return f"How much {report.contrast.candidate} differs from {report.contrast.base}"
    forms = _OWN if report.contrast.own_first_stage else _TWO
    sentence = forms[report.comparison.verdict].format(
        type=ordinary(report.comparison.primary.query_type),
        base=report.contrast.base,
        candidate=report.contrast.candidate,
    )
    return sentence[0].upper() + sentence[1:]


def explanation(report: Report) -> str:
    """Return what the headline rests on, in two or three sentences without statistics."""
    if report.contrast is None:
        return "The run published its first stage; there is nothing to compare it with."
    if report.comparison is None and any(one.comparison is not None for one in report.sets):
        return (
            "All queries together have no judgment list; each query set has its own verdict below. "
            "This report also shows how much the two rankings have in common."
        )
    if report.comparison is None:
        return (
            "There are no judgments for these queries, so nobody can say which ranking is better. "
            "This report shows how much the two rankings have in common."
        )
    row = report.comparison.primary
    return f"{_movement(row.measure, row.paired)} {_meaning(report)}"


def _movement(measure: str, paired: Paired) -> str:
    if paired.difference is None:
        return f"No query could be compared by {measure}."
    way = "rises" if paired.difference > 0 else "falls" if paired.difference < 0 else "stays"
    moved = f"{measure} {way} from {number(paired.base)} to {number(paired.candidate)}"
    if way == "stays":
        moved = f"{measure} stays at {number(paired.base)}"
    return f"{moved} on average over {count(paired.queries)} queries."


def _meaning(report: Report) -> str:
    assert report.comparison is not None
    paired, rules = report.comparison.primary.paired, report.rules
    if paired.low is None or paired.high is None:
        return "That is too little to tell chance from effect."
    span = (
        f"The {CONFIDENCE:.0%} interval of the difference goes from {signed(paired.low)} "
        f"to {signed(paired.high)}"
    )
    if report.comparison.verdict in ("improved", "regressed"):
        return f"{span}: more than chance explains."
    if report.comparison.verdict == "no difference":
        return f"{span}, inside the margin of \u00b1{rules.margin:g} that matters."
    if paired.queries < rules.min_queries:
        return f"{span}, but a verdict needs at least {rules.min_queries} queries."
    if report.comparison.reason.startswith("too much is unjudged"):
        return f"{span}, but too many of the documents that changed were never judged."
    return f"{span}: with these queries, a gain and a loss are both possible."


def whereabouts(now: int | None, then: int | None, *, base: bool) -> str:
    """Return where a document of one ranking stands in the other; `base`: which one it is in."""
    if now == then:
        return "same rank"
    if base:
        return "gone" if then is None else f"now #{then}"
    return "new" if then is None else f"was #{then}"


def rule(stored: str) -> str:
    """Return a labelling rule, stored as JSON, as words."""
    values = json.loads(stored)
    name = values.pop("name", "rule")
    parts = [
        f"{k.replace('_', ' ')} {' to '.join(map(str, v)) if isinstance(v, list) else v}"
        for k, v in values.items()
        if v not in (None, [], False)
    ]
    return f"{name}: {', '.join(parts)}"


def short_id(text: str) -> str:
    """Return an id or a digest in its first eight digits, as everywhere; other text as it is."""
    return text[:8] if _ID.fullmatch(text) else text


_ID = re.compile(r"[0-9a-f]{32}")
