"""Curves of training logs: losses of several runs, and how preference runs move two responses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gplan_jax.foundation.errors import GplanError, load_extra
from gplan_jax.foundation.files import atomic_write
from gplan_jax.training.loop.metrics_log import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colours and distinct dashes: runs stay apart in print and for any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
RAW_POINTS_TO_SMOOTH = 60
STYLE: dict[str, Any] = {"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"}

Series = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Panel:
    """One chart: a noisy series gets a running mean, a loss over magnitudes a log scale."""

    key: str
    title: str
    noisy: bool = False
    stepped: bool = False
    log_scale: bool = False


PANELS = (
    Panel("loss", "Training loss", noisy=True, log_scale=True),
    Panel("loss_plan", "Loss on the plan section", noisy=True, log_scale=True),
    Panel("loss_reasoning", "Loss on the reasoning section", noisy=True, log_scale=True),
    Panel("stage", "Compression stage (latent blocks)", stepped=True),
    Panel("learning_rate", "Learning rate"),
    Panel("tokens_per_second", "Tokens per second", noisy=True),
)
LEARNING_KEYS = tuple(panel.key for panel in PANELS)


def load_pyplot() -> Any:
    """Imports matplotlib.pyplot (the extra ``plots``) on a backend that needs no display."""
    load_extra("matplotlib", "plots", "drawing").use("Agg")
    from matplotlib import pyplot

    return pyplot


def read_series(log: str | Path, keys: Iterable[str] = LEARNING_KEYS) -> Series:
    """``{key: (steps, values)}`` of a training log, ordered by step; keys without records left out.

    Records of one step (training, evaluation) add up.
    """
    try:
        records = read_log(log)
    except FileNotFoundError:
        raise GplanError(f"{log} does not exist; a run writes it as RUN/log.jsonl.") from None
    except json.JSONDecodeError as error:
        raise GplanError(f"{log} is not a training log, one JSON object a line: {error}.") from None
    values_of_step: dict[int, dict[str, float]] = {}
    for record in records:
        if "step" in record:
            values_of_step.setdefault(record["step"], {}).update(record)
    if not values_of_step:
        raise GplanError(f"{log} has no record with a step; name the log.jsonl of a training run.")
    series = {}
    for key in keys:
        points = [(s, v[key]) for s, v in sorted(values_of_step.items()) if key in v]
        if points:
            steps, values = np.asarray(points, dtype=np.float64).T
            series[key] = (steps, values)
    return series


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a centred window of ``window`` values, cut short at both ends: [N] -> [N].

    ``y_i = mean(x_j for |i - j| <= window // 2)``; values that are not finite are left out.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    centre = np.arange(len(values))
    low = np.maximum(centre - window // 2, 0)
    high = np.minimum(centre + window // 2 + 1, len(values))
    count = counts[high] - counts[low]
    mean = (sums[high] - sums[low]) / np.maximum(count, 1)
    return np.where(count > 0, mean, math.nan)


def draw_learning_curves(logs: Mapping[str, str | Path], out: str | Path) -> Path:
    """Draws loss by section, stage, learning rate and speed over steps; ``logs`` by run name."""
    if not logs:
        raise GplanError("No training log given; name at least one run.")
    runs = {name: read_series(log) for name, log in logs.items()}
    pyplot, out = load_pyplot(), Path(out)
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
        for panel, axes in zip(PANELS, grid.flat, strict=True):
            if not draw_runs(axes, panel, runs) or panel.log_scale:
                continue
            # From just under zero: a small change looks small, a line at zero is not cut in half,
            # and a stage that never moves still has a scale.
            top = max(axes.get_ylim()[1], 1.0 if panel.stepped else 0.0)
            axes.set_ylim(bottom=-0.015 * top, top=top)
            axes.locator_params(axis="y", integer=panel.stepped)
        finish_figure(figure, runs, out)
    return out


def finish_figure(figure: Figure, names: Iterable[str], out: Path) -> None:
    """Puts the legend of the runs above all panels, writes the picture whole and closes it."""
    pyplot = load_pyplot()
    handles = [
        pyplot.Line2D([], [], color=_colour(index), ls=_dash(index), lw=2, label=name)
        for index, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def draw_runs(axes: Axes, panel: Panel, runs: Mapping[str, Series]) -> bool:
    """One panel with each run's curve; False, and a note in it, where no run logs the key."""
    axes.set_title(panel.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E4E7EB", lw=0.8)
    axes.set_axisbelow(True)
    present = False
    for index, series in enumerate(runs.values()):
        if panel.key not in series:
            continue
        present = True
        steps, values = series[panel.key]
        style: dict[str, Any] = {"color": _colour(index)}
        if panel.stepped:
            style["drawstyle"] = "steps-post"
        if panel.noisy and len(values) >= RAW_POINTS_TO_SMOOTH:
            axes.plot(steps, values, lw=0.7, alpha=0.25, **style)
            values = running_mean(values, window=len(values) // 30)
        axes.plot(steps, values, lw=1.8, ls=_dash(index), **style)
    if present:
        axes.set_xlabel("step")
        axes.set_xlim(left=0)
        axes.set_yscale("log" if panel.log_scale else "linear")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set(xticks=[], yticks=[])
        note = f"no run logs {panel.key}"
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", color="#7B8794")
    return present


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _dash(index: int) -> str:
    return DASHES[index % len(DASHES)]


# How preference runs move the two responses of a pair.
MARGIN = "rewards/margins"
BAND_COLOUR, LINE_COLOUR = "#DFF0E8", "#7B8794"
SPREAD_FOR_TWO_SCALES = 10.0


# Key, title and scale: a reward shift with a line at 0, a share in [0, 1], or neither.
PREFERENCE_PANELS = (
    ("rewards/chosen", "Reward shift of the matched plan", "shift"),
    ("rewards/rejected", "Reward shift of the other context's plan", "shift"),
    (MARGIN, "Margin between them", "shift"),
    ("center", "Center (mean of the two shifts)", "shift"),
    ("logps/chosen", "Log-probability, matched plan", ""),
    ("logps/rejected", "Log-probability, other's plan", ""),
    ("gap/below", "Share of margins below the band", "share"),
    ("gap/inside", "Share of margins inside the band", "share"),
    ("gap/above", "Share of margins above the band", "share"),
)


def read_preference_logs(logs: Mapping[str, str | Path]) -> dict[str, Series]:
    """The curves of each run; GplanError where a log is not of a preference run."""
    if not logs:
        raise GplanError("No training log given; name at least one run.")
    runs = {
        name: read_series(log, [key for key, *_ in PREFERENCE_PANELS]) for name, log in logs.items()
    }
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
    keys = [key for key, _, scale in PREFERENCE_PANELS if scale == "shift"]
    values = np.concatenate([one[key][1] for one in runs.values() for key in keys if key in one])
    unit = 2 * max(map(abs, band))
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    pyplot, out = load_pyplot(), Path(out)
    with pyplot.rc_context(STYLE):
        figure, grid = pyplot.subplots(3, 3, figsize=(12, 9.2), layout="constrained")
        for (key, title, scale), axes in zip(PREFERENCE_PANELS, grid.flat, strict=True):
            if not draw_runs(axes, Panel(key, title, noisy=True), runs):
                continue
            if scale == "share":
                axes.set_ylim(-0.02, 1.02)
            if scale == "shift":
                axes.axhline(0, color=LINE_COLOUR, lw=0.9, zorder=1)
            if key == MARGIN:
                axes.axhspan(*band, color=BAND_COLOUR, zorder=0, lw=0)
            if scale == "shift" and unit > 0 and largest > SPREAD_FOR_TWO_SCALES * unit:
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
