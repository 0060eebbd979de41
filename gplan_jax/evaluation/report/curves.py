"""Learning curves of one arm: each fit thin, their mean thick, a dot at each fit's best epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

from gplan_jax.evaluation.report import svg
from gplan_jax.evaluation.report.results import CurvePoint

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300.0, 180.0, 38.0, 8.0, 8.0, 34.0
Losses = Literal["loss", "validation_loss"]


def fits_of(points: Sequence[CurvePoint], key: Losses) -> list[list[tuple[int, float]]]:
    """One list of (epoch, loss) a fold and seed, by epoch; losses that aren't finite left out."""
    fits: dict[tuple[int, int], list[tuple[int, float]]] = defaultdict(list)
    for point in points:
        value = getattr(point, key)
        if value is not None and math.isfinite(value):
            fits[point.fold, point.seed].append((point.epoch, value))
    return [sorted(fit) for _, fit in sorted(fits.items())]


def mean_curve(fits: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean loss by epoch, as far as at least half of the fits go.

    Later epochs are only of the fits that still got better, so their mean would mislead.
    """
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
    """Draws training and validation loss by epoch; None where no loss is logged."""
    drawn: dict[str, list[list[tuple[int, float]]]] = {
        "train": fits_of(points, "loss"),
        "validation": fits_of(points, "validation_loss"),
    }
    everything = [point for fits in drawn.values() for fit in fits for point in fit]
    if not everything:
        return None
    first, last = (end(epoch for epoch, _ in everything) for end in (min, max))
    x = svg.Scale(first, max(last, first + 1), LEFT, WIDTH - RIGHT)
    y = svg.padded([value for _, value in everything], HEIGHT - BOTTOM, TOP)
    parts = [
        *(svg.line(LEFT, y(t), WIDTH - RIGHT, y(t), "grid") for t in y.ticks(5)),
        *(svg.text(LEFT - 5, y(t) + 4, f"{t:g}", "tick", "end") for t in y.ticks(5)),
        *(
            svg.text(x(t), HEIGHT - BOTTOM + 14, f"{t:g}", "tick", "middle")
            for t in x.ticks(6)
            if t == int(t)
        ),
        svg.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "epoch", "tick", "middle"),
    ]
    for kind, fits in drawn.items():
        parts += [svg.path([(x(e), y(v)) for e, v in fit], f"{kind} thin") for fit in fits]
    for kind, fits in drawn.items():
        parts.append(svg.path([(x(e), y(v)) for e, v in mean_curve(fits)], f"{kind} thick"))
    for fit in drawn["validation"]:
        epoch, value = min(fit, key=lambda point: point[1])
        parts.append(svg.element("circle", cx=x(epoch), cy=y(value), r=2, class_="best"))
    description = (
        f"{len(drawn['train'])} fits over {last - first + 1} epochs; validation loss of the mean "
        f"curve {_ends(drawn['validation'])}, training loss {_ends(drawn['train'])}."
    )
    return svg.drawing(name, f"Learning curves of {title}", description, WIDTH, HEIGHT, *parts)


def _ends(fits: Sequence[Sequence[tuple[int, float]]]) -> str:
    curve = mean_curve(fits)
    return f"from {curve[0][1]:.2f} to {curve[-1][1]:.2f}" if curve else "not logged"
