"""Heat maps: Acc@1 by hour, and the confusion of first intents."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from gplan_jax.evaluation.report import svg
from gplan_jax.evaluation.report.confusion import Confusion
from gplan_jax.evaluation.report.slices import Slice

DARK_FROM = 0.75  # from this strength on, text in a cell is light
HOUR, HOUR_ROW, HOUR_LEFT, BARS = 25.0, 20.0, 210.0, 44.0
CELL, CELL_ROW, CELL_LEFT, CELL_TOP = 62.0, 36.0, 218.0, 100.0


def hour_map(name: str, arms: Sequence[tuple[str, str]], hours: Sequence[Slice]) -> Markup:
    """Acc@1 in per cent of each arm and hour, and above it how many rows the hour has.

    Args:
        arms: (arm, title) from top to bottom.
        hours: one slice an hour; those without cells stay empty, those of few rows are pale.
    """
    most = max(slice.count for slice in hours) or 1
    top = BARS + 18
    parts = [svg.text(HOUR_LEFT - 8, BARS, "rows", "tick", "end")]
    for i, hour in enumerate(hours):
        x = HOUR_LEFT + HOUR * i
        height = (BARS - 14) * hour.count / most
        parts += [
            svg.element(
                "rect", x=x + 3, y=BARS - height, width=HOUR - 6, height=height, class_="bar"
            ),
            svg.text(x + HOUR / 2, BARS - height - 3, str(hour.count), "tick", "middle"),
            svg.text(x + HOUR / 2, BARS + 13, hour.label.own, "tick", "middle"),
        ]
    for row, (arm, title) in enumerate(arms):
        y = top + HOUR_ROW * row
        parts.append(svg.text(HOUR_LEFT - 8, y + 14, svg.clipped(title, 32), "label", "end"))
        for i, hour in enumerate(hours):
            if arm in hour.cells:
                cell = hour.cells[arm]
                note = (
                    f"{title}, {hour.label.own} h: {100 * cell.mean:.0f}%, 95% "
                    f"{100 * cell.low:.0f} to {100 * cell.high:.0f}, {hour.count} rows"
                )
                value = f"{100 * cell.mean:.0f}"
                x = HOUR_LEFT + HOUR * i
                parts.append(_cell(x, y, HOUR, HOUR_ROW, cell.mean, [value], note, pale=hour.few))
    return svg.drawing(
        name,
        "Acc@1 by hour",
        "One line an arm, one column an hour; the figures are per cent. Bars above count rows.",
        HOUR_LEFT + HOUR * 24 + 4,
        top + HOUR_ROW * len(arms) + 4,
        *parts,
    )


def confusion_map(name: str, title: str, confusion: Confusion, seeds: int) -> Markup:
    """Shares of a wanted first intent's answers, row by row, and the mean count of rows below."""
    shown = [i for i, count in enumerate(confusion.rows_wanted) if count]
    columns = [
        c for c in range(confusion.counts.shape[1]) if c in shown or confusion.counts[:, c].any()
    ]
    heads = [*confusion.labels]
    parts = [svg.text(CELL_LEFT - 8, CELL_TOP - 8, "wanted ↓  answered →", "tick", "end")]
    for place, column in enumerate(columns):
        words = heads[column].short if column < len(heads) else "no plan"
        x, y = CELL_LEFT + CELL * place + CELL / 2 - 4, CELL_TOP - 6
        label = svg.text(0, 0, svg.clipped(words, 27), "label")
        parts.append(svg.element("g", label, transform=f"translate({x:.0f} {y:.0f}) rotate(-32)"))
    for place, row in enumerate(shown):
        y = CELL_TOP + CELL_ROW * place
        parts += _row_head(confusion, row, y)
        total = int(confusion.counts[row].sum())
        for at, column in enumerate(columns):
            count = int(confusion.counts[row, column])
            if not count:
                parts.append(_empty(CELL_LEFT + CELL * at, y, on=column == row))
                continue
            share, mean = count / total, count / seeds
            lines = [f"{100 * share:.0f}%", f"{mean:.0f}" if mean >= 1 else "<1"]
            note = f"{count} of {total} answers"
            on = column == row
            parts.append(_cell(CELL_LEFT + CELL * at, y, CELL, CELL_ROW, share, lines, note, on=on))
    return svg.drawing(
        name,
        f"First intents of {title}",
        "One line a wanted first intent, one column an answered one; shares of the line.",
        CELL_LEFT + CELL * len(columns) + 100,
        CELL_TOP + CELL_ROW * len(shown) + 4,
        *parts,
    )


def _row_head(confusion: Confusion, row: int, y: float) -> list[Markup]:
    label = confusion.labels[row]
    count = f"{confusion.rows_wanted[row]} rows"
    below = f"{svg.clipped(label.own, 26)} · {count}" if label.english else count
    return [
        svg.text(CELL_LEFT - 8, y + 15, svg.clipped(label.short, 34), "label", "end"),
        svg.text(CELL_LEFT - 8, y + 29, below, "tick", "end"),
    ]


def _cell(
    x: float,
    y: float,
    width: float,
    height: float,
    strength: float,
    words: Sequence[str],
    note: str,
    *,
    pale: bool = False,
    on: bool = False,
) -> Markup:
    """A cell whose strength of colour is its value, with one or two lines of words."""
    strength = 0.06 + 0.94 * strength
    if pale:
        strength *= 0.4
    kind = "cell strong" if strength >= DARK_FROM else "cell pale" if pale else "cell"
    middle = y + height / 2 + 4 - 5.5 * (len(words) - 1)
    return svg.element(
        "g",
        svg.element("title", note),
        svg.element(
            "rect",
            x=x + 0.5,
            y=y + 0.5,
            width=width - 1,
            height=height - 1,
            class_="fill right" if on else "fill",
            fill_opacity=strength,
        ),
        svg.text(x + width / 2, middle, words[0], "value", "middle"),
        *(svg.text(x + width / 2, middle + 13, word, "count", "middle") for word in words[1:]),
        class_=kind,
    )


def _empty(x: float, y: float, *, on: bool) -> Markup:
    kind = "fill right" if on else "fill"
    return svg.element(
        "rect",
        x=x + 0.5,
        y=y + 0.5,
        width=CELL - 1,
        height=CELL_ROW - 1,
        class_=kind,
        fill_opacity=0.02,
    )
