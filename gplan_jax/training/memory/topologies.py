"""Devices that need not be here: names of TPU slices and GPU machines, and what their chips can do.

Sources of the figures, per chip: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e ("System
architecture": peak compute in bf16, HBM bandwidth, bidirectional inter-chip interconnect (ICI)
bandwidth, half of which goes each way) and NVIDIA's data sheets (dense bf16 without sparsity;
NVLink likewise halved). TPU memory is what the compiler grants a program, a little less than the
chip has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from gplan_jax.foundation import GplanError
from gplan_jax.training.hosts.mesh import MeshConfig, make_mesh

GIB = 2**30
TEN9 = 10**9


@dataclass(frozen=True)
class Chip:
    """What one chip can do."""

    name: str  # as in a topology's name
    platform: Literal["tpu", "gpu"]
    peak_flops: float  # dense bf16 products a second
    memory: float  # bytes of HBM that a program may use
    bandwidth: float  # bytes of HBM a second
    # Bytes a second that leave the chip over all its links to other chips of the slice or machine
    # (as many arrive at the same time); 0 where it has none.
    link: float
    axes: int = 0  # of a slice: 2 or 3; 0 for a GPU


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 275e12, 31.25 * GIB, 1228e9, 300e9, 3),
        Chip("v5e", "tpu", 197e12, 15.75 * GIB, 819e9, 200e9, 2),
        Chip("v5p", "tpu", 459e12, 95.73 * GIB, 2765e9, 600e9, 3),
        Chip("v6e", "tpu", 918e12, 31.24 * GIB, 1638e9, 400e9, 2),
        Chip("a100", "gpu", 312e12, 80 * TEN9, 2039e9, 300e9),
        Chip("h100", "gpu", 989e12, 80 * TEN9, 3350e9, 450e9),
        Chip("h200", "gpu", 989e12, 141 * TEN9, 4800e9, 450e9),
    )
}
# Some that the compiler knows, by a slice's axes; any multiple of a host's 2 x 2 chips answers.
SHAPES = {
    3: ("2x2x1", "2x2x2", "2x2x4", "4x4x4"),
    2: ("1x1", "2x2", "2x4", "4x4", "8x8", "16x16"),
    0: ("1", "8"),
}
EXAMPLES = {name: SHAPES[chip.axes] for name, chip in CHIPS.items()}
LOCAL = "local"


@dataclass(frozen=True)
class Topology:
    """Devices by name: ``chip`` is None for "local", the devices of this machine."""

    name: str
    chip: Chip | None
    devices: int  # of all slices
    slices: int = 1

    @property
    def needs_libtpu(self) -> bool:
        return self.chip is not None and self.chip.platform == "tpu"


def parse_topology(name: str) -> Topology:
    """Reads "v5e:4x4", "2xv5e:4x4" (two such slices), "h100:8", "h100" for one, or "local"."""
    if name == LOCAL:
        return Topology(name, local_chip(), len(jax.devices()))
    several = re.match(r"([1-9]\d*)x(?=[a-z])", name)
    slices = int(several[1]) if several else 1
    kind, _, shape = name[several.end() if several else 0 :].partition(":")
    chip = CHIPS.get(kind)
    if chip is not None and chip.platform == "gpu":
        shape = shape or "1"
    if chip is None or not re.fullmatch(r"\d+(x\d+)*", shape):
        raise _unknown(name)
    sizes = [int(size) for size in shape.split("x")]
    if 0 in sizes or len(sizes) != max(1, chip.axes):
        raise _unknown(name)
    return Topology(name, chip, slices * math.prod(sizes), slices)


def local_chip() -> Chip | None:
    """The chip of this machine's devices; None for a CPU or a chip that the table lacks."""
    kind = jax.devices()[0].device_kind.lower()
    names = {"v5 lite": "v5e", "v6 lite": "v6e", "v5p": "v5p", "v5": "v5p"}
    for part, name in (*names.items(), *((name, name) for name in CHIPS)):
        if part in kind:
            return CHIPS[name]
    return None


def topology_mesh(topology: Topology, config: MeshConfig) -> Mesh:
    """The mesh a run on these devices would make, without the devices."""
    if config.slices != topology.slices and topology.name != LOCAL:
        raise GplanError(
            f"{topology.name} has {topology.slices} slices and mesh.slices is {config.slices}; set "
            f"mesh.slices={topology.slices} and mesh.data to a multiple of it, or name another "
            f"topology (2xv5e:4x4 is two slices of 4x4)."
        )
    return make_mesh(config, _tpu_devices(topology) if topology.needs_libtpu else None)


def _tpu_devices(topology: Topology) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise GplanError(
            f"Compiling for {topology.name} needs libtpu, which is not installed (no TPU is "
            "needed): pip install 'gplan-jax[tpu]'"
        )
    # Without this, libtpu asks a cloud machine's metadata server what it runs on, and waits.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # It only compiles, so it need not be the one process that holds the chips.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    # A v4 chip's two cores form one device, as they do in a job.
    slice_name = topology.name.removeprefix(f"{topology.slices}x")
    options: dict[str, Any] = {}
    if slice_name.startswith("v4:"):
        options["chip_config_name"] = "megacore"
    if topology.devices == 1:  # a host's share of a slice is four chips where nothing is said
        options["chips_per_host_bounds"] = [1, 1, 1]
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    with _quiet_stderr():
        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=slice_name, **options
            )
        except Exception as error:  # libtpu's own error type differs between versions
            said = str(error).splitlines()[0]
            if not said.startswith(("INVALID_ARGUMENT", "NOT_FOUND")):
                raise GplanError(f"libtpu can't describe {topology.name}: {said}") from None
            raise _unknown(topology.name, said) from None
    return list(description.devices)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """libtpu warns at length, straight to the process's stderr, that this machine has no TPU."""
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _unknown(name: str, reason: str = "") -> GplanError:
    lines = [
        f"  {chip:<5} " + " ".join(f"{chip}:{shape}" for shape in shapes)
        for chip, shapes in EXAMPLES.items()
    ]
    said = f" ({reason})" if reason else ""
    return GplanError(
        f"Unknown topology {name!r}{said}. These answer, among others:\n"
        + "\n".join(lines)
        + f"\n  {LOCAL}  the devices of this machine"
    )
