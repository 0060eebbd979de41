"""How preference runs move the two responses of a pair: one picture for several training logs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gplan_jax.evaluation.scores.learning_curves import (
    STYLE,
    Panel,
    Series,
    draw_runs,
    finish_figure,
    load_pyplot,
    read_series,
)
from gplan_jax.foundation.errors import GplanError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = "rewards/margins"
BAND_COLOUR, LINE_COLOUR = "#DFF0E8", "#7B8794"
SPREAD_FOR_TWO_SCALES = 10.0


@dataclass(frozen=True)
class PreferencePanel:
    """A panel and its scale: a reward shift with a line at 0, a share in [0, 1], or neither."""

    panel: Panel
    shift: bool = False
    share: bool = False


def _shift(key: str, title: str) -> PreferencePanel:
    return PreferencePanel(Panel(key, title, noisy=True), shift=True)


def _share(key: str, title: str) -> PreferencePanel:
    return PreferencePanel(Panel(key, title, noisy=True), share=True)


ROWS = (
    (
        _shift("rewards/chosen", "Reward shift of the matched plan"),
        _shift("rewards/rejected", "Reward shift of the other context's plan"),
        _shift(MARGIN, "Margin between them"),
    ),
    (
        _shift("center", "Center (mean of the two shifts)"),
        PreferencePanel(Panel("logps/chosen", "Log-probability, matched plan", noisy=True)),
        PreferencePanel(Panel("logps/rejected", "Log-probability, other's plan", noisy=True)),
    ),
    (
        _share("gap/below", "Share of margins below the band"),
        _share("gap/inside", "Share of margins inside the band"),
        _share("gap/above", "Share of margins above the band"),
    ),
)
PANELS = tuple(panel for row in ROWS for panel in row)


def read_preference_logs(logs: Mapping[str, str | Path]) -> dict[str, Series]:
    """The curves of each run; GplanError where a log is not of a preference run."""
    if not logs:
        raise GplanError("No training log given; name at least one run.")
    runs = {name: read_series(log, [p.panel.key for p in PANELS]) for name, log in logs.items()}
    for name, series in runs.items():
        if MARGIN not in series:
            raise GplanError(
                f"{logs[name]} (of {name}) is not the log of a preference run: no record has "
                f"{MARGIN}; name the log.jsonl of a run with mode: scdpo."
            )
    return runs


def draw_preference_curves(
    logs: Mapping[str, str | Path], out: str | Path, *, band: tuple[float, float] = (0.10, 0.20)
) -> Path:
    """Draws reward shifts, margin, center, log-probabilities and band shares over the steps.

    Where a run drifts far beyond ``band`` (gamma_l and gamma_h, shaded in the margin's panel), the
    shifts stand on a scale that is linear up to twice its upper end and logarithmic beyond, so that
    a run inside the band can still be read.
    """
    if band[0] > band[1]:
        raise GplanError(f"The band of the margin goes from low to high, not {band}.")
    runs = read_preference_logs(logs)
    # All reward shifts share one scale.
    keys = [panel.panel.key for panel in PANELS if panel.shift]
    values = np.concatenate([one[key][1] for one in runs.values() for key in keys if key in one])
    unit = 2 * max(map(abs, band))
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    pyplot, out = load_pyplot(), Path(out)
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(3, 3, figsize=(12, 9.2), layout="constrained")
        for panel, axes in zip(PANELS, grid.flat, strict=True):
            if not draw_runs(axes, panel.panel, runs):
                continue
            if panel.share:
                axes.set_ylim(-0.02, 1.02)
            if panel.shift:
                axes.axhline(0, color=LINE_COLOUR, lw=0.9, zorder=1)
            if panel.panel.key == MARGIN:
                axes.axhspan(*band, color=BAND_COLOUR, zorder=0, lw=0)
            if panel.shift and unit > 0 and largest > SPREAD_FOR_TWO_SCALES * unit:
                _two_scales(axes, unit)
        finish_figure(figure, runs, out)
    return out


def _two_scales(axes: Axes, linear_to: float) -> None:
    axes.set_yscale("symlog", linthresh=linear_to)
    axes.autoscale(axis="y")
    low, high = axes.get_ylim()
    decades = range(math.floor(math.log10(linear_to)), math.ceil(math.log10(max(high, -low))) + 1)
    beyond = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    positive = [linear_to / 4, linear_to / 2, *(tick for tick in beyond if tick > linear_to)]
    ticks = [*(-tick for tick in positive), 0.0, *positive]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(low, high)
    axes.set_xlabel(f"step   (vertical scale logarithmic beyond ±{linear_to:g})")
