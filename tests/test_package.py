"""The wheel as somebody installs it: what it holds, and that it works without the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")


# Every Python that is started in a folder on PYTHONPATH with this file ends where it would connect
# to anything but this machine.
GUARD = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else ""
    elif event == "socket.getaddrinfo":
        host = arguments[0] or ""
    else:
        return
    if host not in ("", "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        print("PHONED HOME", event, arguments, file=sys.stderr, flush=True)
        os._exit(99)

sys.addaudithook(watch)
"""


def run(*command: str | Path, cwd: Path, guard: Path | None = None) -> str:
    """Runs it as a newcomer's shell would, without this checkout on the path."""
    ours = ("PYTHONPATH", "HF_HUB_OFFLINE")
    inherited = {k: v for k, v in os.environ.items() if k not in ours}
    inherited |= {"PYTHONPATH": str(guard)} if guard else {}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=inherited)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the sdist, so that either lacking a file is noticed."""
    out, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=REPOSITORY, text=True)
    for name in files.rstrip("\0").split("\0"):
        if (REPOSITORY / name).is_file():  # What git does not know is no part of a release.
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, source / name)
    code = f"import setuptools.build_meta as b; print(b.build_sdist({str(out)!r}))"
    run(sys.executable, "-m", "venv", out / "env", cwd=out)
    run(out / "env/bin/pip", "install", "-q", "setuptools>=77", cwd=out)
    sdist = out / run(out / "env/bin/python", "-c", code, cwd=source).split()[-1]
    run(out / "env/bin/pip", "wheel", "-q", "--no-deps", "--wheel-dir", out, sdist, cwd=out)
    [made] = out.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_every_data_file_of_the_package(wheel: Path) -> None:
    files = subprocess.check_output(["git", "ls-files", "gplan_jax"], cwd=REPOSITORY, text=True)
    held = set(zipfile.ZipFile(wheel).namelist())
    assert set(files.split()) <= held, set(files.split()) - held
    assert not [name for name in held if not name.startswith("gplan_jax")]


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_a_newcomer_installs_it_and_runs_the_quickstart(
    wheel: Path, tmp_path: Path, version: str
) -> None:
    """In an empty directory, with the newest dependencies: about ten minutes a version.

    The quickstart asks nobody for anything: a guard ends it where it opens a connection.
    """
    homes = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    python = str(homes[-1]) if homes else shutil.which(f"python{version}")
    if not python:
        pytest.skip(f"Python {version} is not installed here")
    run(python, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    run(tmp_path / "env/bin/pip", "install", "-q", wheel, cwd=tmp_path)
    gplan, here = tmp_path / "env/bin/gplan", tmp_path / "empty"
    here.mkdir()
    assert f"Python {version}" in run(gplan, "--version", cwd=here)
    assert "picd_qwen3_1_7b" in run(gplan, "config", "list", cwd=here)
    guard = tmp_path / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD)
    caught = subprocess.run(
        [tmp_path / "env/bin/python", "-c", "import socket; socket.getaddrinfo('example.org', 80)"],
        env={"PYTHONPATH": str(guard)},
    )
    assert caught.returncode == 99  # The guard guards.
    said = run(gplan, "quickstart", "--rows", "60", cwd=here, guard=guard)
    assert re.search(r"Try: gplan plan .*scdpo/model", said)
    model, rows = here / "runs/quickstart/scdpo/model", here / "runs/quickstart/data/test.csv"
    plan = run(gplan, "plan", "--model", model, "--data", rows, "--row", "1", cwd=here)
    assert "tool" in plan
    run(tmp_path / "env/bin/pip", "uninstall", "-q", "-y", "gplan-jax", cwd=here)
    assert not gplan.exists()
