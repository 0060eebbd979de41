"""The quickstart's stages in order; each leaves a result on disk and is skipped where it stands."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from rich.console import Console

from gplan_jax import gsisr
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.evaluation.scores.learning_curves import draw_learning_curves
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS, evaluate
from gplan_jax.evaluation.scores.score_tables import comparison_table, plan_view
from gplan_jax.evaluation.sensitivity.model_comparison import CURVES, TABLES, compare_sensitivity
from gplan_jax.evaluation.sensitivity.sensitivity_tables import sensitivity_view
from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.files import read_json, read_jsonl, refuse_existing, write_text
from gplan_jax.foundation.tables import plain_text
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.models import convert_checkpoint
from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.synthesis.pairs.counterfactuals import report_table, write_counterfactuals
from gplan_jax.synthesis.world.simulation import simulate_rows
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.train_config import TrainConfig

MODES = ("direct_sft", "picd")
LOSSES = ("dpo", "scdpo")
PAIR_FILES = ("pairs.jsonl", "test_pairs.jsonl", "test_unchanged.jsonl")
TEMPLATE = "compact_zh"
CONFIGS = Path(__file__).parent / "quickstart_configs"
MAX_NEW_TOKENS = 160
PAIRS_OF_A_ROW = 2
COMPARISON_NOTE = (
    "All runs are cut short to fit in minutes (direct_sft 8 epochs, picd 12, preferences 1), with "
    "one seed and few rows: the tables show that the way works, not which method is better."
)


def quickstart(out: Path, *, rows: int, seed: int, console: Console) -> None:
    """Runs all stages under ``out``; a run that was stopped continues where it was.

    A sixth of the simulated rows is kept back by id; ``seed`` is that of the world, the weights and
    the shuffles. Where ``out`` holds something else, it is a GplanError.
    """
    data, checkpoint, library = out / "data", out / "checkpoint", gsisr.IntentLibrary.load()
    train_file, test_file = data / "train.csv", data / "test.csv"
    if not data.is_dir():
        refuse_existing(out)
    if not test_file.is_file():
        console.rule("1. A small simulated world")
        train_rows, test_rows = gsisr.split_by_id(list(simulate_rows(rows, seed)), 1 / 6, seed)
        gsisr.write_samples(train_file, train_rows)
        gsisr.write_samples(test_file, test_rows)
        console.print(f"{len(train_rows)} training rows, {len(test_rows)} test rows in {data}")
    if not checkpoint.is_dir():
        console.rule("2. A tiny Qwen3 checkpoint in Hugging Face format, converted")
        hugging_face = out / "checkpoint_hf"
        if not hugging_face.is_dir():
            template = gsisr.PromptTemplate.load(TEMPLATE)
            texts = gsisr.training_texts(gsisr.read_samples(train_file), template, library)
            write_tiny_checkpoint(
                hugging_face, texts, layers=3, heads=2, kv_heads=1, head_dim=64, seed=seed
            )
        convert_checkpoint(
            hugging_face,
            checkpoint,
            new_tokens=GSISR_LATENTS.tokens,
            metadata={"latents": GSISR_LATENTS.to_dict()},
            seed=seed,
        )
        console.print(f"{hugging_face} -> {checkpoint}, with {len(GSISR_LATENTS.tokens)} latents")
    test_rows = list(gsisr.read_samples(test_file))
    for number, mode in enumerate(MODES, start=3):
        console.rule(f"{number}. Training: {mode}")
        scores = out / "evaluation" / mode
        model = _train(mode, out / mode, train_file, seed, [f"model={checkpoint}"])
        if not scores.is_dir():
            planner = Planner.load(model, max_new_tokens=MAX_NEW_TOKENS, batch_size=64)
            answers, learnt = planner.generate(test_rows), list(gsisr.read_samples(train_file))
            latents = planner.encoder.latents if planner.task.has_latents else None
            evaluate(test_rows, answers, learnt, planner.library, scores, latents=latents)
    console.rule("5. Other times, other places: pairs of contexts")
    # Pairs to train on, of the training rows; of the test rows also those with equal plans.
    more: dict[str, Any] = {"per_anchor": PAIRS_OF_A_ROW, "seed": seed}
    training, test, unchanged = (data / name for name in PAIR_FILES)
    if not training.is_file():
        console.print(report_table(write_counterfactuals(train_file, training, library, **more)))
    if not test.is_file():
        write_counterfactuals(test_file, test, library, unchanged=unchanged, **more)
    console.print(f"Pairs to train on in {training}, to measure on in {test} and {unchanged}")
    for number, loss in enumerate(LOSSES, start=6):
        console.rule(f"{number}. Preferences from PICD: {loss}")
        overrides = [
            f"model={out / 'picd' / 'model'}",
            f"preference.loss={loss}",
            f"preference.reference_cache={out / 'reference'}",
        ]
        _train("scdpo", out / loss, data / "pairs.jsonl", seed, overrides)
    console.rule("8. Results")
    _show(out, test_rows, console)


def _train(config_name: str, run: Path, rows: Path, seed: int, overrides: list[str]) -> Path:
    """Trains, or goes on, with the config of that name beside this file; the finished model."""
    overrides = [*overrides, f"output={run}", f"data.train={rows}", f"seed={seed}"]
    config = load_config(TrainConfig, CONFIGS / f"{config_name}.yaml", overrides)
    return train(config, resume=(run / "config.yaml").is_file())


def _show(out: Path, test_rows: list[gsisr.Sample], console: Console) -> None:
    runs: dict[str, Any] = {mode: read_json(out / "evaluation" / mode / METRICS) for mode in MODES}
    table = comparison_table(runs)
    write_text(out / "results.txt", plain_text(table))
    curves = out / "learning_curves.png"
    drawn = importlib.util.find_spec("matplotlib") is not None  # An extra: the rest goes without.
    if drawn:
        draw_learning_curves({mode: out / mode / "log.jsonl" for mode in MODES}, curves)
    answers = list(read_jsonl(out / "evaluation" / "picd" / PREDICTIONS))
    task = GsisrTask.load(out / "picd" / "model")
    for row in _different_contexts(test_rows, 3):
        console.print()
        console.print(task.template.render(test_rows[row], task.library).user, style="dim")
        console.print(
            plan_view(
                answers[row]["text"],
                task.library,
                latents=GSISR_LATENTS,
                label=test_rows[row].raw_labels,
            )
        )
    models = {name: out / name / "model" for name in ("picd", *LOSSES)}
    _, test_pairs, unchanged = (out / "data" / name for name in PAIR_FILES)
    sensitivity = compare_sensitivity(
        models,
        test_pairs,
        out / "sensitivity",
        unchanged=unchanged,
        logs={loss: out / loss / "log.jsonl" for loss in LOSSES if drawn},
        batch_size=64,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    console.print()
    console.print(table)
    console.print(sensitivity_view(sensitivity, by_perturbation=False))
    console.print(COMPARISON_NOTE, style="dim", soft_wrap=True)
    console.print(f"Everything is in {out}:")
    for what, where in (
        ("table", out / "results.txt"),
        ("learning curves", curves),
        ("PICD planner", models["picd"]),
        ("SC-DPO planner", models["scdpo"]),
        ("predictions", out / "evaluation"),
        ("ablation", out / "sensitivity" / TABLES),
        ("reward shifts", out / "sensitivity" / CURVES),
    ):
        if drawn or where.suffix != ".png":
            console.print(f"  {what:16}{where}", highlight=False)
    if not drawn:
        mend = "pip install 'gplan-jax[plots]', then gplan quickstart again, which only draws"
        console.print(f"No curves: {mend}.", highlight=False, markup=False, soft_wrap=True)
    for command in (
        f"gplan plan --model {out}/scdpo/model --data {out}/data/test.csv --row 5",
        f"gplan serve --model {out}/scdpo/model",
    ):
        console.print(f"Try: {command}", highlight=False, soft_wrap=True)


def _different_contexts(samples: list[gsisr.Sample], count: int) -> list[int]:
    """The first rows of different order types: contexts that call for different plans."""
    by_type: dict[str, int] = {}
    for row, sample in enumerate(samples):
        by_type.setdefault(gsisr.facts_of(sample).order_type, row)
    return list(by_type.values())[:count]
