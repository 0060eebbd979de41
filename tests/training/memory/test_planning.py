"""The search for a setting that fits, with a compiler that answers at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from gplan_jax.foundation.config import parse_config
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.training.hosts.mesh import mesh_shape
from gplan_jax.training.memory.abstract_step import QWEN3_SHAPES
from gplan_jax.training.memory.batch_shape import BatchShape
from gplan_jax.training.memory.planning import overrides, search_fitting, stages
from gplan_jax.training.memory.report import Memory, MemoryPlan
from gplan_jax.training.memory.topologies import parse_topology
from gplan_jax.training.steps.train_config import TrainConfig

SHAPE = QWEN3_SHAPES["qwen3-1.7b"]
DEVICES = 16


def config(**values: object) -> TrainConfig:
    base = {"mode": "picd", "model": "m", "output": "o", "batch_size": 64, "data": {"train": "t"}}
    return parse_config(TrainConfig, {**base, **values}, source="test")


def compiler(needed: Callable[[TrainConfig], float]) -> Callable[[TrainConfig], MemoryPlan]:
    """Plans on a chip of 100 bytes; a setting needs what ``needed`` says."""
    topology = parse_topology("v5e:4x4")
    assert topology.chip is not None
    small = dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, memory=100.0))

    def plan(candidate: TrainConfig) -> MemoryPlan:
        size = needed(candidate)
        return MemoryPlan(
            topology=small,
            config=candidate,
            shape=SHAPE,
            mesh=mesh_shape(candidate.mesh, DEVICES),
            batch=BatchShape(candidate.batch_size, 1408, 320, 768),
            kernel="splash",
            source="compiled",
            memory=Memory(size, 0, 0, 0, 0, 0),
            needed=size,
            capacity=100.0,
            useful_flops=1.0,
        )

    return plan


def found(start: TrainConfig, needed: Callable[[TrainConfig], float], most: int = 8) -> list[str]:
    result = search_fitting(start, SHAPE, DEVICES, compiler(needed), most=most)
    return list(overrides(start, result.found.config)) if result.found else []


def test_fewest_micro_batches_that_fit() -> None:
    start = config(precision={"remat": "full"})
    # 4 rows a device: 150; 2 rows: 90; 1 row: 60. Two parts are enough.
    assert found(start, lambda c: 30 + 120 / c.accumulation_steps) == ["accumulation_steps=2"]
    # The next device only holds one row.
    assert found(start, lambda c: 60 + 120 / c.accumulation_steps) == ["accumulation_steps=4"]


def test_micro_batches_go_before_remat_and_remat_before_tensor() -> None:
    start = config(precision={"remat": "none"})
    seen = [overrides(start, stage[-1]) for stage in stages(start, SHAPE, DEVICES)]
    assert seen[:4] == [
        ("accumulation_steps=4",),
        ("accumulation_steps=4", "precision.remat=dots"),
        ("accumulation_steps=4", "precision.remat=full"),
        ("accumulation_steps=4", "precision.remat=offload"),
    ]
    assert seen[4] == ("accumulation_steps=8", "mesh.data=1", "mesh.fsdp=8", "mesh.tensor=2")
    # Eight key/value heads bound the tensor axis.
    assert seen[-1][-1] == "mesh.tensor=8"


def test_a_weaker_remat_with_fewer_parts_is_taken_at_its_stage() -> None:
    start = config(precision={"remat": "none"})
    sizes = {"none": 1000, "dots": 300, "full": 80, "offload": 50}
    needed = lambda c: sizes[c.precision.remat] / c.accumulation_steps + 20  # noqa: E731
    assert found(start, needed) == ["accumulation_steps=4", "precision.remat=dots"]


def test_a_tensor_axis_where_state_alone_does_not_leave_room() -> None:
    start = config(precision={"remat": "offload"})
    needed = lambda c: 160 / max(1, c.mesh.tensor)  # noqa: E731
    assert found(start, needed) == ["mesh.data=1", "mesh.fsdp=8", "mesh.tensor=2"]


@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_more_plans_than_the_cap(most: int) -> None:
    calls = []

    def needed(candidate: TrainConfig) -> float:
        calls.append(candidate)
        return 1000.0

    result = search_fitting(config(), SHAPE, DEVICES, compiler(needed), most=most)
    assert result.found is None
    assert len(calls) == len(result.tried) <= most
    every = list(stages(config(), SHAPE, DEVICES))
    assert result.complete == (len(every) <= most)


def test_every_setting_divides_and_none_is_the_start() -> None:
    start = config(accumulation_steps=2)
    for stage in stages(start, SHAPE, DEVICES):
        for candidate in stage:
            data, fsdp, tensor = mesh_shape(candidate.mesh, DEVICES)
            assert candidate.batch_size % (candidate.accumulation_steps * data * fsdp) == 0
            assert SHAPE.num_key_value_heads % tensor == 0
            assert candidate.accumulation_steps >= 2
            assert candidate != start


def test_lines_name_what_is_tried() -> None:
    lines: list[str] = []
    start = config(precision={"remat": "full"})
    plan_of = compiler(lambda c: 60 + 120 / c.accumulation_steps)
    search_fitting(start, SHAPE, DEVICES, plan_of, report=lines.append)
    assert lines == ["trying accumulation_steps=4", "trying accumulation_steps=2"]


def test_a_model_of_one_key_value_head_has_no_tensor_stage() -> None:
    shape = Qwen3Config(512, 64, 192, 2, 2, 1, head_dim=32)
    start = config(precision={"remat": "offload"}, accumulation_steps=4)
    assert list(stages(start, shape, DEVICES)) == []
