"""Small runs that several files look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

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
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig, kept_programs: None
) -> TrainConfig:
    """A finished run and its config."""
    from gplan_jax.training.loop.loop import train

    config = make_config(tmp_path_factory.mktemp("runs") / "unbroken")
    train(config)
    return config


@pytest.fixture(scope="session")
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled steps are kept on disk: runs of one shape compile once for all tests."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for values in (settings, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is settings:
            yield
