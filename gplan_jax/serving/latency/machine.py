"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gplan_jax


def machine() -> dict[str, Any]:
    """What a measurement runs on: processor, accelerator, versions, and how busy it was before."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "accelerator": _accelerator(),
        "load_before": round(os.getloadavg()[0], 2),
        "gplan_jax": gplan_jax.__version__,
        "jax": _version("jax"),
        "python": platform.python_version(),
    }


def describe_machine(ran_on: Mapping[str, Any]) -> str:
    """``machine`` in one line."""
    accelerator = ran_on["accelerator"] or "no GPU"
    return (
        f"Server and load generator on {ran_on['cpu']}, {ran_on['cores']} cores, {accelerator}; "
        f"load average before: {ran_on['load_before']}; gplan-jax {ran_on['gplan_jax']}, "
        f"JAX {ran_on['jax']}, Python {ran_on['python']}."
    )


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerator() -> str | None:
    """Names of the NVIDIA GPUs; asked of the driver, since JAX would take the memory."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        names = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        return ", ".join(names.split("\n")).strip(", ") or None
    return None


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None
