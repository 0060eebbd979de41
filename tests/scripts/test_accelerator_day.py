"""How the accelerator day shares out its time, with parts that fail, hang or are cut; no models."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import accelerator_day as day
import pytest
from accelerator_day import Part

ENVIRONMENT = {"PATH": os.environ["PATH"]}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import os, signal, sys, time\n{code}")


def ran(tmp_path: Path, budget: float, *parts: Part) -> list[dict[str, Any]]:
    results = day.run(parts, budget, tmp_path, ENVIRONMENT)
    files = sorted(tmp_path.glob("*.json"))
    assert [json.loads(file.read_text()) for file in files] == results
    return results


def fast(name: str, share: float = 1) -> Part:
    return Part(name, share, python(f"print('words'); print('{{\"{name}\": 1}}')"))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day, "FEWEST_SECONDS", 0.2)
    monkeypatch.setattr(day, "GRACE_SECONDS", 0.5)


def test_what_a_part_leaves_over_is_shared_out_by_those_that_follow(tmp_path: Path) -> None:
    results = ran(tmp_path, 100, fast("a", 3), fast("b", 1), fast("c", 1))
    assert [result["state"] for result in results] == ["done"] * 3
    assert [result["result"] for result in results] == [{"a": 1}, {"b": 1}, {"c": 1}]
    limits = [result["limit_s"] for result in results]
    assert limits[0] == pytest.approx(60, abs=1)
    assert limits[1] == pytest.approx(50, abs=10)  # not 20
    assert limits[2] == pytest.approx(100, abs=20)


def test_a_part_that_fails_takes_no_other_with_it(tmp_path: Path) -> None:
    fails = Part("fails", 1, python("print('half'); sys.exit('RESOURCE_EXHAUSTED: no memory')"))
    gone = Part("gone", 1, ("/no/such/program",))
    results = ran(tmp_path, 60, fails, gone, fast("c"))
    assert [result["state"] for result in results] == ["failed", "failed", "done"]
    assert results[0]["code"] == 1 and results[0]["result"] == {"text": "half"}
    assert "no memory" in results[0]["error"] and "/no/such/program" in results[1]["error"]
    table = (tmp_path / "table.md").read_text()
    assert "| fails | failed |" in table and "RESOURCE_EXHAUSTED: no memory |" in table


@pytest.mark.parametrize("session", ["", "os.setsid() or "], ids=["same", "own session"])
def test_a_part_that_hangs_is_ended_with_all_that_it_started(session: str, tmp_path: Path) -> None:
    child = tmp_path / "child"
    hangs = Part(
        "hangs",
        1,
        python(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('{\"early\": 1}', flush=True)\n"
            f"if not os.fork(): {session}open({str(child)!r}, 'w').write(str(os.getpid()))\n"
            "time.sleep(60)"
        ),
    )
    started = time.monotonic()
    results = ran(tmp_path, 4, hangs, fast("after"))
    assert time.monotonic() - started < 5
    assert [result["state"] for result in results] == ["cut", "done"]
    assert results[0]["result"] == {"early": 1}  # what it had said until then
    for _ in range(50):
        if not Path(f"/proc/{child.read_text()}").exists():
            return
        time.sleep(0.1)
    assert "Z" in Path(f"/proc/{child.read_text()}/stat").read_text().split()[2]


def test_no_part_starts_without_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day, "FEWEST_SECONDS", 1.5)
    results = ran(tmp_path, 3, Part("long", 9, python("time.sleep(60)")), fast("late"))
    assert [result["state"] for result in results] == ["cut", "skipped"]
    assert results[1]["error"] == "no time was left"


def test_results_are_there_as_they_come(tmp_path: Path) -> None:
    look = python(f"print(sorted(os.listdir({str(tmp_path)!r})))")
    results = ran(tmp_path, 60, fast("a"), Part("look", 1, look))
    assert "'01_a.json'" in results[1]["result"]["text"] and "table.md" in str(results[1])


@pytest.mark.parametrize(
    ("text", "seconds"), [("9m", 540), ("540", 540), ("540s", 540), ("1.5h", 5400)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert day.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "0m", "-3m", "9 minutes"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="9m, for example"):
        day.seconds_of(text)


def test_what_is_too_long_is_cut(tmp_path: Path) -> None:
    part = Part("chatty", 1, python("print('x' * 10**6)"))
    (result,) = ran(tmp_path, 60, part)
    assert len(result["result"]["text"]) == day.MOST_TEXT


def test_the_table_reads_the_figures_of_the_parts(tmp_path: Path) -> None:
    """Of results as the benchmarks print them; the roofline is that of the measured copy."""
    parts = {part.name: part for part in day.parts_of("full", tmp_path)}
    rows = [
        {"check": "devices", "state": "ok", "seen": "1 x NVIDIA H200 (gpu), 139.0 GiB each"},
        {"check": "copy", "state": "ok", "seen": "3.44e+03 GB/s, 72% of 4800"},
        {"check": "head bf16", "state": "wrong", "seen": "error 1e+00 of 1e-02"},
    ]
    layout = {"tokens_per_second": 4e4, "utilisation_needed": 0.46, "peak_gib": 70.5}
    train = {
        "kernel": "cudnn",
        "peak_tflops": 700.0,
        "layouts": {"prefix_tree": layout},
        "speed_ratios": {"prefix_tree / torch_padded": {"median": 2.6, "range": [2.5, 2.7]}},
    }
    way = {"ms_per_plan": 50.0, "passes": 25, "tokens": 60, "admissible": 1.0}
    decode = {"shape": "qwen3-1.7b", "forms": {"latent": {"ways": {"drafted": way}}}}
    found = {
        "doctor": {"rows": rows},
        "train_qwen3-1.7b": train,
        "decode_qwen3-1.7b": decode,
        "serve_qwen3-1.7b_10qps": {
            "steady": {"answered": 118, "requests": 120, "latency_ms": {"p50": 61.2, "p99": 140.0}}
        },
        "memory": {"text": "source  compiled\n\n  peak   68.2 GiB\nfits: yes"},
    }
    results = [
        {"part": name, "state": "done", "seconds": 60.0, "result": result}
        for name, result in found.items()
    ]
    table = day.table([parts[name] for name in found], results)
    assert "prefix_tree 40,000 tokens/s, useful MFU 46.0%, 70.5 GiB" in table
    assert "prefix_tree / torch_padded 2.6" in table
    # 2 ms a pass, of 2 bytes * 1.72e9 / 3.44e12 = 1 ms.
    assert "50.0 ms, 25 passes, 2.00 times the 1.00 ms of reading the weights" in table
    assert "118 of 120 answered; p50 61.2 ms; p99 140.0 ms" in table
    assert "peak 68.2 GiB; fits: yes" in table and "{'prefix_tree': 70.5} GiB" in table
    assert "wrong: head bf16" in table and "1 x NVIDIA H200" in table


@pytest.mark.parametrize("shapes", ["full", "tiny"])
def test_every_part_calls_what_is_there(shapes: str, tmp_path: Path) -> None:
    parts = day.parts_of(shapes, tmp_path)
    assert parts[0].name == "doctor" and len({part.name for part in parts}) == len(parts)
    for part in parts:
        assert part.command[0] == sys.executable
        if part.command[1].endswith(".py"):
            assert Path(part.command[1]).is_file()
