"""Draws the figure of the pipeline that the README shows, from nothing but shapes and text.

    python scripts/draw_pipeline.py [docs/pipeline.svg]

Four lanes, read as a snake: rows become traces (left to right), traces become latent tokens and
train the planner (right to left), pairs of contexts refine it (left to right), it answers and is
measured (right to left). One unit is one pixel of a picture 1000 wide; y grows downwards.
"""

from __future__ import annotations

import sys
from math import cos, pi
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gplan_jax.evaluation.scores.learning_curves import load_pyplot
from gplan_jax.foundation.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 1000, 832
LEFT, MIDDLE, RIGHT = (36, 264), (362, 232), (656, 308)  # left edge and width of a column of cards
INK, QUIET, LINE, BAND = "#1F2933", "#52606D", "#9AA5B1", "#DFF0E8"
PAPER, LANE = "#FFFFFF", "#F3F5F7"
# Okabe and Ito's colours, told apart by readers of any colour vision; text is the light one.
LATENT, TEXT, PLAN, ACCENT = "#0072B2", "#DCE3EA", "#E69F00", "#D55E00"
TITLE, BODY, SMALL = 10.0, 8.6, 7.8  # points; 100 dots an inch make 8.6 points 12 pixels
LINE_PITCH = 18.5


def draw_pipeline(path: str | Path) -> Path:
    """Draws the pipeline into ``path``; its suffix (.svg, .png, .pdf) names the format.

    The same version of matplotlib writes the same bytes each time, so a diff of the committed
    drawing shows a real change.

    Raises:
        GplanError: matplotlib is not installed.
    """
    pyplot, path = load_pyplot(), Path(path)
    settings: dict[str, Any] = {
        "font.family": "DejaVu Sans",
        "svg.fonttype": "path",
        "svg.hashsalt": "gplan",
    }
    with pyplot.rc_context(settings):
        figure = pyplot.figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(HEIGHT, 0)
        axes.axis("off")
        _data_lane(axes, top=16)
        _training_lane(axes, top=182)
        _preference_lane(axes, top=468)
        _planning_lane(axes, top=674)
        _arrow(axes, (810, 142), (810, 222))
        _arrow(axes, (240, 428), (240, 508))
        _arrow(axes, (810, 632), (810, 714))
        metadata = {"Date": None, "Title": "The GPlan pipeline"} if path.suffix == ".svg" else None
        with atomic_write(path) as temporary:
            figure.savefig(temporary, metadata=metadata, dpi=200)
        pyplot.close(figure)
    return path


def _data_lane(axes: Axes, *, top: float) -> None:
    _lane(axes, top, 142, "1  Data", "every row gets a reason for its plan")
    top += 40
    _card(axes, LEFT, top, 86, "Context rows")
    _text(axes, 50, top + 48, "user, history, time and place,\ntrigger event → plan of tool calls")
    _card(axes, MIDDLE, top, 86, "Explain")
    _text(axes, 376, top + 48, "rules over the fields,\nor a teacher model")
    _card(axes, RIGHT, top, 86, "Structured trace + plan")
    _sequence(axes, 670, top + 46, latent=0)
    _text(axes, 670, top + 73, "context, strategy, one step an intent, JSON", size=SMALL)
    _arrow(axes, (300, top + 43), (362, top + 43))
    _arrow(axes, (594, top + 43), (656, top + 43))


def _training_lane(axes: Axes, *, top: float) -> None:
    _lane(axes, top, 262, "2  Training", "PICD: progressive implicit chain-of-thought distillation")
    top += 40
    _card(axes, LEFT, top, 206, "Planner weights")
    _text(axes, 50, top + 48, "a Qwen3 checkpoint, converted\nto Flax NNX, then trained")
    _layers(axes, 50, top + 92)
    _card(axes, MIDDLE, top, 206, "PICD training")
    _text(axes, 376, top + 48, "section-normalized loss:\nreasoning and plan count 1 : 1")
    _rate_curve(axes, 376, top + 92)
    _card(axes, RIGHT, top, 206, "Curriculum")
    for name, latent, y in (("0", 0, 48), ("1", 1, 75), ("2", 2, 102), ("B", 5, 150)):
        _text(axes, 670, top + y + 4, f"epoch {name}", size=SMALL)
        _sequence(axes, 728, top + y, latent=latent, scale=0.83)
    for dot in range(3):  # the epochs between, which are not drawn
        _box(axes, 742, top + 120 + 6 * dot, 2.4, 2.4, QUIET, radius=1.2)
    _legend(axes, 670, top + 185)
    _arrow(axes, (656, top + 103), (594, top + 103))
    _arrow(axes, (362, top + 103), (300, top + 103))


def _preference_lane(axes: Axes, *, top: float) -> None:
    _lane(axes, top, 180, "3  Preferences", "SC-DPO: another time or place, another plan")
    top += 40
    _card(axes, LEFT, top, 124, "Pairs of contexts")
    _text(axes, 50, top + 48, "one user at two times or places,\neach with its own plan")
    for row, (first, second) in enumerate((("x", "x'"), ("x'", "x"))):
        y = top + 84 + 21 * row
        _text(axes, 50, y + 4, f"in {first}", size=SMALL)
        _box(axes, 92, y - 8, 76, 16, PLAN, radius=3)
        _text(axes, 130, y + 4, f"plan of {first}", size=SMALL, align="center", color=INK)
        _text(axes, 178, y + 4, "before", size=SMALL)
        _box(axes, 224, y - 8, 66, 16, TEXT, radius=3)
        _text(axes, 257, y + 4, f"plan of {second}", size=SMALL, align="center")
    _card(axes, MIDDLE, top, 124, "SC-DPO training")
    _text(
        axes,
        376,
        top + 48,
        "a tree of what the four\nsequences of a pair share;\nreference computed once",
    )
    _card(axes, RIGHT, top, 124, "Bounded margin")
    _margin_curves(axes, 670, top + 40)
    _arrow(axes, (300, top + 62), (362, top + 62))
    _arrow(axes, (594, top + 62), (656, top + 62))


def _planning_lane(axes: Axes, *, top: float) -> None:
    _lane(axes, top, 142, "4  Planning", "one short answer a request")
    top += 40
    _card(axes, RIGHT, top, 86, "Planner")
    _text(axes, 670, top + 48, "context → greedy decoding\nwith a key-value cache")
    _card(axes, MIDDLE, top, 86, "Latent prefix + plan")
    _sequence(axes, 376, top + 46, latent=5, scale=0.767)
    _text(axes, 376, top + 73, "3 tokens a block, then JSON", size=SMALL)
    _card(axes, LEFT, top, 86, "Rule filter and metrics")
    _text(axes, 50, top + 48, "format, schema, logic; Acc@1,\nNDCG@3, NES beside the floors")
    _arrow(axes, (656, top + 43), (594, top + 43))
    _arrow(axes, (362, top + 43), (300, top + 43))


def _sequence(axes: Axes, x: float, y: float, *, latent: int, scale: float = 1.0) -> None:
    """A response, centred on ``y``: five reasoning blocks, the first ``latent`` of them latent."""
    for block, label in enumerate(("C", "S", "T1", "…", "Tn")):
        left = x + 40 * scale * block
        if block < latent:
            for token in range(3):
                _box(axes, left + 12 * scale * token, y - 9, 10 * scale, 18, LATENT, radius=2)
        else:
            _box(axes, left, y - 9, 34 * scale, 18, TEXT, radius=3)
            _text(axes, left + 17 * scale, y + 4, label, size=SMALL, align="center")
    left = x + 206 * scale
    _box(axes, left, y - 9, 60 * scale, 18, PLAN, radius=3)
    _text(axes, left + 30 * scale, y + 4, "plan", size=SMALL, align="center", color=INK)


def _legend(axes: Axes, x: float, y: float) -> None:
    _box(axes, x, y - 6, 24, 12, TEXT, radius=2)
    _text(axes, x + 31, y + 4, "text block", size=SMALL)
    for token in range(3):
        _box(axes, x + 116 + 8.5 * token, y - 6, 7, 12, LATENT, radius=2)
    _text(axes, x + 147, y + 4, "latent block, 3 tokens", size=SMALL)


def _rate_curve(axes: Axes, x: float, y: float) -> None:
    """CALR: the structure rate while blocks turn latent, then a cosine from the polish rate."""
    width, height, change = 204, 76, 0.66
    base, high, polish = y + height, y + 8, y + 44
    axes.plot([x, x, x + width], [y, base, base], color=LINE, lw=1)
    fall = [index / 24 for index in range(25)]
    xs = [x, x + width * change, *(x + width * (change + (1 - change) * part) for part in fall)]
    ys = [high, high, *(base - (base - polish) * (1 + cos(pi * part)) / 2 for part in fall)]
    axes.plot(xs, ys, color=ACCENT, lw=2, solid_joinstyle="round", solid_capstyle="butt")
    _text(axes, x + 8, y + 30, "structure rate", size=SMALL)
    _text(axes, x + width * change + 8, y + 36, "polish", size=SMALL)
    _text(axes, x, base + 21, "compression-aware learning rate", size=SMALL)


def _margin_curves(axes: Axes, x: float, y: float) -> None:
    """The margin over the steps: SC-DPO settles in its band, vanilla DPO goes on."""
    width, height, settled = 150, 62, 0.36
    base = y + height
    _box(axes, x, base - 30, width, 15, BAND, radius=0)
    axes.plot([x, x, x + width], [y, base, base], color=LINE, lw=1)
    parts = [index / 24 for index in range(25)]
    xs = [x + width * part for part in parts]
    bounded = [base - 62 * settled * (1 - cos(pi * min(part / 0.5, 1))) / 2 for part in parts]
    axes.plot(xs, [base - 58 * part for part in parts], color=LINE, lw=2, ls=(0, (3, 2)))
    axes.plot(xs, bounded, color=ACCENT, lw=2, solid_capstyle="butt")
    _text(axes, x + width + 8, y + 9, "vanilla DPO", size=SMALL)
    _text(axes, x + width + 8, base - 18, "SC-DPO", size=SMALL, color=ACCENT)
    _text(axes, x + width + 8, base + 2, "training steps", size=SMALL)


def _layers(axes: Axes, x: float, y: float) -> None:
    """The embedding with its new rows under a stack of layers."""
    for layer in range(3):
        _box(axes, x, y + 18 * layer, 148, 13, TEXT, radius=3)
    _text(axes, x + 160, y + 28, "layers", size=SMALL)
    _box(axes, x, y + 62, 116, 13, TEXT, radius=3)
    _box(axes, x + 120, y + 62, 28, 13, LATENT, radius=3)
    _text(axes, x + 160, y + 73, "embedding", size=SMALL)
    _text(axes, x, y + 97, "33 latent tokens take spare rows", size=SMALL)


def _lane(axes: Axes, top: float, height: float, title: str, subtitle: str) -> None:
    _box(axes, 16, top, WIDTH - 32, height, LANE, radius=10)
    axes.text(36, top + 27, title, size=TITLE + 1, weight="bold", color=INK)
    _text(axes, MIDDLE[0], top + 27, subtitle)


def _card(axes: Axes, column: tuple[float, float], y: float, height: float, title: str) -> None:
    x, width = column
    _box(axes, x, y, width, height, PAPER, radius=8, edge="#CBD2D9")
    axes.text(x + 14, y + 25, title, size=TITLE, weight="bold", color=INK)


def _text(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = BODY,
    align: str = "left",
    color: str = QUIET,
) -> None:
    """Text whose first line stands on ``y`` (matplotlib would put the last one there)."""
    for line in text.split("\n"):
        axes.text(x, y, line, size=size, color=color, ha=align, va="baseline")
        y += LINE_PITCH


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    *,
    radius: float,
    edge: str = "none",
) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={radius}"
    patch = FancyBboxPatch((x, y), width, height, boxstyle=style, fc=fill, ec=edge, lw=1)
    axes.add_patch(patch)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    from matplotlib.patches import FancyArrowPatch

    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=13, color=QUIET, lw=1.6, shrinkA=3, shrinkB=3
    )
    axes.add_patch(arrow)


if __name__ == "__main__":
    print(draw_pipeline(sys.argv[1] if len(sys.argv) > 1 else "docs/pipeline.svg"))
