"""The devices of a run as a named grid: axes data, fsdp and tensor; batches laid out over it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from pydantic import Field

from gplan_jax.data.batch_plan import Share
from gplan_jax.data.batches import Batch
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config
from gplan_jax.models.layers.sharding import LOGICAL_AXES, axis_size, partition_spec
from gplan_jax.models.qwen3.config import Qwen3Config

AXES = ("data", "fsdp", "tensor")


class MeshConfig(Config):
    """How the devices are arranged; one axis may be -1, which takes all devices that remain."""

    data: int = Field(1, ge=-1)  # copies of the weights; each sees other rows of a batch
    fsdp: int = Field(-1, ge=-1)  # share one copy of weights and optimizer state, and split rows
    tensor: int = Field(1, ge=-1)  # split heads, feed-forward and vocabulary of one copy
    # TPU slices, or groups of hosts, with a slower network between them; data is a multiple of it,
    # so that only gradients cross
    slices: int = Field(1, ge=1)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices (all there are, on all hosts) as the config says.

    ``tensor`` is the innermost axis, so the devices that exchange most are neighbours; slices are
    the outermost part of ``data``.
    """
    if devices is None:  # Host by host, so that groups of hosts are the outermost part of data too.
        devices = sorted(jax.devices(), key=lambda device: device.id)
    (data, *inner), types = mesh_shape(config, len(devices)), (AxisType.Auto,) * len(AXES)
    if devices[0].platform == "tpu":
        # Axes follow the wires of a slice, and none of them goes from one slice to another.
        found = len({getattr(device, "slice_index", 0) for device in devices})
        if found != config.slices:
            raise GplanError(
                f"The devices are of {found} slices and mesh.slices is {config.slices}; set "
                f"mesh.slices={found} and mesh.data to a multiple of it."
            )
        if found > 1:
            own, between = (data // found, *inner), (found, 1, 1)
            grid = mesh_utils.create_hybrid_device_mesh(own, between, devices)
            return Mesh(grid, AXES, axis_types=types)
        return jax.make_mesh((data, *inner), AXES, axis_types=types, devices=devices)
    return Mesh(np.asarray(devices).reshape(data, *inner), AXES, axis_types=types)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Sizes of data, fsdp and tensor for a number of devices, -1 filled in."""
    sizes = [getattr(config, axis) for axis in AXES]
    given = "mesh " + ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if 0 in sizes or sizes.count(-1) > 1:
        raise GplanError(f"{given}: sizes are positive, and at most one may be -1 (what remains).")
    known = math.prod(size for size in sizes if size != -1)
    filled = [devices // known if size == -1 else size for size in sizes]
    if math.prod(filled) != devices:
        raise GplanError(
            f"{given} does not divide the {devices} devices there are; choose sizes whose product "
            f"is {devices}, or set one axis to -1."
        )
    if filled[0] % config.slices:
        raise GplanError(
            f"{given}: data={filled[0]} does not divide among mesh.slices={config.slices}; set "
            f"mesh.data={config.slices} or a multiple of it."
        )
    return filled[0], filled[1], filled[2]


def check_mesh(mesh: Mesh, model: Qwen3Config, *, batch_size: int, accumulation_steps: int) -> None:
    """Raises GplanError, listing all that does not divide: rows, heads and widths of the model."""
    table = dict(LOGICAL_AXES)
    faults = []
    if batch_size % accumulation_steps:
        faults.append(
            f"batch_size={batch_size} does not divide into "
            f"accumulation_steps={accumulation_steps} equal parts"
        )
    else:
        rows = batch_size // accumulation_steps
        parts = axis_size(mesh, table["batch"])
        if rows % parts:
            faults.append(
                f"batch_size / accumulation_steps = {rows} rows do not divide by mesh data * fsdp "
                f"= {parts}"
            )
    for name, axis in (
        ("num_attention_heads", "heads"),
        ("num_key_value_heads", "kv_heads"),
        ("intermediate_size", "mlp"),
        ("vocab_size", "vocab"),
        ("hidden_size", "embed"),
    ):
        names = table[axis]
        size, parts = getattr(model, name), axis_size(mesh, names)
        if size % parts:
            product = names if isinstance(names, str) else " * ".join(names or ())
            faults.append(f"the model's {name} {size} does not divide by mesh {product} = {parts}")
    if faults:
        raise GplanError("The run does not fit its mesh:\n  " + "\n  ".join(faults))


def batch_share(mesh: Mesh) -> Share:
    """What this process loads of each batch: the parts that its devices hold.

    Processes whose devices hold the same rows (a tensor axis across hosts) load the same parts.
    """
    parts = axis_size(mesh, dict(LOGICAL_AXES)["batch"])
    indices = NamedSharding(mesh, partition_spec("batch")).addressable_devices_indices_map((parts,))
    held = {index[0].indices(parts)[0] for index in indices.values() if index}
    return Share(tuple(sorted(held)), parts)


def put_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Lays this process's ``batch_share`` of the rows over the mesh; the prefix goes everywhere."""
    share, by_rows = batch_share(mesh), NamedSharding(mesh, partition_spec("batch"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put_rows(value: np.ndarray) -> jax.Array:
        by_part = value.reshape(len(share.parts), -1, *value.shape[1:])
        count = by_part.shape[1]
        parts = dict(zip(share.parts, by_part, strict=True))

        def rows_at(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            return parts[(index[0].start or 0) // count]

        shape = (share.of * count, *value.shape[1:])
        return jax.make_array_from_callback(shape, by_rows, rows_at)

    def replicate(value: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(value.shape, everywhere, lambda _: value)

    return Batch(jax.tree.map(put_rows, batch.rows), jax.tree.map(replicate, batch.prefix))
