"""The devices of a run as a named grid: axes data, fsdp and tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from gplan_jax.foundation import GplanError
from gplan_jax.training.config import MeshConfig

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
