"""A process of checks that aborts, hangs or has no devices: a table is made all the same."""

from __future__ import annotations

import json
import sys

import pytest

from gplan_jax.inference.doctor import run
from gplan_jax.inference.doctor.machine import Finding, describe

CHECKS = ("devices", "product", "kernel", "last")
# Starts each check that isn't done, and does at one of them what a broken machine does.
CHILD = """
import json, os, signal, sys, time
checks, at, what = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
print(json.dumps({"check": "JAX"}), flush=True)
print("a library's own words", flush=True)
for name in checks:
    if name in sys.argv[4:]:
        continue
    print(json.dumps({"check": name}), flush=True)
    if name == at:
        print("the driver is too old", file=sys.stderr, flush=True)
        exec(what)
    seen = os.environ.get("JAX_PLATFORMS", "")
    finding = {"check": name, "state": "ok", "seen": seen, "mend": ""}
    print(json.dumps({"finding": finding}), flush=True)
"""


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "machine_checks", dict)
    monkeypatch.setenv("JAX_PLATFORMS", "")


def examined(at: str, what: str, seconds: float = 60) -> dict[str, Finding]:
    command = (sys.executable, "-c", CHILD, json.dumps(CHECKS), at, what)
    found: list[Finding] = []
    run.examine(found, seconds, command)
    assert len({finding.check for finding in found}) == len(found)
    return {finding.check: finding for finding in found}


def test_all_is_well() -> None:
    assert [finding.state for finding in examined("", "").values()] == ["ok"] * 4


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("os.abort()", "ended with code -6: the driver is too old"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with code -11"),
        ("sys.exit(3)", "ended with code 3"),
        ("raise ValueError('broken')", "ended with code 1: ValueError: broken"),
        ("time.sleep(60)", "no answer in 2 s: the driver is too old"),
    ],
)
def test_a_check_that_ends_its_process_takes_no_other_with_it(what: str, seen: str) -> None:
    found = examined("kernel", what, seconds=2 if "sleep" in what else 60)
    assert {name: finding.state for name, finding in found.items()} == {
        "devices": "ok",
        "product": "ok",
        "kernel": "wrong",
        "last": "ok",
    }
    assert seen in found["kernel"].seen and found["last"].seen == ""


def test_without_devices_the_rest_is_checked_on_the_cpu() -> None:
    found = examined("devices", "if not os.environ['JAX_PLATFORMS']: os.abort()")
    assert found["devices"].state == "wrong" and "too old" in found["devices"].seen
    assert {found[name].seen for name in CHECKS[1:]} == {"cpu"}


@pytest.mark.parametrize("command", ["sys.exit('no module named jax')", "os.abort()"])
def test_where_jax_itself_does_not_start_the_table_says_so(command: str) -> None:
    found: list[Finding] = []
    run.examine(found, 60, (sys.executable, "-c", f"import os, sys\n{command}"))
    assert [(finding.check, finding.state) for finding in found] == [("JAX", "wrong")]


def test_a_backend_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks themselves, asked for devices that no plugin brings."""
    from gplan_jax.inference.doctor.devices import device_checks

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    left_out = [name for name in device_checks() if name not in ("devices", "embedding fp32")]
    found: list[Finding] = []
    run.examine(found, 120, (*run._CHILD, *left_out))
    assert [(f.check, f.state) for f in found] == [
        ("devices", "wrong"),
        ("embedding fp32", "ok"),
    ]
    assert "ended with code 1" in found[0].seen and "JAX_PLATFORMS" in found[0].mend


def test_what_a_check_raises_is_its_finding() -> None:
    def fails(name: str) -> Finding:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    finding = run.caught("host memory", fails)
    assert finding.state == "wrong" and "/proc/meminfo" in finding.seen


def test_the_table_fits_a_terminal() -> None:
    long = " ".join(["word"] * 60)
    found = [
        Finding("prefix tree merge bf16", "wrong", long, long),
        Finding("copy", "ok", "1 GB/s"),
    ]
    text = describe(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "copy                   ok     1 GB/s" in text
    assert text.endswith("\n\n1 ok, 1 wrong")
