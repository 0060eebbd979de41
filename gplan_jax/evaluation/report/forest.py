"""Forest plots: one line an arm with its mean, its interval over rows and its spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gplan_jax.evaluation.report import svg
from gplan_jax.evaluation.report.verdict import figure

WIDTH, MARGIN, TOP, PITCH, GAP = 360.0, 8.0, 8.0, 33.0, 14.0
RUNS = ("run0", "run1", "run2")
SHIFT = 9.0  # of a second run's line below the first


@dataclass(frozen=True)
class Mark:
    """A point with its interval.

    Attributes:
        kind: class of its colour and shape: trained, floor, added, or run0, run1, ... of runs.
        spread: interval over seeds, None without.
        hollow: drawn as an outline: nothing is shown.
    """

    mean: float
    low: float
    high: float
    kind: str
    spread: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """An arm's line; ``apart`` leaves a gap above, between groups."""

    label: str
    marks: Sequence[Mark]
    apart: bool = False


def forest(
    name: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    measure: str,
    *,
    reference: float | None = None,
    signed: bool = False,
) -> Markup:
    """Draws the lines over one scale, with a dashed line at the reference's value.

    Args:
        measure: how figures are written.
        signed: they are differences, written with their sign.
    """
    # Of two seeds the spread can be many times as wide as anything else: it is cut to the scale.
    values = [value for line in lines for m in line.marks for value in (m.low, m.mean, m.high)]
    values += [reference] if reference is not None else []
    scale = svg.padded(values, MARGIN, WIDTH - MARGIN)
    parts: list[Markup] = []
    y = TOP
    for line in lines:
        y += GAP if line.apart else 0
        parts.append(_line(line, y, scale, measure, signed))
        y += PITCH + SHIFT * (len(line.marks) - 1)
    bottom = y + 2
    frame = [
        *(svg.line(scale(t), TOP, scale(t), bottom, "grid") for t in scale.ticks()),
        *(
            svg.text(scale(t), bottom + 13, _tick(t, measure), "tick", "middle")
            for t in scale.ticks()
        ),
    ]
    if reference is not None:
        frame.append(svg.line(scale(reference), TOP, scale(reference), bottom, "reference"))
    return svg.drawing(name, title, description, WIDTH, bottom + 18, *frame, *parts)


def _line(line: Line, y: float, scale: svg.Scale, measure: str, signed: bool) -> Markup:
    parts = [svg.text(MARGIN, y + 11, svg.clipped(line.label, 38), "label halo")]
    if len(line.marks) == 1 and line.marks[0].kind not in RUNS:
        value = figure(measure, line.marks[0].mean, signed=signed)
        parts.append(svg.text(WIDTH - MARGIN, y + 11, value, "value halo", "end"))
    for i, mark in enumerate(line.marks):
        parts.append(_mark(mark, y + 20 + SHIFT * i, scale, measure, signed))
    return svg.element("g", *parts)


def _mark(mark: Mark, y: float, scale: svg.Scale, measure: str, signed: bool) -> Markup:
    low, high, middle = scale(mark.low), scale(mark.high), scale(mark.mean)
    ends = " to ".join(figure(measure, v, signed=signed) for v in (mark.low, mark.high))
    parts = [
        svg.element("title", f"{figure(measure, mark.mean, signed=signed)}, 95% {ends}"),
        svg.line(low, y, high, y, "interval"),
        *(svg.line(x, y - 3, x, y + 3, "interval") for x in (low, high)),
    ]
    if mark.spread is not None:
        start, end = (min(max(scale(v), 0), WIDTH) for v in mark.spread)
        width = max(end - start, 1)
        parts.append(
            svg.element("rect", x=start, y=y - 3, width=width, height=6, class_="spread", rx=2)
        )
    kind = "point hollow" if mark.hollow else "point"
    if mark.kind in ("floor", "run1"):
        side = 7.0
        parts.append(
            svg.element(
                "rect", x=middle - side / 2, y=y - side / 2, width=side, height=side, class_=kind
            )
        )
    elif mark.kind in ("added", "run2"):
        corners = f"{middle:.1f},{y - 5:.1f} {middle + 5:.1f},{y:.1f} "
        corners += f"{middle:.1f},{y + 5:.1f} {middle - 5:.1f},{y:.1f}"
        parts.append(svg.element("polygon", points=corners, class_=kind))
    else:
        parts.append(svg.element("circle", cx=middle, cy=y, r=4, class_=kind))
    return svg.element("g", *parts, class_=mark.kind)


def _tick(value: float, measure: str) -> str:
    return f"{100 * value if measure == 'acc1' else value:g}".replace("-", "−")
