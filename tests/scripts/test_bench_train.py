"""The benchmark of the training step, at a tiny shape: its figures, and equal losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Compiling takes most of the time, and nothing here is about speed.
QUICK = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
TINY = ("--simulated", "24", "--template", "compact_zh", "--max-length", "384", "--batch-size", "4")


def run_bench(*arguments: str) -> dict:
    command = [sys.executable, str(SCRIPTS / "bench_train.py"), *TINY, *arguments]
    environment = os.environ | QUICK
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_all_layouts_have_the_same_loss_and_all_figures() -> None:
    report = run_bench("--layers", "1", "--batches", "1", "--rounds", "1", "--micro-rows", "2")
    layouts = report["layouts"]
    assert list(layouts) == ["padded", "plain", "prefix_tree"]
    for figures in layouts.values():
        assert figures["loss"] == pytest.approx(layouts["plain"]["loss"], rel=1e-5)
        for name in (
            "samples_per_second",
            "tokens_per_second",
            "utilisation_needed",
            "utilisation_plain",
            "peak_gib",
            "compile_seconds",
            "gflop_per_step",
        ):
            assert figures[name] > 0
    assert report["loss_difference"] < 1e-5
    pairs = {"plain / padded", "prefix_tree / padded", "prefix_tree / plain"}
    assert report["speed_ratios"].keys() == report["counted_ratios"].keys() == pairs


def test_counting_needs_no_weights() -> None:
    report = run_bench("--count-only", "--shape", "qwen3-4b")
    layouts = report["layouts"]
    assert layouts["padded"]["head_share"] > layouts["plain"]["head_share"]
    assert "speed_ratios" not in report


class TestCountedWork:
    @pytest.fixture(autouse=True)
    def _scripts_on_the_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(SCRIPTS))

    def test_a_shared_prefix_is_counted_once(self) -> None:
        from bench_flops import needed_work, plain_work

        lengths = np.asarray([7, 9, 5])
        plain, shared = plain_work(lengths, 6), needed_work(lengths, 6, prefix=4)
        # Two of three rows are spared the prefix: its tokens and its causal pairs.
        assert plain.tokens - shared.tokens == 2 * 4
        assert plain.pairs - shared.pairs == 2 * (4 * 5 / 2)
        assert plain.logits == shared.logits

    def test_an_empty_prefix_changes_nothing(self) -> None:
        from bench_flops import needed_work, plain_work

        lengths = np.asarray([3, 8])
        assert needed_work(lengths, 2, prefix=0) == plain_work(lengths, 2)

    def test_a_model_of_one_layer_by_hand(self) -> None:
        from bench_flops import Work

        from gplan_jax.models import Qwen3Config

        shape = Qwen3Config(11, 4, 6, 1, 2, 1, head_dim=2, tie_word_embeddings=True)
        # query and output 2 * 4*4, key and value 2 * 4*2, feed-forward 3 * 4*6; 2 products a
        # number; scores and mix 2 * 2 * (heads * head_dim = 4) a pair; 3 passes.
        layers = 5 * 2 * (32 + 16 + 72) + 15 * 16
        assert Work(5, 15, 3).flops(shape) == 3 * (layers + 3 * 2 * 4 * 11)
        assert Work(5, 15, 0).head_share(shape) == 0
