"""How fast the data factory is, and whether its memory stays flat.

    python scripts/bench_synthesize.py --rows 10000 --at-once 64 --latency-s 1 --world-rows 100000

chat   `gplan synthesize` over simulated contexts against the scripted chat server, so many requests
       at once: rows and requests a second, their ratio to what the server can do at most
       (at-once / latency), how many requests the server had at once at most and how much of its
       room was in use (its own timeline).
world  `gplan synthesize --rows` with the simulated world and its erring teacher.

Prints one line of JSON. Memory is the process's peak (VmHWM) after a quarter of its time and at
its end. Chat server, factory and this script share the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from gplan_jax.foundation.files import read_json
from gplan_jax.gsisr import write_samples
from gplan_jax.serving.latency.latency_report import machine
from gplan_jax.synthesis.world.simulation import simulate_contexts

SAMPLE_S = 0.25
REHEARSAL = "rehearsal_teacher:reply"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=10_000, help="contexts for the chat teacher; 0 leaves it out")
    add("--at-once", type=int, default=64)
    add("--latency-s", type=float, default=1.0, help="of the scripted server")
    add("--world-rows", type=int, default=100_000, help="rows of the world; 0 leaves it out")
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        if options.rows:
            figures["chat"] = chat(Path(folder), options)
        if options.world_rows:
            out = Path(folder) / "world.csv"
            command = ["--service", "amap", "--rows", str(options.world_rows), "--out", str(out)]
            figures["world"] = synthesize([*command, "--test-fraction", "0.1"], out)
    print(json.dumps(figures, ensure_ascii=False))


def chat(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a run against a scripted server."""
    data, out = folder / "contexts.csv", folder / "rows.csv"
    write_samples(data, simulate_contexts(1, count=options.rows))
    script = folder / "script.json"
    script.write_text(json.dumps({"latency_s": options.latency_s}), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("scripted_server.py")), "--until-eof"]
    command += ["--script", str(script), "--responder", REHEARSAL]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        teacher = folder / "teacher.yaml"
        values = {"base_url": url, "model": "scripted", "concurrency": options.at_once}
        teacher.write_text(json.dumps({"server": values}), encoding="utf-8")
        arguments = ["--data", str(data), "--out", str(out), "--teacher", str(teacher)]
        figures = synthesize([*arguments, "--test-fraction", "0.1"], out)
        with urllib.request.urlopen(url.removesuffix("/v1") + "/log") as answer:
            log = json.load(answer)
    finally:
        server.stdin.close()
        server.wait(timeout=30)
    return figures | served(log, options.at_once, options.latency_s)


def served(log: dict[str, Any], at_once: int, latency_s: float) -> dict[str, Any]:
    """What the server says: its counts, and its timeline of the latest requests.

    The timeline's entries are [seconds, request's key, "asked" or a status].
    """
    asked: dict[str, float] = {}
    busy_s, answered = 0.0, 0
    for moment, key, what in log["timeline"]:
        if what == "asked":
            asked[key] = moment
        elif key in asked:
            busy_s += moment - asked.pop(key)
            answered += 1
    span_s = log["timeline"][-1][0] - log["timeline"][0][0]
    return {
        "requests": log["statuses"]["200"],
        "paid_twice": sum(count > 1 for count in log["paid"].values()),
        "most_at_once": log["most_at_once"],
        "timeline_s": round(span_s, 1),
        "requests_per_s": round(answered / span_s, 2),
        "of_the_servers_most": round(answered / span_s / (at_once / latency_s), 3),
        "servers_busy_share": round(busy_s / (span_s * at_once), 3),
    }


def synthesize(arguments: list[str], out: Path) -> dict[str, Any]:
    """Runs the command; its time, rows and memory."""
    command = [sys.executable, "-m", "gplan_jax.cli.main", "synthesize", *arguments]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    samples: list[tuple[float, float]] = []
    while process.poll() is None:
        samples.append((time.monotonic() - start, _peak_mib(process.pid)))
        time.sleep(SAMPLE_S)
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"gplan synthesize ended with {process.returncode}")
    rows = read_json(out.with_name(f"{out.stem}.report.json"))["rows"]
    peaks = [mib for _, mib in samples if mib]
    quarter = next(mib for after, mib in samples if after >= seconds / 4)
    return {
        "seconds": round(seconds, 1),
        "rows": rows,
        "rows_per_s": round(rows["read"] / seconds, 1),
        "peak_mib_at_a_quarter": quarter,
        "peak_mib": max(peaks),
        "written_mib": round(sum(os.path.getsize(p) for p in out.parent.glob("*")) / 2**20, 1),
    }


def _peak_mib(process: int) -> float:
    """The most memory that the process has held so far; 0 where it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return round(int(lines[0].split()[1]) / 1024, 1) if lines else 0.0


if __name__ == "__main__":
    main()
