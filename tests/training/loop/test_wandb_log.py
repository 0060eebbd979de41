"""Weights & Biases gets what TensorBoard gets, under one id; the package itself is not needed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.training.loop import wandb_log
from gplan_jax.training.loop.metrics_log import MetricsLog


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
    monkeypatch.setattr(wandb_log.importlib.util, "find_spec", lambda name: object())
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
    monkeypatch.setattr(wandb_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GplanError, match=r"pip install 'gplan-jax\[wandb\]'"):
        wandb_log.require_wandb()
