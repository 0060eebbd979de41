"""The benchmarks of decoding at tiny shapes: their figures, and what they are made of."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gplan_jax.data import ChatEncoder
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, facts_of

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
QUICK = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
TINY = (
    *("--shape", "tiny", "--vocab", "1088", "--template", "compact_zh", "--train-rows", "8"),
    *("--epochs", "1", "--plans", "2", "--prompt-tokens", "0", "--max-new-tokens", "40"),
)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_decode_models

    return bench_decode_models


@pytest.fixture
def decode(models: ModuleType) -> ModuleType:
    import bench_decode

    return bench_decode


def test_histories_are_filled_up_and_the_moment_stays(
    models: ModuleType, world_rows: list[Sample], tiny_model_dir: Path
) -> None:
    encoder, library = ChatEncoder.load(tiny_model_dir), IntentLibrary.load()
    template = PromptTemplate.load("amap_zh")

    def prompt_tokens(sample: Sample) -> int:
        prompt = template.render(sample, library)
        return len(encoder.prompt_ids(prompt, max_length=10**6))

    longest = max(map(prompt_tokens, world_rows[:3]))
    wanted = longest + 400
    filled = list(
        models.long_contexts(world_rows, encoder, template, library, count=3, tokens=wanted)
    )
    for before, after in zip(world_rows[:3], filled, strict=True):
        assert wanted <= prompt_tokens(after) < wanted + 100
        assert after.short_term_behavior_seq.endswith(before.short_term_behavior_seq)
        assert facts_of(after).order_type == facts_of(before).order_type
    with pytest.raises(GplanError, match="lower --prompt-tokens"):
        list(models.long_contexts(world_rows, encoder, template, library, count=1, tokens=10**5))


def test_models_of_another_recipe_are_refused(models: ModuleType, tmp_path: Path) -> None:
    recipe = models.Recipe("tiny", 1088, None, "compact_zh", 8, 1, 4, 0)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_dict() | {"epochs": 2}))
    with pytest.raises(GplanError, match=r"recipe\.json.*another --out"):
        models.make_models(tmp_path, recipe, ["plan"])


def test_figures_pair_the_answers_of_each_plan(decode: ModuleType) -> None:
    def answers(*seconds: float, text: str = "[]") -> list:
        return [decode.Answer(s, text, 10, 4) for s in seconds]

    found = decode.figures_of(
        "plan",
        {
            ("plan", "plain"): answers(8, 4, 30, text="prose"),
            ("plan", "constrained"): answers(4, 4, 9),
            ("plan", "drafted"): answers(1, 2, 3),
            ("latent", "drafted"): answers(7, 7, 7),
        },
        IntentLibrary.load(),
    )
    assert found["times_faster"] == {"drafted than plain": 8, "drafted than constrained": 3}
    assert found["ways"]["plain"]["ms_per_plan"] == 8000
    assert found["ways"]["drafted"] == {
        "ms_per_plan": 2000, "tokens": 10, "passes": 4, "admissible": 0
    }  # fmt: skip
    assert found["drafted_equals_constrained"] and found["plain_equals_constrained"] == 0


def test_a_process_that_ends_early_is_named(models: ModuleType) -> None:
    from bench_process import JsonProcess

    with pytest.raises(GplanError, match=r"no_such_script\.py ended with exit code 2"):
        JsonProcess(sys.executable, "no_such_script.py")


def test_drafts_save_passes_on_replayed_plans(models: ModuleType, tmp_path: Path) -> None:
    import bench_drafts

    options = argparse.Namespace(
        rows=None, simulated=120, tokenizer=None, held_out=0.2, budgets="0,64"
    )
    report = bench_drafts.run(options, tmp_path)
    for form in ("plan", "latent"):
        figures = report[form]
        chains = {figures[kind][0]["passes"] for kind in ("with_counts", "without_counts")}
        assert len(chains) == 1
        best, least = (figures[k][64]["passes"] for k in ("with_counts", "without_counts"))
        assert best < 0.8 * least < 0.8 * chains.pop()
        assert figures["online"][64]["passes"] < least
        assert figures["with_counts"][0]["drafted"] == 0


@pytest.mark.slow
def test_drafted_plans_are_the_constrained_ones_in_fewer_passes(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench_decode.py"), "--out", str(tmp_path), *TINY]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | QUICK
    )
    report = json.loads(done.stdout)
    assert report["forms"].keys() == {"plan", "latent"}
    for figures in report["forms"].values():
        assert figures["drafted_equals_constrained"]
        ways = figures["ways"]
        assert ways["drafted"]["admissible"] == ways["constrained"]["admissible"] == 1
        assert ways["drafted"]["passes"] < 0.5 * ways["constrained"]["passes"]
    assert report["latent_over_plan"].keys() == {"plain", "constrained", "drafted"}
