"""Devices that JAX does not use, rates beside data sheets, collectives over eight devices."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from gplan_jax.inference.doctor import devices
from gplan_jax.training.memory.topologies import CHIPS


def here(monkeypatch: pytest.MonkeyPatch, count: int, platform: str) -> None:
    device = SimpleNamespace(
        platform=platform, device_kind="NVIDIA H100", memory_stats=lambda: {"bytes_limit": 2**36}
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * count)


@pytest.mark.parametrize(
    ("count", "platform", "files", "state", "mend"),
    [
        (8, "gpu", [f"nvidia{n}" for n in range(8)], "ok", ""),
        (4, "gpu", [f"nvidia{n}" for n in range(8)], "wrong", "JAX has 4 of 8 GPUs"),
        (1, "cpu", ["nvidia0", "nvidiactl"], "wrong", "none of 1 accelerators.*gplan-jax.cuda"),
        (1, "cpu", ["accel0", "accel1"], "wrong", "none of 2 accelerators.*gplan-jax.tpu"),
        (1, "cpu", ["nvidiactl"], "absent", "no accelerator"),
    ],
)
def test_devices_that_are_there_and_not_used(
    count: int,
    platform: str,
    files: list[str],
    state: str,
    mend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    here(monkeypatch, count, platform)
    for name in files:
        (tmp_path / name).touch()
    finding = devices.devices("devices", tmp_path)
    assert finding.state == state and f"{count} x NVIDIA H100" in finding.seen
    assert "64.0 GiB each" in finding.seen
    assert re.search(mend, finding.mend)
    if state == "wrong" and platform == "gpu":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # as was asked for
        assert devices.devices("devices", tmp_path).state == "ok"


@pytest.mark.parametrize(("rate", "state"), [(900e12, "ok"), (100e12, "slow")])
def test_a_rate_far_below_the_data_sheet_is_slow(
    rate: float, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "local_chip", lambda: CHIPS["h100"])
    monkeypatch.setattr(devices, "measured_peak", lambda dtype: rate)
    finding = devices.device_checks()["product bf16"]("product bf16")
    assert finding.state == state
    assert finding.seen == f"{rate / 1e12:.0f} TFLOP/s a device, {rate / 989e12:.0%} of 989"
    # No sheet has a figure for float32 products.
    assert devices.device_checks()["product fp32"]("product fp32").state == "ok"


EIGHT = """
import dataclasses, json
from gplan_jax.inference.doctor import devices
checks, found = devices.device_checks(), []
names = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "embedding fp32", "head fp32")
for name in names:
    found.append(dataclasses.asdict(checks[name](name)))
jax = devices.jax
whole = jax.lax.psum
devices._COLLECTIVES["all-reduce"] = (lambda x, n: whole(x[0] * x, "all"), 2)
real = jax.vmap
devices.jax.vmap = lambda call, **axis: real(lambda x: 2 * call(x), **axis)
found.append(dataclasses.asdict(devices._collective("all-reduce")))
print(json.dumps(found))
"""


def test_eight_devices() -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *right, broken = json.loads(done.stdout.splitlines()[-1])
    assert [finding["state"] for finding in right] == ["ok"] * 6
    assert all("exact over 8 devices" in finding["seen"] for finding in right[:4])
    assert broken["state"] == "wrong" and "over 8 devices" in broken["seen"]
