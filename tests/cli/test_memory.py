"""`gplan plan-memory` from the outside."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.cli import main as command_line
from gplan_jax.foundation.files import write_json
from gplan_jax.models.qwen3.config import Qwen3Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Gplan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gplan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gplan:
    """Runs the command line; returns its exit code, stdout and stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["gplan", "plan-memory", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            command_line.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*_qwen3_*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_has_an_estimate_on_eight_gpus(gplan: Gplan, config: Path) -> None:
    code, out, _ = gplan(config, "--topology", "h100:8")
    assert code == 0
    assert "ESTIMATE" in out and "fits: yes (estimate)" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_setting_that_does_not_fit_is_answered_with_one_that_does(gplan: Gplan) -> None:
    arguments = (CONFIGS / "picd_qwen3_1_7b.yaml", "batch_size=512", "accumulation_steps=1")
    code, out, err = gplan(*arguments, "--topology", "h100:1")
    assert code == 0
    assert "fits: no (estimate)" in out
    (line,) = [line for line in out.splitlines() if line.startswith("The nearest setting")]
    proposed = line.partition(": ")[2].split()
    assert proposed and all("=" in override for override in proposed)
    assert "trying" in err
    code, out, _ = gplan(*arguments, "--no-search", "--topology", "h100:1")
    assert code == 1 and "fits: no (estimate)" in out and "nearest" not in out
    # What is proposed is what fits when it is asked for.
    code, out, _ = gplan(*arguments, *proposed, "--topology", "h100:1")
    assert code == 0 and "fits: yes (estimate)" in out


def test_nothing_fits(gplan: Gplan, tmp_path: Path) -> None:
    """A model whose weights and moments alone are more than a device has."""
    shape = Qwen3Config(151_936, 8192, 24_576, 40, 64, 8)
    write_json(tmp_path / "config.json", shape.to_hf())
    overrides = (f"model={tmp_path}", "batch_size=1", "precision.remat=full")
    code, out, _ = gplan(CONFIGS / "picd_qwen3_4b.yaml", *overrides, "--topology", "h100:1")
    assert code == 1
    assert "No setting that was tried fits" in out


def test_a_tiny_model_is_compiled_for_this_machine(
    gplan: Gplan, tmp_path: Path, tiny_model_dir: Path
) -> None:
    path = tmp_path / "run.yaml"
    data = {"train": "rows.csv", "length_multiple": 16, "response_multiple": 8}
    run = {"mode": "cot_sft", "model": str(tiny_model_dir), "output": "run", "batch_size": 4}
    precision = {"compute": "float32", "remat": "none"}
    write_json(
        path, {**run, "data": data, "precision": precision, "optimizer": {"schedule": "cosine"}}
    )
    lengths = ("--sequence-length", 48, "--prefix-length", 16, "--response-length", 8)
    code, out, _ = gplan(path, "--topology", "local", *lengths)
    assert code == 0
    assert "4 rows in 1 part(s), 32 tokens a row after a shared prefix of 16" in out
    assert "fits: unknown" in out


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ("picd_qwen3_1_7b", (), "1,408 tokens a row after a shared prefix of 768, 320 supervised"),
        ("scdpo_qwen3_1_7b", (), "1,024 + 2 x 192 + 4 x 192 tokens each after a shared prefix"),
        ("scdpo_qwen3_1_7b", ("--context-length", 300), "896 + 2 x 320 + 4 x 192 tokens each"),
        ("scdpo_qwen3_1_7b", ("--response-length", 311), "896 + 2 x 192 + 4 x 320 tokens each"),
    ],
)
def test_lengths_are_given_or_those_of_the_mode(
    gplan: Gplan, config: str, options: tuple[Any, ...], said: str
) -> None:
    lengths = ("data.max_length=2048", "data.length_multiple=128", "data.response_multiple=64")
    path = CONFIGS / f"{config}.yaml"
    code, out, _ = gplan(path, *lengths, "--topology", "h100:8", *options)
    assert code == 0 and said in out


def test_bad_input_is_named(gplan: Gplan, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS / "picd_qwen3_1_7b.yaml"
    assert "Unknown topology 'v7:4x4'" in gplan(config, "--topology", "v7:4x4")[2]
    assert "does not exist" in gplan("nowhere.yaml", "--topology", "h100:8")[2]
    assert "is no shipped shape" in gplan(config, "--topology", "h100:8", "--model", "llama")[2]
    code, _, err = gplan(config, "mesh.tensor=3", "--topology", "h100:8")
    assert code == 2 and "does not divide" in err
    code, _, err = gplan(config, "--topology", "h100:8", "--context-length", 165)
    assert code == 2 and "--context-length is for pairs" in err
    pairs = CONFIGS / "scdpo_qwen3_1_7b.yaml"
    code, _, err = gplan(pairs, "--topology", "h100:8", "--sequence-length", 1000)
    assert code == 2 and "leave nothing of a sequence of 1000 tokens" in err
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "libtpu" else find(name, *rest),
    )
    code, _, err = gplan(config, "--topology", "v5e:4x4")
    assert code == 2 and "pip install 'gplan-jax[tpu]'" in err
