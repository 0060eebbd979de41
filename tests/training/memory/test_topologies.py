"""Names of devices that are not here."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.training.hosts.mesh import MeshConfig
from gplan_jax.training.memory.topologies import CHIPS, EXAMPLES, parse_topology, topology_mesh


@pytest.mark.parametrize(
    ("name", "devices"), [("v5e:4x4", 16), ("v5p:2x2x4", 16), ("h100:8", 8), ("v6e:1x1", 1)]
)
def test_devices_of_a_name(name: str, devices: int) -> None:
    topology = parse_topology(name)
    assert topology.devices == devices
    assert topology.chip is CHIPS[name.partition(":")[0]]


def test_several_slices_of_a_name() -> None:
    topology = parse_topology("2xv5e:4x4")
    assert (topology.devices, topology.slices, topology.chip) == (32, 2, CHIPS["v5e"])
    assert parse_topology("v5e:4x4").slices == 1
    with pytest.raises(GplanError, match=r"2xv5e:4x4 has 2 slices and mesh\.slices is 1; set mesh"):
        topology_mesh(topology, MeshConfig())


@pytest.mark.parametrize(
    "name",
    [
        "0xv5e:4x4",
        "2x:4x4",
        "xv5e:4x4",
        "v5e",
        "v5e:",
        "v5e:4",
        "v5e:2x2x2",
        "v5p:4x4",
        "v5e:0x4",
        "b9:4",
    ],
)
def test_an_unknown_name_is_answered_with_those_that_answer(name: str) -> None:
    with pytest.raises(GplanError, match=r"Unknown topology.*(\n.*)*v5p:2x2x4"):
        parse_topology(name)


def test_every_example_is_read() -> None:
    for chip, shapes in EXAMPLES.items():
        for shape in shapes:
            assert parse_topology(f"{chip}:{shape}").chip is CHIPS[chip]


def test_without_libtpu_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def absent(name: str, *rest: Any) -> Any:
        return None if name == "libtpu" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(GplanError, match=r"pip install 'gplan-jax\[tpu\]'"):
        topology_mesh(parse_topology("v5e:4x4"), MeshConfig())


def test_this_machines_devices() -> None:
    topology = parse_topology("local")
    assert (topology.devices, topology.chip, topology.needs_libtpu) == (1, None, False)
