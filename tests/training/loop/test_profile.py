"""Profiles of a run: asked for in the config and by a signal, with our scopes in them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from pydantic import ValidationError

from gplan_jax.training.loop import loop
from gplan_jax.training.loop.metrics_log import TIMINGS, read_log
from gplan_jax.training.loop.run_clock import profiled_steps
from gplan_jax.training.steps import setup
from gplan_jax.training.steps.train_config import LoggingConfig, TrainConfig

SCOPES = (b"embed", b"attention", b"mlp", b"head", b"loss", b"optimizer")


def traces(folder: Path) -> list[Path]:
    """Files where TensorBoard's profile plugin looks for them."""
    return sorted((folder / "tensorboard").glob("plugins/profile/*/*.xplane.pb"))


def test_a_run_with_a_profile_has_the_same_losses_and_our_scopes_in_it(
    unbroken: TrainConfig, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    config = make_config(tmp_path / "run", logging={"profile_steps": [2, 3]})
    before = signal.getsignal(signal.SIGUSR1)
    # Names are no part of a program's key: one that is kept would have those of its own day.
    setup._step_of.cache_clear()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        loop.train(config)
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert signal.getsignal(signal.SIGUSR1) == before
    (trace,) = traces(tmp_path / "run")
    content = trace.read_bytes()
    for scope in SCOPES:
        # As in the names of operations: jit(step)/transpose(jvp(mlp))/dot_general, say.
        assert b"(" + scope + b")" in content or b"/" + scope + b"/" in content, scope
    assert b"train" in content
    one, other = (read_log(Path(c.output) / "log.jsonl") for c in (config, unbroken))
    for mine, theirs in zip(one, other, strict=True):
        assert all(mine[key] == theirs[key] for key in theirs.keys() - TIMINGS)


def test_a_signal_traces_the_next_three_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flushed: list[int] = []
    with profiled_steps(None, tmp_path, lambda: flushed.append(0)) as traced:
        for number in range(1, 9):
            if number == 4:
                os.kill(os.getpid(), signal.SIGUSR1)
            with traced(number):
                pass
    assert len(traces(tmp_path)) == 1 and len(flushed) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the profile of steps 4 to 6 is in" in said


@pytest.mark.parametrize("steps", [[5], [0, 3], [4, 3], [1, 2, 3], ["1", "2"]])
def test_steps_that_are_none_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValidationError):
        LoggingConfig(profile_steps=steps)
