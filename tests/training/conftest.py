"""Small runs that several files look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.training.steps.train_config import TrainConfig

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def training_rows(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """20 simulated rows as a CSV file."""
    path = tmp_path_factory.mktemp("training") / "rows.csv"
    write_samples(path, world_rows[:20])
    return path


@pytest.fixture(scope="session")
def training_data(training_rows: Path) -> dict[str, Any]:
    """``data`` of a small run: all batches have one shape, hardly longer than the longest row."""
    return {
        "train": str(training_rows),
        "template": "compact_zh",
        "max_length": 512,
        "length_multiple": 416,
        "response_multiple": 304,
    }


@pytest.fixture(scope="session")
def make_config(training_data: dict[str, Any], tiny_model_dir: Path) -> MakeConfig:
    """Makes the config of a small run: 20 rows in batches of 4, 3 epochs, 15 steps."""

    def make(output: Path, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "mode": "picd",
            "model": str(tiny_model_dir),
            "output": str(output),
            "epochs": 3,
            "batch_size": 4,
            "data": training_data,
            "optimizer": {"learning_rate": 1e-3, "polish_lr": 1e-4, "target_blocks": 1},
            "precision": {"compute": "float32", "remat": "none"},
            "checkpoint": {"every_steps": 2, "keep": 2},
        }
        return TrainConfig.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> TrainConfig:
    """A finished run and its config."""
    from gplan_jax.training.loop.loop import train

    config = make_config(tmp_path_factory.mktemp("runs") / "unbroken")
    train(config)
    return config
