"""The log of a run that dies, comes back and finds its last lines torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.training.loop.metrics_log import (
    MetricsLog,
    best_evaluation,
    evaluation_scores,
    read_log,
)


def steps(*numbers: int) -> list[dict[str, object]]:
    return [{"kind": "step", "step": n, "loss": 1.0 / n} for n in numbers]


def test_what_came_after_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for record in steps(1, 2, 3):
            log.write(record)
    with MetricsLog(tmp_path, resume_step=2) as log:
        log.write({"kind": "step", "step": 3, "loss": 9.0})
    records = read_log(tmp_path / "log.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3]
    assert records[-1]["loss"] == 9.0


def test_torn_and_damaged_lines_do_not_keep_a_run_from_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with MetricsLog(tmp_path) as log:
        for record in steps(1, 2, 3):
            log.write(record)
    path = tmp_path / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\xff{\n" + lines[2] + lines[2][:9])
    MetricsLog(tmp_path, resume_step=5).__exit__(None, None, None)
    assert [record["step"] for record in read_log(path)] == [1, 3]
    assert "line 2 is damaged" in capsys.readouterr().err


def test_scores_come_from_the_log(tmp_path: Path) -> None:
    assert evaluation_scores(tmp_path, "acc1") == {}
    assert best_evaluation(tmp_path, "acc1") is None
    with MetricsLog(tmp_path) as log:
        for step, score in ((5, 0.25), (10, 0.5), (15, 0.5)):
            log.write({"kind": "evaluation", "step": step, "epoch": step // 5, "acc1": score})
    assert evaluation_scores(tmp_path, "acc1") == {5: 0.25, 10: 0.5, 15: 0.5}
    assert best_evaluation(tmp_path, "acc1") == "acc1 0.5000 at step 10"
    assert best_evaluation(tmp_path, "nes") is None
