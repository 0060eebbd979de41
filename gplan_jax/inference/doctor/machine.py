"""What can be seen of a machine without JAX: versions, memory, limits, variables; what a finding
is, and the table of them.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal, get_args

from gplan_jax import __version__

State = Literal["ok", "slow", "wrong", "absent"]
GIB = 2**30
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "libtpu")
# Variables that cost a run its speed.
_SLOW = {
    "NCCL_P2P_DISABLE": "GPUs then talk through host memory",
    "NCCL_SHM_DISABLE": "GPUs of one host then talk through the network",
    "NCCL_IB_DISABLE": "hosts then talk over Ethernet",
    "JAX_DISABLE_JIT": "nothing is compiled",
    "JAX_DEBUG_NANS": "every result is looked at",
}


@dataclass(frozen=True)
class Finding:
    """One row: "slow" costs time, "wrong" gives wrong results or none, "absent" isn't here."""

    check: str
    state: State
    seen: str
    mend: str = ""  # what to do where the state is not ok


def instead_of(name: str) -> str:
    """What a run does without a check's kernel, where it has another."""
    other = name.startswith(("attention cudnn", "attention splash"))
    return "; until then runs take xla (precision.attention=auto)" if other else ""


def describe(findings: Sequence[Finding]) -> str:
    """A row a check, then the mends and how many there are of each state; 80 characters a line."""
    rows, mends = [], [""]
    wrap = partial(textwrap.fill, width=80, break_on_hyphens=False)
    for one in findings:
        start = f"{one.check:<22} {one.state:<6} "
        rows.append(wrap(start + one.seen, subsequent_indent=" " * len(start)))
        if one.mend:
            mends.append(wrap(f"{one.state}: {one.check}: {one.mend}", subsequent_indent="  "))
    counts = Counter(one.state for one in findings)
    total = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    return "\n".join([*rows, *mends, "", total])


def machine_checks(root: Path = Path("/")) -> dict[str, Callable[[str], Finding]]:
    """name -> check of that name; ``root`` is where /proc, /sys and /dev lie."""
    return {
        "versions": versions,
        "compilation cache": compilation_cache,
        "huge pages": lambda name: huge_pages(name, root),
        "host memory": lambda name: host_memory(name, root),
        "descriptors": descriptors,
        "/dev/shm": lambda name: shared_memory(name, root / "dev/shm"),
        "variables": variables,
    }


def versions(name: str) -> Finding:
    """What is installed; jax's plugins must be of jaxlib's version."""
    found = {d.name.lower(): d.version for d in distributions() if d.name}
    plugins = sorted(n for n in found if n.startswith(("jax-cuda", "jax-rocm")))
    shown = ", ".join(f"{n} {found[n]}" for n in (*_PACKAGES, *plugins) if n in found)
    seen = f"gplan {__version__}, Python {platform.python_version()}, {shown}"
    core = found.get("jaxlib", "")
    others = [f"{n}=={core}" for n in plugins if found[n].partition(".post")[0] != core]
    if not others:
        return Finding(name, "ok", seen)
    mend = f"a plugin must be of jaxlib's version: pip install {' '.join(others)}"
    return Finding(name, "wrong", seen, mend)


def compilation_cache(name: str) -> Finding:
    """Whether compiled programs are kept, in a folder that can be written."""
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    mend = "every start compiles again; set JAX_COMPILATION_CACHE_DIR to a folder of yours"
    if not place or os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("false", "0"):
        return Finding(name, "slow", "turned off", mend)
    if "://" in place:
        return Finding(name, "ok", place)
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return Finding(name, "ok", f"{len(os.listdir(place))} files in {place}")
    except OSError as error:
        return Finding(name, "slow", f"{place}: {error.strerror}", mend)


def huge_pages(name: str, root: Path) -> Finding:
    """Whether fresh memory comes in pages of 2 MiB (docs/benchmarks.md has what that saves)."""
    path = root / "sys/kernel/mm/transparent_hugepage/enabled"
    if not path.is_file():
        return Finding(name, "absent", "not known to this system")
    kind = path.read_text().partition("[")[2].partition("]")[0]
    asked = "glibc.malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    seen = f"{kind}, {'asked for' if asked else 'not asked for'} by GLIBC_TUNABLES"
    if kind == "always" or (kind == "madvise" and asked):
        return Finding(name, "ok", seen)
    mend = "steps on a CPU spend time in page faults; export GLIBC_TUNABLES=glibc.malloc.hugetlb=1"
    if kind == "never":
        mend += f", and as root: echo madvise > {path}"
    return Finding(name, "slow", seen, mend)


def host_memory(name: str, root: Path) -> Finding:
    """Memory that is free for this process, also by its container's limit."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    kib = {key: int(rest.split()[0]) for key, _, rest in (line.partition(":") for line in lines)}
    free, total = kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    limit = root / "sys/fs/cgroup/memory.max"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        used = int(limit.with_name("memory.current").read_text())
        free, total = min(free, int(text) - used), min(total, int(text))
    seen = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
    mend = "loading or saving a 1.7B model takes some 4 GiB; end other programs"
    return Finding(name, "slow", seen, mend) if free < 4 * GIB else Finding(name, "ok", seen)


def descriptors(name: str) -> Finding:
    """Files and sockets that a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen, mend = f"{soft} open files a process", f"for a server of many clients: ulimit -n {hard}"
    few = soft != resource.RLIM_INFINITY and soft < 4096
    return Finding(name, "slow", seen, mend) if few else Finding(name, "ok", seen)


def shared_memory(name: str, place: Path) -> Finding:
    """/dev/shm, through which NCCL and reader processes of one host talk."""
    mend = "NCCL and data.workers may fail; give the container --shm-size=8g"
    if not place.is_dir():
        return Finding(name, "absent", "not mounted", mend)
    usage = shutil.disk_usage(place)
    seen = f"{usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f}"
    return Finding(name, "slow", seen, mend) if usage.free < GIB else Finding(name, "ok", seen)


def variables(name: str) -> Finding:
    """What is set for NCCL, JAX and XLA, and which of it costs speed."""
    known = ("NCCL_", "XLA_", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", *_SLOW)
    shown = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(known)]
    given = {key: os.environ.get(key, "").lower() not in ("", "0", "false") for key in _SLOW}
    slow = [f"unset {key}: {_SLOW[key]}" for key in _SLOW if given[key]]
    if "--xla_backend_optimization_level=0" in os.environ.get("XLA_FLAGS", ""):
        slow.append("take --xla_backend_optimization_level=0 out of XLA_FLAGS")
    seen = " ".join(shown) or "none of NCCL's or XLA's are set"
    return Finding(name, "slow" if slow else "ok", seen, "; ".join(slow))
