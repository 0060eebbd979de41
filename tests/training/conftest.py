"""Small runs that several files look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.training.steps.train_config import TrainConfig

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def make_config(world_file: Path, tiny_model_dir: Path) -> MakeConfig:
    """Makes the config of a small run: 40 rows in batches of 8, 3 epochs, 15 steps."""

    def make(output: Path, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "mode": "picd",
            "model": str(tiny_model_dir),
            "output": str(output),
            "epochs": 3,
            "batch_size": 8,
            "data": {
                "train": str(world_file),
                "template": "compact_zh",
                "max_length": 512,
                "length_multiple": 512,
                "response_multiple": 384,
            },
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
