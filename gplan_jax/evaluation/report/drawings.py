"""The page's drawings: forest plots, heat maps, learning curves.

They are our own SVG because a library's is worse here. Classes refer to the page's style, so that
drawings follow its dark mode and print in its font, parts have titles that a pointer shows, and a
drawing has a title and a description for screen readers. matplotlib's SVG of the same figures is
three to five times as large, takes twenty times as long, writes fixed colours, and places Chinese
labels by the width of glyphs that its font lacks.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from gplan_jax.evaluation.comparison.results import CurvePoint
from gplan_jax.evaluation.report.page_tables import figure
from gplan_jax.evaluation.report.row_scores import Confusion, Slice

NO_SPAN = 1e-4  # of the larger value, or of 1

# Forest plots.
FOREST_WIDTH, MARGIN, FOREST_TOP, PITCH, GAP = 360.0, 8.0, 8.0, 33.0, 14.0
RUNS = ("run0", "run1", "run2")
SHIFT = 9.0  # of a second run's line below the first
# Heat maps.
DARK_FROM = 0.75  # from this strength on, text in a cell is light
HOUR, HOUR_ROW, HOUR_LEFT, BARS = 25.0, 20.0, 210.0, 44.0
CELL, CELL_ROW, CELL_LEFT, CELL_TOP = 62.0, 36.0, 218.0, 100.0
# Learning curves.
CURVE_WIDTH, CURVE_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300.0, 180.0, 38.0, 8.0, 8.0, 34.0


def element(tag: str, *content: str | Markup, **attributes: str | float) -> Markup:
    """An element with escaped attributes; plain text in ``content`` is escaped, markup is not.

    ``class_`` stands for class, underscores for hyphens; numbers get two decimals at most.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), value if isinstance(value, str) else short(value)
        )
        for key, value in attributes.items()
    )
    inside = Markup("").join(escape(part) for part in content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), given, inside)


def short(value: float) -> str:
    """A number with two decimals at most: 12, 0.5, 3.25."""
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def drawing(
    name: str, title: str, description: str, width: float, height: float, *parts: Markup
) -> Markup:
    """A whole drawing; ``name`` is an id of its own on the page, screen readers read the title."""
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


def clipped(words: str, most: int) -> str:
    """Words cut to ``most`` columns, a Chinese character counting two."""
    room = most
    for i, character in enumerate(words):
        room -= 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if room < 0:
            return f"{words[: i - 1].rstrip()}…"
    return words


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` onto positions from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
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


@dataclass(frozen=True)
class ForestMark:
    """A point with its interval."""

    mean: float
    low: float
    high: float
    kind: str  # Class of its colour and shape: trained, floor, added, or run0, run1, ... of runs.
    spread: tuple[float, float] | None = None  # interval over seeds
    hollow: bool = False  # an outline: nothing is shown


@dataclass(frozen=True)
class ForestLine:
    """An arm's line; ``apart`` leaves a gap above, between groups."""

    label: str
    marks: Sequence[ForestMark]
    apart: bool = False


def forest(
    name: str,
    title: str,
    description: str,
    lines: Sequence[ForestLine],
    measure: str,
    *,
    reference: float | None = None,
    signed: bool = False,
) -> Markup:
    """Draws the lines over one scale, with a dashed line at the reference's value.

    ``measure`` is how figures are written; ``signed`` ones are differences.
    """
    # Of two seeds the spread can be many times as wide as anything else: it is cut to the scale.
    values = [value for line in lines for m in line.marks for value in (m.low, m.mean, m.high)]
    values += [reference] if reference is not None else []
    scale = padded(values, MARGIN, FOREST_WIDTH - MARGIN)

    rows: list[Markup] = []
    y = FOREST_TOP
    for one in lines:
        y += GAP if one.apart else 0
        parts = [text(MARGIN, y + 11, clipped(one.label, 38), "label halo")]
        if len(one.marks) == 1 and one.marks[0].kind not in RUNS:
            value = figure(measure, one.marks[0].mean, signed=signed)
            parts.append(text(FOREST_WIDTH - MARGIN, y + 11, value, "value halo", "end"))
        parts += [
            _mark(mark, y + 20 + SHIFT * i, scale, measure, signed)
            for i, mark in enumerate(one.marks)
        ]
        rows.append(element("g", *parts))
        y += PITCH + SHIFT * (len(one.marks) - 1)

    bottom = y + 2
    ticks = scale.ticks()
    frame = [line(scale(t), FOREST_TOP, scale(t), bottom, "grid") for t in ticks]
    for tick in ticks:
        words = f"{100 * tick if measure == 'acc1' else tick:g}".replace("-", "−")
        frame.append(text(scale(tick), bottom + 13, words, "tick", "middle"))
    if reference is not None:
        x = scale(reference)
        frame.append(line(x, FOREST_TOP, x, bottom, "reference"))
    return drawing(name, title, description, FOREST_WIDTH, bottom + 18, *frame, *rows)


def _mark(mark: ForestMark, y: float, scale: Scale, measure: str, signed: bool) -> Markup:
    low, high, middle = scale(mark.low), scale(mark.high), scale(mark.mean)
    ends = " to ".join(figure(measure, v, signed=signed) for v in (mark.low, mark.high))
    parts = [
        element("title", f"{figure(measure, mark.mean, signed=signed)}, 95% {ends}"),
        line(low, y, high, y, "interval"),
        *(line(x, y - 3, x, y + 3, "interval") for x in (low, high)),
    ]
    if mark.spread is not None:
        start, end = (min(max(scale(v), 0), FOREST_WIDTH) for v in mark.spread)
        width = max(end - start, 1)
        parts.append(
            element("rect", x=start, y=y - 3, width=width, height=6, class_="spread", rx=2)
        )
    kind = "point hollow" if mark.hollow else "point"
    if mark.kind in ("floor", "run1"):
        square = {"x": middle - 3.5, "y": y - 3.5, "width": 7.0, "height": 7.0}
        parts.append(element("rect", **square, class_=kind))
    elif mark.kind in ("added", "run2"):
        corners = f"{middle:.1f},{y - 5:.1f} {middle + 5:.1f},{y:.1f} "
        corners += f"{middle:.1f},{y + 5:.1f} {middle - 5:.1f},{y:.1f}"
        parts.append(element("polygon", points=corners, class_=kind))
    else:
        parts.append(element("circle", cx=middle, cy=y, r=4, class_=kind))
    return element("g", *parts, class_=mark.kind)


def hour_map(name: str, arms: Sequence[tuple[str, str]], hours: Sequence[Slice]) -> Markup:
    """Acc@1 in per cent by arm and hour, pale where rows are few; above it the hours' rows."""
    most = max(slice.count for slice in hours) or 1
    top = BARS + 18
    parts = [text(HOUR_LEFT - 8, BARS, "rows", "tick", "end")]
    for i, hour in enumerate(hours):
        x = HOUR_LEFT + HOUR * i
        height = (BARS - 14) * hour.count / most
        bar = {"x": x + 3, "y": BARS - height, "width": HOUR - 6, "height": height}
        parts += [
            element("rect", **bar, class_="bar"),
            text(x + HOUR / 2, BARS - height - 3, str(hour.count), "tick", "middle"),
            text(x + HOUR / 2, BARS + 13, hour.label.own, "tick", "middle"),
        ]
    for row, (arm, title) in enumerate(arms):
        y = top + HOUR_ROW * row
        parts.append(text(HOUR_LEFT - 8, y + 14, clipped(title, 32), "label", "end"))
        for i, hour in enumerate(hours):
            if cell := hour.cells.get(arm):
                note = (
                    f"{title}, {hour.label.own} h: {100 * cell.mean:.0f}%, 95% "
                    f"{100 * cell.low:.0f} to {100 * cell.high:.0f}, {hour.count} rows"
                )
                box = (HOUR_LEFT + HOUR * i, y, HOUR, HOUR_ROW)
                words = [f"{100 * cell.mean:.0f}"]
                parts.append(_cell(box, cell.mean, words, note, pale=hour.few))
    description = "One line an arm, one column an hour; the figures are per cent. Bars above count "
    width, height = HOUR_LEFT + HOUR * 24 + 4, top + HOUR_ROW * len(arms) + 4
    return drawing(name, "Acc@1 by hour", f"{description}rows.", width, height, *parts)


def confusion_map(name: str, title: str, confusion: Confusion, seeds: int) -> Markup:
    """Shares of a wanted first intent's answers, row by row, and the mean count of rows below."""
    counts, labels = confusion.counts, confusion.labels
    shown = [i for i, count in enumerate(confusion.rows_wanted) if count]
    columns = [c for c in range(counts.shape[1]) if c in shown or counts[:, c].any()]
    parts = [text(CELL_LEFT - 8, CELL_TOP - 8, "wanted ↓  answered →", "tick", "end")]
    for place, column in enumerate(columns):
        head = labels[column].short if column < len(labels) else "no plan"
        x, y = CELL_LEFT + CELL * place + CELL / 2 - 4, CELL_TOP - 6
        turned = text(0, 0, clipped(head, 27), "label")
        parts.append(element("g", turned, transform=f"translate({x:.0f} {y:.0f}) rotate(-32)"))
    for place, row in enumerate(shown):
        y = CELL_TOP + CELL_ROW * place
        label, below = labels[row], f"{confusion.rows_wanted[row]} rows"
        if label.english:
            below = f"{clipped(label.own, 26)} · {below}"
        parts.append(text(CELL_LEFT - 8, y + 15, clipped(label.short, 34), "label", "end"))
        parts.append(text(CELL_LEFT - 8, y + 29, below, "tick", "end"))
        total = int(counts[row].sum())
        for at, column in enumerate(columns):
            box = (CELL_LEFT + CELL * at, y, CELL, CELL_ROW)
            count = int(counts[row, column])
            share, mean = count / total, count / seeds
            words = [f"{100 * share:.0f}%", f"{mean:.0f}" if mean >= 1 else "<1"] if count else []
            note = f"{count} of {total} answers"
            parts.append(_cell(box, share, words, note, right=column == row))
    return drawing(
        name,
        f"First intents of {title}",
        "One line a wanted first intent, one column an answered one; shares of the line.",
        CELL_LEFT + CELL * len(columns) + 100,
        CELL_TOP + CELL_ROW * len(shown) + 4,
        *parts,
    )


def _cell(
    box: tuple[float, float, float, float],
    value: float,
    words: Sequence[str],
    note: str,
    *,
    pale: bool = False,
    right: bool = False,
) -> Markup:
    """A cell whose strength of colour is its value, with one or two lines of words, or empty."""
    x, y, width, height = box
    strength = (0.06 + 0.94 * value) * (0.4 if pale else 1) if words else 0.02
    rect = element(
        "rect",
        x=x + 0.5,
        y=y + 0.5,
        width=width - 1,
        height=height - 1,
        class_="fill right" if right else "fill",
        fill_opacity=strength,
    )
    if not words:
        return rect
    kind = "cell strong" if strength >= DARK_FROM else "cell pale" if pale else "cell"
    middle = y + height / 2 + 4 - 5.5 * (len(words) - 1)
    return element(
        "g",
        element("title", note),
        rect,
        text(x + width / 2, middle, words[0], "value", "middle"),
        *(text(x + width / 2, middle + 13, word, "count", "middle") for word in words[1:]),
        class_=kind,
    )


LossCurve = list[tuple[int, float]]  # (epoch, loss), by epoch


def fits_of(
    points: Sequence[CurvePoint], key: Literal["loss", "validation_loss"]
) -> list[LossCurve]:
    """One list a fold and seed; losses that aren't finite are left out."""
    fits: dict[tuple[int, int], LossCurve] = defaultdict(list)
    for point in points:
        value = getattr(point, key)
        if value is not None and math.isfinite(value):
            fits[point.fold, point.seed].append((point.epoch, value))
    return [sorted(fit) for _, fit in sorted(fits.items())]


def mean_curve(fits: Sequence[LossCurve]) -> LossCurve:
    """Mean loss by epoch while at least half of the fits go on: the others still got better."""
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for fit in fits:
        for epoch, value in fit:
            by_epoch[epoch].append(value)
    return [
        (epoch, sum(values) / len(values))
        for epoch, values in sorted(by_epoch.items())
        if 2 * len(values) >= len(fits)
    ]


def learning_curves(name: str, title: str, points: Sequence[CurvePoint]) -> Markup | None:
    """Losses by epoch, training and validation: fits thin, their mean thick, a dot at each best."""
    drawn = {"train": fits_of(points, "loss"), "validation": fits_of(points, "validation_loss")}
    everything = [point for fits in drawn.values() for fit in fits for point in fit]
    if not everything:
        return None
    first, last = (end(epoch for epoch, _ in everything) for end in (min, max))
    right, bottom = CURVE_WIDTH - RIGHT, CURVE_HEIGHT - BOTTOM
    x = Scale(first, max(last, first + 1), LEFT, right)
    y = padded([value for _, value in everything], bottom, TOP)
    epochs = [tick for tick in x.ticks(6) if tick == int(tick)]
    parts = [
        *(line(LEFT, y(t), right, y(t), "grid") for t in y.ticks(5)),
        *(text(LEFT - 5, y(t) + 4, f"{t:g}", "tick", "end") for t in y.ticks(5)),
        *(text(x(t), bottom + 14, f"{t:g}", "tick", "middle") for t in epochs),
        text((LEFT + right) / 2, CURVE_HEIGHT - 6, "epoch", "tick", "middle"),
    ]

    def path(fit: LossCurve, kind: str) -> Markup:
        steps = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in fit)
        return element("polyline", points=steps, class_=kind)

    means = {kind: mean_curve(fits) for kind, fits in drawn.items()}
    parts += [path(fit, f"{kind} thin") for kind, fits in drawn.items() for fit in fits]
    parts += [path(mean, f"{kind} thick") for kind, mean in means.items()]
    for fit in drawn["validation"]:
        epoch, value = min(fit, key=lambda point: point[1])
        parts.append(element("circle", cx=x(epoch), cy=y(value), r=2, class_="best"))
    ends = {
        kind: f"from {mean[0][1]:.2f} to {mean[-1][1]:.2f}" if mean else "not logged"
        for kind, mean in means.items()
    }
    description = (
        f"{len(drawn['train'])} fits over {last - first + 1} epochs; validation loss of the mean "
        f"curve {ends['validation']}, training loss {ends['train']}."
    )
    curves = f"Learning curves of {title}"
    return drawing(name, curves, description, CURVE_WIDTH, CURVE_HEIGHT, *parts)
