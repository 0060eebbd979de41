"""A run whose attention kernel is wrong or refuses goes on with xla, unless it names the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.models import load_qwen3
from gplan_jax.models.attention import causal, check, kernels
from gplan_jax.models.attention.check import Comparison
from gplan_jax.training.hosts.mesh import MeshConfig, make_mesh
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps import setup
from gplan_jax.training.steps.train_config import TrainConfig


@pytest.fixture(autouse=True)
def _checked_anew() -> Iterator[None]:
    check.attention_fault.cache_clear()
    yield
    check.attention_fault.cache_clear()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes auto mean a kernel that these devices don't have."""

    def take(kernel: str) -> None:
        monkeypatch.setattr(setup, "resolve_kernel", lambda name, **_: kernel)

    return take


def without_contexts(query: Any, key: Any, value: Any, contexts: Any, **_: Any) -> jax.Array:
    return causal._xla_attention(query, key, value, ())


def test_a_run_goes_on_with_xla_and_one_warning(
    taken: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    make_config: Callable[..., TrainConfig],
    unbroken: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken("splash")
    monkeypatch.setattr(kernels, "splash_attention", without_contexts)
    model = train(make_config(tmp_path / "run"))
    said = capsys.readouterr().err
    assert said.count("warning: the attention kernel splash fails its check here (error ") == 1
    assert "this run takes xla instead" in said
    # What a run with xla from the start has made.
    expected = load_qwen3(Path(unbroken.output) / "model")
    for mine, theirs in zip(
        *map(jax.tree.leaves, map(weights, (load_qwen3(model), expected))), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def weights(model: Any) -> Any:
    from flax import nnx

    return nnx.state(model, nnx.Param)


@pytest.fixture
def chosen(
    make_config: Callable[..., TrainConfig], tiny_model_dir: Path, tmp_path: Path
) -> Callable[[str], str]:
    """precision.attention -> the kernel that a run takes."""

    def choose(attention: str) -> str:
        config = make_config(tmp_path / "run", precision={"attention": attention})
        return setup.checked_kernel(config, load_qwen3(tiny_model_dir), make_mesh(MeshConfig()))

    return choose


def test_a_kernel_that_refuses_is_replaced_and_an_error_where_it_is_named(
    taken: Callable[[str], None],
    chosen: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken("cudnn")  # which a CPU can't run
    assert chosen("auto") == "xla"
    assert "fails its check here" in capsys.readouterr().err
    with pytest.raises(GplanError, match=r"precision\.attention=cudnn: .*Choose auto or xla"):
        chosen("cudnn")


def test_a_kernel_that_is_right_is_kept(
    taken: Callable[[str], None],
    chosen: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken("splash")
    interpreted = partial(kernels.splash_attention, interpret=True)
    monkeypatch.setattr(kernels, "splash_attention", interpreted)
    assert chosen("auto") == chosen("splash") == "splash"
    assert capsys.readouterr().err == ""


def test_xla_is_not_checked(chosen: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "attention_fault", None)
    assert chosen("auto") == chosen("xla") == "xla"


def test_a_kernel_is_checked_once_for_all_runs_of_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def right(kernel: str, **_: Any) -> Comparison:
        calls.append(kernel)
        return Comparison(0.0, 1.0)

    monkeypatch.setattr(check, "check_attention", right)
    for heads in (2, 2, 4):
        check.attention_fault("cudnn", heads=heads)
    assert calls == ["cudnn", "cudnn"]
