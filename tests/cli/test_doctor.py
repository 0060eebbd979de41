"""`gplan doctor` from the outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.inference.doctor import run
from gplan_jax.inference.doctor.machine import Finding


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("slow", 0), ("absent", 0), ("wrong", 1)])
def test_only_what_is_wrong_fails(state: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Finding("copy", state, "1 GB/s", "mend it")  # type: ignore[arg-type]
    monkeypatch.setattr(run, "examine", lambda found, seconds: found.append(one))
    said = CliRunner().invoke(app, ["doctor"])
    assert said.exit_code == code
    assert f"{state}: copy: mend it" in said.stdout and "about a minute" in said.stderr
    said = CliRunner().invoke(app, ["doctor", "--json"])
    assert said.exit_code == code
    row = {"check": "copy", "state": state, "seen": "1 GB/s", "mend": "mend it"}
    assert json.loads(said.stdout) == [row]


def test_told_to_stop_it_shows_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(found: list[Finding], seconds: float) -> None:
        found.append(Finding("copy", "ok", "1 GB/s"))
        raise SystemExit(143)

    monkeypatch.setattr(run, "examine", stopped)
    said = CliRunner().invoke(app, ["doctor", "--json"])
    assert said.exit_code == 143
    assert [row["check"] for row in json.loads(said.stdout)] == ["copy"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
def test_this_machine(devices: int) -> None:
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "gplan_jax.cli.main", "doctor", "--json"],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    found = {row["check"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, found
    assert f"{devices} x cpu" in found["devices"]["seen"]
    kernels = ("attention xla", "prefix tree merge", "engine passes", "embedding", "head")
    for kernel in kernels:
        for dtype in ("bf16", "fp32"):
            assert found[f"{kernel} {dtype}"]["state"] == "ok"
    assert found["all-reduce"]["state"] == ("absent" if devices == 1 else "ok")
