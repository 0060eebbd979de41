"""Learning curves: what is read from a log, and that the picture shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from gplan_jax.evaluation.scores.learning_curves import (
    draw_learning_curves,
    read_series,
    running_mean,
)
from gplan_jax.foundation.errors import GplanError

PLAN_COLOUR, SECOND_COLOUR = (0, 114, 178), (213, 94, 0)


def write_log(path: Path, *, steps: int = 120, reasoning: bool = True) -> Path:
    records = []
    for step in range(1, steps + 1):
        record = {
            "step": step,
            "epoch": step // 40,
            "stage": step // 40 if reasoning else 0,
            "loss": 3 / step + 0.1,
            "loss_plan": 2 / step,
            "learning_rate": 1e-3 * (1 - step / steps),
            "tokens_per_second": 100.0 + step % 7,
        }
        if reasoning:
            record["loss_reasoning"] = 4 / step
        records.append(record)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def pixels_of(picture: Path, colour: tuple[int, int, int]) -> int:
    pixels = np.rint(image.imread(picture)[..., :3] * 255).astype(int)
    return int((np.abs(pixels - colour).max(axis=-1) <= 2).sum())


def test_series_are_ordered_by_step_and_records_of_one_step_add_up(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"step": 2, "loss": 0.5}\n{"step": 1, "loss": 0.75, "loss_plan": 0.25}\n'
        '{"step": 2, "kind": "evaluation", "acc1": 0.5}\n{"note": "no step"}\n'
        '{"step": 3, "loss"',
        encoding="utf-8",
    )
    series = read_series(log)
    assert {key: (s.tolist(), v.tolist()) for key, (s, v) in series.items()} == {
        "loss": ([1.0, 2.0], [0.75, 0.5]),
        "loss_plan": ([1.0], [0.25]),
    }


@pytest.mark.parametrize("window", [1, 4, 9])
def test_running_mean_is_the_mean_of_each_window(window: int) -> None:
    values = np.random.default_rng(0).random(23)
    half = window // 2
    expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(23)]
    np.testing.assert_allclose(running_mean(values, window), expected, rtol=1e-12)


def test_running_mean_leaves_out_what_is_not_finite() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf])
    np.testing.assert_allclose(running_mean(values, 3), [1.0, 2.0, 3.0, 3.0])
    assert np.isnan(running_mean(np.array([np.nan]), 1)).all()


def test_two_runs_share_one_picture_each_in_its_colour(tmp_path: Path) -> None:
    logs = {
        "direct_sft": write_log(tmp_path / "a.jsonl", reasoning=False),
        "picd": write_log(tmp_path / "b.jsonl"),
    }
    both = draw_learning_curves(logs, tmp_path / "both.png")
    assert pixels_of(both, PLAN_COLOUR) > 1000
    assert pixels_of(both, SECOND_COLOUR) > 1000


def test_a_run_without_reasoning_leaves_that_panel_to_a_note(tmp_path: Path) -> None:
    plain = draw_learning_curves(
        {"run": write_log(tmp_path / "a.jsonl", reasoning=False)}, tmp_path / "plain.png"
    )
    with_reasoning = draw_learning_curves(
        {"run": write_log(tmp_path / "b.jsonl")}, tmp_path / "reasoning.png"
    )
    assert 1000 < pixels_of(plain, PLAN_COLOUR) < pixels_of(with_reasoning, PLAN_COLOUR)
    assert pixels_of(plain, SECOND_COLOUR) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), ("", "no record with a step"), ("not json\n", "not a training log")],
)
def test_a_log_that_is_none_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    log = tmp_path / "log.jsonl"
    if content is not None:
        log.write_text(content, encoding="utf-8")
    with pytest.raises(GplanError, match=words) as error:
        draw_learning_curves({"run": log}, tmp_path / "out.png")
    assert str(log) in str(error.value)
    assert not (tmp_path / "out.png").exists()


def test_no_log_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="No training log"):
        draw_learning_curves({}, tmp_path / "out.png")


def test_without_matplotlib_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path / "log.jsonl")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GplanError, match=r"gplan-jax\[plots\]"):
        draw_learning_curves({"run": log}, tmp_path / "out.png")
