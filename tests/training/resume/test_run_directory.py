"""A run's directory after kills and accidents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.training.resume.config_changes import compare
from gplan_jax.training.resume.run_directory import describe, open_run, record_run, stored_inputs
from gplan_jax.training.steps.train_config import TrainConfig


def config(run: Path, **changes: Any) -> TrainConfig:
    values = {"mode": "picd", "model": "m", "output": str(run), "data": {"train": "t"}}
    return TrainConfig.model_validate(values | changes)


def test_a_start_that_was_killed_leaves_the_directory_free(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / ".config.yaml.x7.yaml").write_text("")
    (tmp_path / "inputs.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    open_run(config(tmp_path), resume=False)
    (tmp_path / "checkpoints" / "3").mkdir()
    with pytest.raises(GplanError, match="is not empty"):
        open_run(config(tmp_path), resume=False)
    (tmp_path / "checkpoints" / "3").rmdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GplanError, match="is not empty"):
        open_run(config(tmp_path), resume=False)


def test_leftovers_go_and_nothing_else_does(tmp_path: Path) -> None:
    for name in (".model.abc", ".best.abc", "evaluation/.epoch-001.abc", "evaluation/epoch-001"):
        (tmp_path / name / "params").mkdir(parents=True)
    for name in (".log.jsonl.abc.jsonl", ".gitignore", "log.jsonl"):
        (tmp_path / name).write_text("")
    record_run(config(tmp_path), {"rows": "r"}, tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {
        *("config.yaml", "inputs.json", ".gitignore", "log.jsonl"),
        *("evaluation", "evaluation/epoch-001", "evaluation/epoch-001/params"),
    }
    assert stored_inputs(tmp_path) == {"rows": "r"}


def test_changes_are_refused_allowed_or_told(tmp_path: Path) -> None:
    record_run(config(tmp_path), {}, tmp_path)
    graver = config(tmp_path, seed=1, accumulation_steps=2)
    with pytest.raises(GplanError, match=r"seed: was 0, now 1\n.*--allow-changes"):
        open_run(graver, resume=True)
    _, changes = open_run(graver, resume=True, allow_changes=True)
    told = describe(changes)
    assert "neither config" in told and "seed: was 0, now 1" in told
    assert "not bit for bit" in told and "accumulation_steps: was 1, now 2" in told
    (tmp_path / "model").mkdir()
    with pytest.raises(GplanError, match="is finished and its config has changed"):
        open_run(graver, resume=True, allow_changes=True)
    assert describe(compare(graver, graver)) == ""


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(GplanError, match=r"config\.yaml is not the config of a run"):
        open_run(config(tmp_path), resume=True)
