"""The devices of a run as a named grid: axes data, fsdp and tensor; batches laid out over it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gplan_jax.foundation import GplanError
from gplan_jax.models.config import Qwen3Config
from gplan_jax.models.sharding import LOGICAL_AXES, axis_size, partition_spec
from gplan_jax.training.config import MeshConfig, TrainConfig

AXES = ("data", "fsdp", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges the devices (all there are, on all hosts) as the config says.

    ``tensor`` is the innermost axis, so the devices that exchange most are neighbours.

    Raises:
        GplanError: the axes do not multiply to the number of devices.
    """
    shape = mesh_shape(config, len(jax.devices() if devices is None else devices))
    types = (AxisType.Auto,) * len(AXES)
    if devices is None:
        # On a TPU this follows the wires of the slice.
        return jax.make_mesh(shape, AXES, axis_types=types)
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Sizes of data, fsdp and tensor for a number of devices, -1 filled in.

    Raises:
        GplanError: more than one axis is -1, an axis is 0, or the product is not ``devices``.
    """
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
    return filled[0], filled[1], filled[2]


def check_mesh(mesh: Mesh, config: TrainConfig, model: Qwen3Config) -> None:
    """Raises GplanError, listing all that does not divide: rows, heads and widths of the model."""
    table = dict(LOGICAL_AXES)
    faults = []
    if config.batch_size % config.accumulation_steps:
        faults.append(
            f"batch_size={config.batch_size} does not divide into "
            f"accumulation_steps={config.accumulation_steps} equal parts"
        )
    else:
        rows = config.batch_size // config.accumulation_steps
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
        size, parts = getattr(model, name), axis_size(mesh, table[axis])
        if size % parts:
            faults.append(
                f"the model's {name} {size} does not divide by mesh {table[axis]}={parts}"
            )
    if faults:
        raise GplanError("The run does not fit its mesh:\n  " + "\n  ".join(faults))


def batch_shard(mesh: Mesh) -> tuple[int, int]:
    """Which share of a batch this process loads, and how many shares there are.

    Processes whose devices hold the same rows (a tensor axis across hosts) load the same share.

    Raises:
        GplanError: this process's devices hold no one contiguous, equal share.
    """
    parts = axis_size(mesh, dict(LOGICAL_AXES)["batch"])
    indices = NamedSharding(mesh, partition_spec("batch")).addressable_devices_indices_map((parts,))
    held = sorted({index[0].indices(parts)[0] for index in indices.values() if index})
    return share_of(held, parts)


def share_of(held: Sequence[int], parts: int) -> tuple[int, int]:
    """The number of the share that is made up of the parts ``held``, and of all shares.

    Raises:
        GplanError: they are not one of several equal, contiguous shares.
    """
    size, first = len(held), held[0]
    if list(held) != list(range(first, first + size)) or parts % size or first % size:
        raise GplanError(
            f"The devices of process {jax.process_index()} hold the parts {list(held)} of {parts} "
            "of a batch, which are no contiguous, equal share; choose a mesh whose tensor axis "
            "divides the devices of a host, or is a multiple of them."
        )
    return first // size, parts // size


def put_batch(
    batch: Mapping[str, np.ndarray], mesh: Mesh, *, shared: Collection[str] = ()
) -> dict[str, jax.Array]:
    """Lays this process's rows out over the mesh; fields named in ``shared`` are replicated."""

    def put(name: str, value: np.ndarray) -> jax.Array:
        spec = PartitionSpec() if name in shared else partition_spec("batch")
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), value)

    return {name: put(name, value) for name, value in batch.items()}
