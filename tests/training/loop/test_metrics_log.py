"""The log of a run that dies, comes back and finds its last lines torn, and what W&B gets of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.training.loop import metrics_log
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


class FakeWandb(ModuleType):
    """Records what is asked of it."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.refusal: Exception | None = None
        self.errors = SimpleNamespace(Error=ConnectionError)

    def init(self, **options: Any) -> FakeWandb:
        if self.refusal:
            raise self.refusal
        self.started.append(options)
        return self

    def log(self, data: dict[str, float], *, step: int) -> None:
        self.logged.append((step, data))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: object())
    return fake


def test_a_resumed_run_goes_on_under_its_id(fake: FakeWandb, tmp_path: Path) -> None:
    for start in (0, 1):
        with MetricsLog(tmp_path, resume_step=start, wandb_project="p", config={"a": 1}) as log:
            log.write({"kind": "step", "step": start + 1, "loss": 2.0, "stage": 0})
    first, second = fake.started
    assert first == second and first["resume"] == "allow" and len(first["id"]) == 16
    assert (first["project"], first["config"], first["dir"]) == ("p", {"a": 1}, str(tmp_path))
    assert fake.logged == [(step, {"training/loss": 2.0, "training/stage": 0}) for step in (1, 2)]
    assert fake.finished == 2


def test_a_refusal_is_an_error_with_the_mend(fake: FakeWandb, tmp_path: Path) -> None:
    fake.refusal = ConnectionError("no key.")
    with pytest.raises(GplanError, match=r"no key\. Log in .*WANDB_MODE=offline"):
        MetricsLog(tmp_path, wandb_project="p")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GplanError, match=r"pip install 'gplan-jax\[wandb\]'"):
        metrics_log.require_wandb()
