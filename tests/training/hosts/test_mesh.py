from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType

from gplan_jax.data.batch_plan import Share
from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3Config
from gplan_jax.training.hosts.mesh import (
    AXES,
    MeshConfig,
    batch_share,
    check_mesh,
    make_mesh,
    mesh_shape,
)

MODEL = Qwen3Config(
    vocab_size=96,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)


class Grid:
    """A mesh as far as ``check_mesh`` looks at it: the sizes of its axes."""

    def __init__(self, data: int, fsdp: int, tensor: int) -> None:
        self.shape = {"data": data, "fsdp": fsdp, "tensor": tensor}


def check(grid: Grid, *, batch_size: int, accumulation_steps: int = 1) -> None:
    check_mesh(
        grid,  # type: ignore[arg-type]
        MODEL,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
    )


@pytest.mark.parametrize(
    ("mesh", "devices", "shape"),
    [
        (MeshConfig(), 1, (1, 1, 1)),
        (MeshConfig(), 16, (1, 16, 1)),
        (MeshConfig(tensor=2), 8, (1, 4, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 2)),
        (MeshConfig(data=-1, fsdp=4), 16, (4, 4, 1)),
        (MeshConfig(slices=2, data=4), 32, (4, 8, 1)),
    ],
)
def test_the_open_axis_takes_what_remains(
    mesh: MeshConfig, devices: int, shape: tuple[int, int, int]
) -> None:
    assert mesh_shape(mesh, devices) == shape


@pytest.mark.parametrize(
    ("mesh", "devices", "message"),
    [
        (MeshConfig(fsdp=3), 8, "data=1, fsdp=3, tensor=1 does not divide the 8 devices"),
        (MeshConfig(tensor=3), 8, "does not divide the 8 devices"),
        (MeshConfig(data=-1), 8, "at most one may be -1"),
        (MeshConfig(tensor=0), 8, "sizes are positive"),
        (MeshConfig(fsdp=16), 8, "product is 8"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh: MeshConfig, devices: int, message: str) -> None:
    with pytest.raises(GplanError, match=message):
        mesh_shape(mesh, devices)


def test_all_that_does_not_divide_is_listed_at_once() -> None:
    with pytest.raises(GplanError) as error:
        check(Grid(2, 3, 4), batch_size=8)
    message = str(error.value)
    assert "8 rows do not divide by mesh data * fsdp = 6" in message
    assert "num_key_value_heads 2 does not divide by mesh tensor = 4" in message
    assert "hidden_size 16 does not divide by mesh fsdp = 3" in message
    assert "vocab_size 96" not in message  # 12 parts do
    assert "num_attention_heads" not in message  # 4 heads do divide


@pytest.mark.parametrize(("batch", "parts"), [(9, 2), (8, 3)])
def test_batches_divide_into_their_micro_batches(batch: int, parts: int) -> None:
    with pytest.raises(GplanError, match="equal parts"):
        check(Grid(1, 1, 1), batch_size=batch, accumulation_steps=parts)


def test_micro_batches_divide_over_the_devices() -> None:
    check(Grid(2, 2, 1), batch_size=8, accumulation_steps=2)
    with pytest.raises(GplanError, match=r"accumulation_steps = 4 rows .* = 8"):
        check(Grid(2, 4, 1), batch_size=8, accumulation_steps=2)


def test_one_process_loads_the_whole_batch() -> None:
    assert batch_share(make_mesh(MeshConfig())) == Share((0,), 1)


def test_axes_are_auto() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert mesh.axis_names == AXES and set(mesh.axis_types) == {AxisType.Auto}


class Chip:
    """A TPU chip as far as ``make_mesh`` looks at it."""

    platform = "tpu"

    def __init__(self, slice_index: int) -> None:
        self.slice_index = slice_index


def test_data_is_split_over_slices_first() -> None:
    with pytest.raises(
        GplanError, match=r"data=1 does not divide among mesh\.slices=2; set mesh\."
    ):
        mesh_shape(MeshConfig(slices=2), 8)
    with pytest.raises(GplanError, match=r"data=4 does not divide among mesh\.slices=3"):
        mesh_shape(MeshConfig(slices=3, data=4), 12)


@pytest.mark.parametrize(("slices", "found"), [(2, 1), (1, 2), (2, 4)])
def test_slices_that_are_not_those_of_the_devices_are_named(slices: int, found: int) -> None:
    chips = [Chip(number * found // 8) for number in range(8)]
    with pytest.raises(GplanError, match=rf"are of {found} slices and mesh\.slices is {slices}"):
        make_mesh(MeshConfig(slices=slices, data=slices), chips)  # type: ignore[arg-type]
