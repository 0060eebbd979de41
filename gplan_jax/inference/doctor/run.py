"""Runs the checks, those that need JAX in a process of their own: what aborts or hangs takes no
other check with it.

That process writes a line of JSON for each check that it starts and each finding, and is started
again, without what is done, where it ends early.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence

from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.inference.doctor.machine import Finding, instead_of, machine_checks

_CHILD = (sys.executable, "-m", "gplan_jax.inference.doctor.run")
_START, _DEVICES = "JAX", "devices"  # where these fail, the rest is checked on the CPU


def caught(name: str, check: Callable[[str], Finding]) -> Finding:
    """What a check finds, or the row that says how it failed."""
    try:
        return check(name)
    except Exception as error:
        said = str(error).strip().partition("\n")[0][:200]
        seen = f"{type(error).__name__}: {said}"
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
            return Finding(name, "absent", seen, "too little memory: end what else uses the device")
        mend = "install a driver and JAX that fit each other" + instead_of(name)
        return Finding(name, "wrong", seen, mend)


def examine(findings: list[Finding], check_seconds: float, command: Sequence[str] = _CHILD) -> None:
    """Adds the findings as they come, in the order of the checks; stderr shows the last one.

    No check takes longer than ``check_seconds``. ``command`` starts the process of the checks that
    need JAX; the names of those that are done are its arguments.
    """
    findings += [caught(name, check) for name, check in machine_checks().items()]
    done, environment = list[str](), dict(os.environ)

    def read(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        for line in child.stdout or ():
            lines.put(line)
        lines.put("")

    with ProgressBar("doctor", None) as bar:
        while True:
            # One process: the check that it came to last, and how it ended there if early.
            name, fault, lines = _START, None, queue.Queue[str]()
            with tempfile.TemporaryFile("w+", errors="replace") as said:
                child = subprocess.Popen(
                    [*command, *done], stdout=-1, stderr=said, text=True, env=environment
                )
                threading.Thread(target=read, args=(child, lines), daemon=True).start()
                try:
                    while line := lines.get(timeout=check_seconds):
                        # or a library's words
                        message = json.loads(line) if line.startswith("{") else {}
                        name = message.get("check", name)
                        if "finding" in message:
                            findings.append(Finding(**message["finding"]))
                            bar.advance(f"{name}: {findings[-1].state}")
                    if code := child.wait():
                        fault = f"the process ended with code {code}"
                except queue.Empty:
                    fault = f"no answer in {check_seconds:.0f} s"
                finally:
                    child.kill()
                    child.wait()
                said.seek(0)
                last = [text for text in said.read().splitlines() if text.strip()][-1:]
            done = [finding.check for finding in findings]
            if fault is None or name in done:  # All is done, or a second start fails as the first.
                return
            mend = "update driver and JAX, or choose others with JAX_PLATFORMS"
            findings.append(Finding(name, "wrong", ": ".join([fault, *last])[:240], mend))
            done.append(name)
            if name in (_START, _DEVICES):
                environment["JAX_PLATFORMS"] = "cpu"


def main(done: Sequence[str]) -> None:
    """The process of the checks: all but those that are done."""
    print(json.dumps({"check": _START}), flush=True)
    from gplan_jax.inference.doctor.devices import device_checks

    for name, check in device_checks().items():
        if name not in done:
            print(json.dumps({"check": name}), flush=True)
            # Without a backend this process ends, and another goes on with the CPU.
            finding = check(name) if name == _DEVICES else caught(name, check)
            print(json.dumps({"finding": dataclasses.asdict(finding)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
