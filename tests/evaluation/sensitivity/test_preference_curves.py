"""The picture of preference runs: what it shows, and logs that it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from gplan_jax.evaluation.scores.learning_curves import (
    BAND_COLOUR,
    PREFERENCE_PANELS,
    draw_preference_curves,
    read_preference_logs,
)
from gplan_jax.foundation.errors import GplanError
from gplan_jax.objectives.preference import preference_terms

FIRST, SECOND = (0, 114, 178), (213, 94, 0)
BAND = tuple(int(BAND_COLOUR[i : i + 2], 16) for i in (1, 3, 5))


def write_log(path: Path, *, margin: float = 0.15, steps: int = 40, **more: Any) -> Path:
    """A run whose margin grows evenly to ``margin`` while the center stands still."""
    lines = []
    for step in range(1, steps + 1):
        gap = margin * step / steps
        record = {
            "kind": "step",
            "step": step,
            "loss": 0.7,
            "rewards/chosen": gap / 2,
            "rewards/rejected": -gap / 2,
            "rewards/margins": gap,
            "center": 0.0,
            "logps/chosen": -12 + gap,
            "logps/rejected": -20 - gap,
            "gap/below": float(gap < 0.1),
            "gap/inside": float(0.1 <= gap <= 0.2),
            "gap/above": float(gap > 0.2),
            **more,
        }
        lines.append(json.dumps({k: v for k, v in record.items() if v is not None}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def pixels_of(picture: Path, colour: tuple[int, ...]) -> int:
    pixels = np.rint(image.imread(picture)[..., :3] * 255).astype(int)
    return int((np.abs(pixels - colour).max(axis=-1) <= 2).sum())


def test_every_panel_shows_a_metric_of_the_preference_losses() -> None:
    zero = np.zeros(1)
    logged = preference_terms("scdpo", zero, zero, zero, zero)
    assert {key for key, *_ in PREFERENCE_PANELS} <= logged.keys()


def test_two_runs_and_the_band_are_in_the_picture(tmp_path: Path) -> None:
    logs = {
        "scdpo": write_log(tmp_path / "a.jsonl"),
        "dpo": write_log(tmp_path / "b.jsonl", margin=0.6),
    }
    picture = draw_preference_curves(logs, tmp_path / "curves.png")
    assert picture == tmp_path / "curves.png"
    for colour in (FIRST, SECOND, BAND):
        assert pixels_of(picture, colour) > 1000
    alone = draw_preference_curves({"scdpo": logs["scdpo"]}, tmp_path / "one.png")
    assert pixels_of(alone, SECOND) == 0


def test_the_band_is_where_it_was_asked_for(tmp_path: Path) -> None:
    log = {"run": write_log(tmp_path / "a.jsonl", margin=1.0)}
    narrow = draw_preference_curves(log, tmp_path / "narrow.png", band=(0.4, 0.5))
    wide = draw_preference_curves(log, tmp_path / "wide.png", band=(0.1, 0.9))
    assert 6 < pixels_of(wide, BAND) / pixels_of(narrow, BAND) < 10
    with pytest.raises(GplanError, match="from low to high"):
        draw_preference_curves(log, tmp_path / "out.png", band=(0.2, 0.1))


def test_a_run_far_off_leaves_the_band_as_tall_as_before(tmp_path: Path) -> None:
    """A linear scale to 20 would make the band a hundredth of the panel."""
    near = {"scdpo": write_log(tmp_path / "a.jsonl", margin=0.4)}
    far = {**near, "dpo": write_log(tmp_path / "b.jsonl", margin=20.0)}
    small = pixels_of(draw_preference_curves(near, tmp_path / "near.png"), BAND)
    assert pixels_of(draw_preference_curves(far, tmp_path / "far.png"), BAND) > small / 4


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e9])
def test_a_run_that_has_blown_up_can_still_be_drawn(tmp_path: Path, value: float) -> None:
    more = {"rewards/rejected": value, "logps/rejected": -value}
    logs = {"run": write_log(tmp_path / "a.jsonl", **more)}
    assert draw_preference_curves(logs, tmp_path / "out.png").stat().st_size > 0


def test_a_panel_without_a_curve_says_so(tmp_path: Path) -> None:
    missing = {"center": None, "gap/inside": None}
    logs = {"run": write_log(tmp_path / "a.jsonl", **missing)}
    [series] = read_preference_logs(logs).values()
    assert {key for key, *_ in PREFERENCE_PANELS} - series.keys() == missing.keys()
    whole = draw_preference_curves({"run": write_log(tmp_path / "b.jsonl")}, tmp_path / "b.png")
    assert pixels_of(draw_preference_curves(logs, tmp_path / "a.png"), FIRST) < pixels_of(
        whole, FIRST
    )


def test_the_log_of_another_kind_of_run_is_named(tmp_path: Path) -> None:
    log = tmp_path / "picd.jsonl"
    log.write_text('{"kind": "step", "step": 1, "loss": 0.5}\n', encoding="utf-8")
    logs = {"scdpo": write_log(tmp_path / "a.jsonl"), "picd": log}
    with pytest.raises(GplanError, match=r"picd.jsonl \(of picd\).*rewards/margins.*mode: scdpo"):
        draw_preference_curves(logs, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_no_log_and_a_missing_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="No training log"):
        draw_preference_curves({}, tmp_path / "out.png")
    with pytest.raises(GplanError, match="does not exist"):
        draw_preference_curves({"run": tmp_path / "none.jsonl"}, tmp_path / "out.png")
