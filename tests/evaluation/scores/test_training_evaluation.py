"""What evaluation during training refuses before an epoch is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gplan_jax.evaluation.scores.model_evaluation import train_and_evaluate
from gplan_jax.foundation import GplanError
from gplan_jax.training.steps.train_config import TrainConfig


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"checkpoint": {"keep_best": 1, "best_metric": "bleu"}},
            "best_metric=bleu is no figure of an evaluation of data.task=gsisr; there are acc1",
        ),
        ({}, "data.test names no rows"),
        (
            {"evaluation": {"every_epochs": 0}, "checkpoint": {"keep_best": 1}},
            "keep_best goes by evaluations, and there are none",
        ),
    ],
)
def test_settings_that_do_not_go_together(
    changes: dict[str, Any], said: str, world_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {
        "mode": "picd",
        "model": str(tiny_model_dir),
        "output": str(tmp_path / "run"),
        "data": {"train": str(world_file), "template": "compact_zh"},
        "evaluation": {"every_epochs": 1},
    }
    with pytest.raises(GplanError, match=said):
        train_and_evaluate(TrainConfig.model_validate(values | changes))
    assert not (tmp_path / "run").exists()
