"""Every key of the config is judged, and those that reach the weights are never let pass."""

from __future__ import annotations

from typing import Any

import pytest

from gplan_jax.training.resume.config_changes import CONTENT, FREE, ROUNDING, compare
from gplan_jax.training.steps.train_config import TrainConfig

BASE: dict[str, Any] = {"mode": "picd", "model": "m", "output": "o", "data": {"train": "t"}}


def config(**changes: Any) -> TrainConfig:
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
    changes = compare(config(), config(**change))
    assert [len(getattr(changes, k)) for k in ("free", "rounding", "exact")] == [
        int(k == kind) for k in ("free", "rounding", "exact")
    ]
    assert changes.all[0].startswith(line)


def test_no_change_is_none() -> None:
    assert compare(config(), config()).all == ()


def test_the_tables_name_keys_that_exist() -> None:
    values = config().model_dump()
    for name in FREE + ROUNDING + CONTENT:
        here: Any = values
        for part in name.split("."):
            assert part in here, name
            here = here[part]
