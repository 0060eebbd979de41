"""Small parts that the page's drawings are made of: escaped elements, scales and ticks.

Drawings carry no colours: classes refer to the page's style, so that they follow its dark mode and
print, and their text is set in the page's font.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

NO_SPAN = 1e-4  # of the larger value, or of 1


def element(tag: str, *content: str | Markup, **attributes: str | float) -> Markup:
    """An element with escaped attributes; plain text in ``content`` is escaped, markup is not.

    ``class_`` stands for class, underscores for hyphens; numbers get two decimals at most.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
    )
    inside = Markup("").join(escape(part) for part in content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), given, inside)


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else short(value)


def short(value: float) -> str:
    """A number with two decimals at most: 12, 0.5, 3.25."""
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def drawing(
    name: str, title: str, description: str, width: float, height: float, *parts: Markup
) -> Markup:
    """A whole drawing with its title and description, which screen readers read.

    Args:
        name: an id that no other drawing of the page has.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        viewBox=f"0 0 {short(width)} {short(height)}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        style=f"max-width:{short(width * 1.25)}px",
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def text(x: float, y: float, words: str | Markup, kind: str = "", anchor: str = "start") -> Markup:
    """Text from, around or up to x on the base line y."""
    return element("text", words, x=x, y=y, class_=kind, text_anchor=anchor)


def path(points: Sequence[tuple[float, float]], kind: str) -> Markup:
    """A line through points, one decimal each."""
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=steps, class_=kind)


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` onto positions from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values within the scale, ``most`` of them at most."""
        span = self.high - self.low
        exponent = math.floor(math.log10(span / most))
        power = 10.0**exponent
        step = next(power * m for m in (1, 2, 2.5, 5, 10, 20) if span / (power * m) < most - 1e-9)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        # Rounded to the step's own last digit, however small the step is.
        return [round(i * step, 1 - exponent) for i in range(first, last + 1)]


def padded(values: Sequence[float], start: float, end: float, *, room: float = 0.05) -> Scale:
    """A scale that holds all values with some room on both sides, and is never empty."""
    low, high = min(values), max(values)
    # Values that no figure of the page can tell apart are one value: the ticks' labels would all
    # read alike.
    size = max(abs(low), abs(high), 1.0)
    margin = room * (high - low if high - low > NO_SPAN * size else size)
    return Scale(low - margin, high + margin, start, end)


def clipped(words: str, most: int) -> str:
    """Words cut to ``most`` columns, a Chinese character counting two."""
    room = most
    for i, character in enumerate(words):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return f"{words[: i - 1].rstrip()}…"
    return words
