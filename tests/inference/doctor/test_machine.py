"""What is said of machines that lack something."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.inference.doctor import machine
from gplan_jax.inference.doctor.machine import machine_checks

HUGE = "sys/kernel/mm/transparent_hugepage/enabled"
MEMORY = "MemTotal:       {} kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n"


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def check(name: str, root: Path = Path("/")) -> Any:
    return machine_checks(root)[name](name)


@dataclasses.dataclass
class Installed:
    name: str
    version: str


@pytest.mark.parametrize(
    ("plugin", "state"), [("0.10.2", "ok"), ("0.10.2.post1", "ok"), ("0.9.0", "wrong")]
)
def test_a_plugin_of_another_jax(plugin: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"jax": "0.10.3", "jaxlib": "0.10.2", "jax-cuda13-plugin": plugin}
    monkeypatch.setattr(machine, "distributions", lambda: [Installed(*f) for f in found.items()])
    finding = check("versions")
    assert finding.state == state and f"jax-cuda13-plugin {plugin}" in finding.seen
    assert ("pip install jax-cuda13-plugin==0.10.2" in finding.mend) == (state == "wrong")


def test_a_cache_that_is_kept_off_or_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "made" / "here"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(place))
    assert check("compilation cache").state == "ok" and place.is_dir()
    file = tmp_path / "file"
    file.touch()
    for bad in (file / "below", "/proc/no-folder-here", ""):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(bad))
        finding = check("compilation cache")
        assert finding.state == "slow" and "every start compiles again" in finding.mend
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/cache")
    assert check("compilation cache").state == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    finding = check("compilation cache")
    assert finding.state == "slow" and "Permission denied" in finding.seen


@pytest.mark.parametrize(
    ("kind", "tunables", "state"),
    [
        ("[always] madvise never", "", "ok"),
        ("always [madvise] never", "glibc.malloc.hugetlb=1", "ok"),
        ("always [madvise] never", "", "slow"),
        ("always madvise [never]", "glibc.malloc.hugetlb=1", "slow"),
    ],
)
def test_huge_pages(
    kind: str, tunables: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, HUGE, kind)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    finding = check("huge pages", tmp_path)
    assert finding.state == state
    assert ("as root" in finding.mend) == ("[never]" in kind)


def test_memory_is_that_of_the_container(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", MEMORY.format(2**26, 2**25))  # 64 and 32 GiB
    assert check("host memory", tmp_path).seen == "32.0 GiB free of 64.0"
    put(tmp_path, "sys/fs/cgroup/memory.max", f"{8 * 2**30}\n")
    put(tmp_path, "sys/fs/cgroup/memory.current", f"{5 * 2**30}\n")
    finding = check("host memory", tmp_path)
    assert (finding.state, finding.seen) == ("slow", "3.0 GiB free of 8.0")
    put(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert check("host memory", tmp_path).state == "ok"


def test_what_is_not_mounted_is_absent(tmp_path: Path) -> None:
    for name in ("/dev/shm", "huge pages"):
        assert check(name, tmp_path).state == "absent"


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("NCCL_P2P_DISABLE", "1", "unset NCCL_P2P_DISABLE: GPUs then talk through host memory"),
        ("NCCL_P2P_DISABLE", "0", ""),
        ("NCCL_DEBUG", "INFO", ""),
        ("XLA_FLAGS", "--xla_backend_optimization_level=0", "out of XLA_FLAGS"),
    ],
)
def test_variables(name: str, value: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv(name, value)
    finding = check("variables")
    assert f"{name}={value}" in finding.seen
    assert mend in finding.mend and finding.state == ("slow" if mend else "ok")
