"""What goes wrong on the way to a teacher changes no byte of the result, and no bill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.gsisr import IntentLibrary, read_samples, write_samples
from gplan_jax.synthesis.factory.synthesize import SynthesisSettings, synthesize
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.synthesis.factory.conftest import Rehearsal, Start

LIBRARY = IntentLibrary.load()
ROWS = 40


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_samples(tmp_path / "contexts.csv", simulate_rows(ROWS, seed=8))
    return tmp_path / "contexts.csv"


def _run(folder: Path, data: Path, teacher: Rehearsal, **options: Any) -> dict[str, Any]:
    """The report of a run into ``folder``."""
    folder.mkdir(exist_ok=True)
    wanted = SynthesisSettings(
        folder / "rows.csv", data=data, teacher=teacher.teacher, test_fraction=0.3, **options
    )
    synthesize(wanted, LIBRARY)
    report: dict[str, Any] = read_json(folder / "rows.report.json")
    return report


def _bytes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if "cache" not in p.name}


def _accounted_for(folder: Path, rows: int = ROWS) -> None:
    """Every row stands in one file exactly."""
    kept = [origin["row"] for origin in read_jsonl(folder / "rows.origin.jsonl")]
    removed = [line["row"] for line in read_jsonl(folder / "rows.removed.jsonl")]
    assert sorted(kept + removed) == list(range(1, rows + 1))
    files = [list(read_samples(folder / name)) for name in ("rows.csv", "rows_test.csv")]
    assert sum(map(len, files)) == len(kept)


def test_refusals_errors_and_cut_answers_change_no_byte_and_no_bill(
    tmp_path: Path, data: Path, rehearse: Start
) -> None:
    faults: list[dict[str, Any]] = [
        {"kind": "throttle", "share": 0.1, "retry_after": "1"},
        {"kind": "error", "share": 0.2, "times": 2, "status": 500},
        {"kind": "error", "share": 0.1, "status": 503},
        {"kind": "hang", "share": 0.05},
        {"kind": "drop", "share": 0.1},
        {"kind": "cut", "share": 0.1},
        {"kind": "truncate", "share": 0.1},
    ]
    calm = rehearse({})
    rough = rehearse({"faults": faults}, client={"timeout_s": 0.6, "attempts": 12})
    _run(tmp_path / "calm", data, calm)
    _run(tmp_path / "rough", data, rough)
    seen = rough.server.log()["statuses"]
    assert seen["429"] and seen["500"] and seen["503"]
    assert _bytes(tmp_path / "rough") == _bytes(tmp_path / "calm")
    assert rough.paid() == calm.paid() and set(rough.paid().values()) == {1}
    _accounted_for(tmp_path / "rough")


def test_broken_replies_are_removed_by_their_own_code_or_mended(
    tmp_path: Path, data: Path, rehearse: Start
) -> None:
    faults = [{"kind": kind, "share": 0.25} for kind in ("short", "wrong_schema", "twice")]
    strict = rehearse({"faults": faults}, repair=False)
    report = _run(tmp_path / "strict", data, strict)
    codes = report["removed"]["by_tier"]["format"]["codes"]
    assert {"truncated", "wrong_shape", "two_plans"} <= set(codes)
    _accounted_for(tmp_path / "strict")
    for line in read_jsonl(tmp_path / "strict" / "rows.removed.jsonl"):
        if line["code"] == "two_plans":
            assert line["raw"].count('"plan"') == 2
    mended = _run(tmp_path / "mended", data, rehearse({"faults": faults}))
    _accounted_for(tmp_path / "mended")
    assert mended["kept"]["repaired"] > 0
    # The first answers are those of the run without repair.
    share = mended["removed"]["share_by_filter_of_first_answers"]
    assert share == report["removed"]["share_by_filter"] > mended["removed"]["share_by_filter"]
    assert mended["rows"]["kept"] > report["rows"]["kept"]
    origins = list(read_jsonl(tmp_path / "mended" / "rows.origin.jsonl"))
    requests = Counter(len(origin["requests"]) for origin in origins)
    assert requests[2] == mended["kept"]["repaired"] and set(requests) == {1, 2}


def test_a_row_without_an_answer_is_asked_again_by_a_later_run_and_no_other_is(
    tmp_path: Path, data: Path, rehearse: Start
) -> None:
    broken = {"kind": "error", "share": 0.15, "times": None, "status": 500}
    ill = rehearse({"faults": [broken]}, client={"attempts": 2})
    well = rehearse({})
    cache = tmp_path / "answers.sqlite"
    first = _run(tmp_path / "out", data, ill, cache=cache)
    failed = [
        line
        for line in read_jsonl(tmp_path / "out" / "rows.removed.jsonl")
        if line["tier"] == "answer"
    ]
    assert first["removed"]["by_tier"]["answer"]["codes"] == {"no_answer": len(failed)}
    assert failed and all(line["raw"] == "" and line["messages"] for line in failed)
    _accounted_for(tmp_path / "out")
    _run(tmp_path / "out", data, well, cache=cache)
    undisturbed = rehearse({})
    _run(tmp_path / "undisturbed", data, undisturbed)
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "undisturbed")
    once = Counter(ill.paid()) + Counter(well.paid())
    assert {key: once[key] for key in undisturbed.paid()} == undisturbed.paid()
    assert not set(ill.paid()) & set(well.paid())


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_continued_without_paying_twice_and_ends_with_the_same_bytes(
    signal_number: int, tmp_path: Path, data: Path, rehearse: Start
) -> None:
    client = {"concurrency": 4}
    killed = rehearse({"latency_s": 0.05, "latency_spread": 0.5}, client=client)
    out = tmp_path / "killed"
    out.mkdir()
    command = [sys.executable, "-m", "gplan_jax.cli.main", "synthesize", "--data", str(data)]
    command += ["--out", str(out / "rows.csv"), "--teacher", killed.teacher]
    command += ["--test-fraction", "0.3"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(killed.paid()) < 12 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal_number)
    assert process.wait(timeout=30) != 0
    before = killed.paid()
    assert 12 <= len(before) < 40 and not (out / "rows.csv").exists()
    for left in out.glob(".rows*"):  # What a killed process could not clear away.
        left.unlink()
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    undisturbed = rehearse({}, client=client)
    _run(tmp_path / "undisturbed", data, undisturbed)
    assert _bytes(out) == _bytes(tmp_path / "undisturbed")
    assert killed.paid() == undisturbed.paid() and set(killed.paid().values()) == {1}
    _accounted_for(out)


def test_a_budget_stops_the_run_and_a_larger_one_goes_on_from_there(
    tmp_path: Path, data: Path, rehearse: Start
) -> None:
    teacher = rehearse({}, client={"concurrency": 2})
    with pytest.raises(GplanError, match="budget"):
        _run(tmp_path / "out", data, teacher, overrides=["server.budget=0.05"])
    assert not (tmp_path / "out" / "rows.csv").exists()
    paid = set(teacher.paid())
    assert 0 < len(paid) < ROWS
    _run(tmp_path / "out", data, teacher, overrides=["server.budget=100"])
    assert paid < set(teacher.paid()) and set(teacher.paid().values()) == {1}


def test_rows_of_the_world_are_asked_for_until_enough_are_kept(
    tmp_path: Path, rehearse: Start
) -> None:
    teacher = rehearse({})
    wanted = SynthesisSettings(tmp_path / "rows.csv", rows=30, seed=3, teacher=teacher.teacher)
    report = synthesize(wanted, LIBRARY).report
    assert report.kept == len(list(read_samples(tmp_path / "rows.csv"))) == 30
    assert report.removed.total() > 0
    last = max(o["row"] for o in read_jsonl(tmp_path / "rows.origin.jsonl"))
    assert last == 30 + report.removed.total()  # No context was asked for beyond the last one.
    assert json.loads((tmp_path / "rows.report.json").read_text())["settings"]["rows"] == 30
