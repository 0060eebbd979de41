"""A run's directory after kills and accidents, and which changes of its config are let pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.training.resume.run_directory import (
    FILE_NAMES,
    FREE,
    ROUNDING,
    compare_configs,
    open_run,
    record_run,
)
from gplan_jax.training.steps.train_config import TrainConfig


def config(run: Path, **changes: Any) -> TrainConfig:
    values = {"mode": "picd", "model": "m", "output": str(run), "data": {"train": "t"}}
    return TrainConfig.model_validate(values | changes)


def test_a_start_that_was_killed_leaves_the_directory_free(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / ".config.yaml.tmp-x7.yaml").write_text("")
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


def test_changes_are_refused_allowed_or_told(tmp_path: Path) -> None:
    record_run(config(tmp_path), {}, tmp_path)
    graver = config(tmp_path, seed=1, accumulation_steps=2)
    with pytest.raises(GplanError, match=r"seed: was 0, now 1\n.*--allow-changes"):
        open_run(graver, resume=True)
    _, changes = open_run(graver, resume=True, allow_changes=True)
    told = changes.describe()
    assert "neither config" in told and "seed: was 0, now 1" in told
    assert "not bit for bit" in told and "accumulation_steps: was 1, now 2" in told
    (tmp_path / "model").mkdir()
    with pytest.raises(GplanError, match="is finished and its config has changed"):
        open_run(graver, resume=True, allow_changes=True)
    assert compare_configs(graver, graver).describe() == ""


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(GplanError, match=r"config\.yaml is not the config of a run"):
        open_run(config(tmp_path), resume=True)


BASE: dict[str, Any] = {"mode": "picd", "model": "m", "output": "o", "data": {"train": "t"}}


def changed_config(**changes: Any) -> TrainConfig:
    values = BASE | {"data": dict(BASE["data"])}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section] = {**values.get(section, {}), name: value}
        else:
            values[key] = value
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        ({"output": "p"}, "free", "output: was 'o', now 'p'"),
        ({"checkpoint__keep": 9}, "free", "checkpoint.keep: was 2, now 9"),
        ({"evaluation__limit": 3}, "free", "evaluation.limit: was None, now 3"),
        ({"data__workers": 2}, "free", "data.workers: was 0, now 2"),
        ({"data__train": "u"}, "free", "data.train: was 't', now 'u'"),
        ({"model": "n"}, "free", "model: was 'm', now 'n'"),
        ({"mesh__tensor": 2}, "rounding", "mesh.tensor: was 1, now 2"),
        ({"accumulation_steps": 2}, "rounding", "accumulation_steps: was 1, now 2"),
        ({"data__layout": "plain"}, "rounding", "data.layout: was 'prefix_tree', now 'plain'"),
        ({"precision__remat": "none"}, "rounding", "precision.remat: was 'full', now 'none'"),
        ({"seed": 1}, "exact", "seed: was 0, now 1"),
        ({"mode": "cot_sft"}, "exact", "mode: was 'picd', now 'cot_sft'"),
        ({"epochs": 2}, "exact", "epochs: was 13, now 2"),
        ({"data__max_length": 9}, "exact", "data.max_length: was 2048, now 9"),
        ({"data__window_batches": 9}, "exact", "data.window_batches: was 16, now 9"),
        ({"optimizer__b2": 0.5}, "exact", "optimizer.b2: was 0.999, now 0.5"),
        ({"loss__plan_weight": 2.0}, "exact", "loss.plan_weight: was 1.0, now 2.0"),
        ({"precision__params": "bfloat16"}, "exact", "precision.params: was 'float32', now"),
    ],
)
def test_a_change_is_sorted_by_what_it_does(change: dict[str, Any], kind: str, line: str) -> None:
    changes = compare_configs(changed_config(), changed_config(**change))
    assert [len(getattr(changes, k)) for k in ("free", "rounding", "exact")] == [
        int(k == kind) for k in ("free", "rounding", "exact")
    ]
    assert changes.all[0].startswith(line)


def test_no_change_is_none() -> None:
    assert compare_configs(changed_config(), changed_config()).all == ()


def test_the_tables_name_keys_that_exist() -> None:
    values = changed_config().model_dump()
    for name in FREE + ROUNDING + FILE_NAMES:
        here: Any = values
        for part in name.split("."):
            assert part in here, name
            here = here[part]
