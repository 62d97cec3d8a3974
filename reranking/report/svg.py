"""Small pieces of SVG: escaped elements, linear scales, round tick marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Attribute = str | float | None


def element(tag: str, *children: str, **attributes: Attribute) -> Markup:
    """Return `<tag ...>children</tag>`, every value escaped; children of Markup stay markup.

    `class_` means class, `stroke_width` means stroke-width; attributes of None are left out.
    """
    parts = [
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _text(value))
        for name, value in attributes.items()
        if value is not None
    ]
    inner = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, Markup("").join(parts), inner)


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def picture(
    width: float, height: float, label: str, *children: str, class_: str | None = None
) -> Markup:
    """Return an image for readers and for screen readers, which hear `label` instead."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        class_=class_,
        focusable="false",
    )


def label(x: float, y: float, text: str, class_: str = "", anchor: str = "middle") -> Markup:
    """Draw a line of text; `anchor` is start, middle or end."""
    return element("text", text, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Draw a straight line, styled by its class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def box(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> Markup:
    """Draw a rectangle; `title` is its tooltip."""
    children = [element("title", title)] if title else []
    return element("rect", *children, x=x, y=y, width=width, height=height, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str, *, closed: bool = False) -> Markup:
    """Draw a line through the points."""
    drawn = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("path", d=f"M{drawn}{'Z' if closed else ''}", class_=class_)


@dataclass(frozen=True)
class Scale:
    """Maps low..high to start..end, linearly; a range of no width is widened first."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round numbers within the range, roughly `about` of them."""
        return ticks(self.low, self.high, about)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten within low..high."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_digits(values: Sequence[float]) -> int:
    """Return decimals that tell the ticks apart."""
    return max((len(f"{v:.10g}".partition(".")[2]) for v in values), default=0)
