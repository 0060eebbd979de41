"""The directory of a run: made once, continued only when asked, never overwritten.

RUN/config.yaml     the config as it was resolved; a directory without it holds no run
RUN/cache/          token counts of the rows
RUN/log.jsonl       a record a step; RUN/tensorboard the same for TensorBoard
RUN/checkpoints/    weights, optimizer, step and data iterator of the newest steps
RUN/evaluation/     predictions and metrics of each evaluation
RUN/model/          the finished model directory: what evaluate, plan and export read
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import parse_yaml
from gplan_jax.foundation.files import atomic_write, refuse_existing
from gplan_jax.training.config import TrainConfig

CONFIG_NAME, CACHE_NAME = "config.yaml", "cache"


def open_run(config: TrainConfig, *, resume: bool) -> Path:
    """The run's directory, checked to be free, or to be this run's when resuming.

    Nothing is written yet: a run that fails on bad input leaves its directory free for the next.

    Raises:
        GplanError: the directory holds something and ``resume`` is not set; or it is resumed with
            another config (the differences are listed); or there is nothing to resume.
    """
    directory = Path(config.output)
    stored = directory / CONFIG_NAME
    if not resume:
        if stored.is_file():
            raise GplanError(
                f"{directory} already holds a run; continue it with --resume, or name another "
                "directory with output=DIR."
            )
        if not _holds_only_counts(directory):
            refuse_existing(directory)
        return directory
    if not stored.is_file():
        raise GplanError(f"{directory} holds no run to resume; start one without --resume.")
    differences = _differences(parse_yaml(stored.read_text("utf-8")), config.model_dump())
    if differences:
        raise GplanError(
            f"{directory} was started with another config; a run resumes exactly or not at all:\n  "
            + "\n  ".join(differences)
        )
    return directory


def record_run(config: TrainConfig, directory: Path) -> None:
    """Writes the config: from here on the directory holds a run, which --resume continues."""
    with atomic_write(directory / CONFIG_NAME) as temporary:
        text = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def _holds_only_counts(directory: Path) -> bool:
    return directory.is_dir() and [path.name for path in directory.iterdir()] == [CACHE_NAME]


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: was {before!r}, now {after!r}")
    return lines
