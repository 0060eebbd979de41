from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gplan_jax.foundation.compilation_cache import keep_compiled_programs

PROGRAM = """
from gplan_jax.foundation.compilation_cache import keep_compiled_programs
keep_compiled_programs()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


def run(**environment: str) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=kept | environment)


def programs(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*-cache")}


def test_programs_are_kept_under_the_users_cache(tmp_path: Path) -> None:
    run(XDG_CACHE_HOME=str(tmp_path))
    first = programs(tmp_path / "gplan" / "compiled")
    assert first
    # What a killed process left of another program would keep JAX from keeping any more.
    [kind] = (tmp_path / "gplan" / "compiled").iterdir()
    (kind / "jit_half-0-cache").write_bytes(b"")
    (kind / min(first)).unlink()
    run(XDG_CACHE_HOME=str(tmp_path))
    assert programs(tmp_path / "gplan" / "compiled") == first


def test_jax_own_variables_win(tmp_path: Path) -> None:
    elsewhere, off = tmp_path / "elsewhere", tmp_path / "off"
    run(XDG_CACHE_HOME=str(tmp_path / "cache"), JAX_COMPILATION_CACHE_DIR=str(elsewhere))
    run(XDG_CACHE_HOME=str(off), JAX_ENABLE_COMPILATION_CACHE="false")
    assert programs(elsewhere)
    assert not programs(tmp_path / "cache") and not programs(off)


@pytest.mark.parametrize("given", ["/big/compiled", "gs://bucket/compiled/"])
def test_hosts_of_other_instructions_share_no_program(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike clock rates and the number of cores, which differ between runs."""

    def folder(cores: str, given: str = given) -> str:
        (tmp_path / "cpuinfo").write_text(cores)
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        keep_compiled_programs(tmp_path / "cpuinfo")
        return os.environ["JAX_COMPILATION_CACHE_DIR"]

    wide = "cpu MHz : 2100.5\nflags : fpu avx2 avx512f\n"
    one = folder(wide)
    assert one.startswith(given.rstrip("/") + "/cpu-")
    assert folder(wide.replace("2100", "1800") * 2) == one
    assert folder(wide, given=one) == one
    others = {folder(text) for text in ("flags : fpu avx2\n", "Features : fp asimd\n", "")}
    assert len(others | {one}) == 4
    assert folder(wide, given="") == ""
