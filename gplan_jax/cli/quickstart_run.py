"""The quickstart's parts in order; each leaves a result on disk and is skipped where it stands."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gplan_jax import gsisr
from gplan_jax.baselines.fitting.arms import FLOORS
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.evaluation.scores.intervals import p_text
from gplan_jax.evaluation.scores.learning_curves import draw_learning_curves
from gplan_jax.evaluation.scores.model_evaluation import evaluate_model
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS
from gplan_jax.evaluation.scores.score_tables import comparison_table, plan_view
from gplan_jax.evaluation.sensitivity.model_comparison import (
    CURVES,
    TABLES,
    compare_sensitivity,
    sensitivity_view,
)
from gplan_jax.evaluation.significance.arm_summary import score_arm, summarize_arms
from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.files import read_json, read_jsonl, refuse_existing, write_text
from gplan_jax.foundation.tables import plain_text
from gplan_jax.models.checkpoints.tiny import write_tiny_model
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.synthesis.pairs.counterfactuals import report_table, write_counterfactuals
from gplan_jax.synthesis.world.simulation import simulate_rows
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.train_config import TrainConfig

LOSSES = ("dpo", "scdpo")
TITLES = {"direct_sft": "Direct-SFT", "picd": "PICD", "dpo": "vanilla DPO", "scdpo": "SC-DPO"}
# Part -> its minutes on two idle cores with the default number of rows (docs/lab/planners.md).
WORLD, CHECKPOINT, PAIRS, RESULTS = (
    "A small simulated world",
    "A tiny Qwen3 of random weights",
    "Other times, other places: pairs of contexts",
    "Results",
)
MINUTES = {"direct_sft": 4.0, "picd": 5.0, "dpo": 1.0, "scdpo": 1.0, RESULTS: 1.0}
PAIR_FILES = ("pairs.jsonl", "test_pairs.jsonl", "test_unchanged.jsonl")
TEMPLATE = "compact_zh"
CONFIGS = Path(__file__).parent / "quickstart_configs"
MAX_NEW_TOKENS = 160
# Rows whose pairs the preference runs learn from, and rows whose pairs they are measured on.
ANCHORS, TEST_ANCHORS, PAIRS_OF_A_ROW = 400, 150, 2
SHOWN_PLANS = 3


def quickstart(out: Path, *, rows: int, seed: int, full: bool, console: Console) -> None:
    """Runs all parts under ``out``; a run that was stopped continues where it was.

    A ninth of the simulated rows is kept back by id; ``seed`` is that of the world, the weights and
    the shuffles. ``full`` trains Direct-SFT and vanilla DPO as well, for comparison. Where ``out``
    holds something else, it is a GplanError.
    """
    data, checkpoint, library = out / "data", out / "checkpoint", gsisr.IntentLibrary.load()
    train_file, test_file = data / "train.csv", data / "test.csv"
    if not data.is_dir():
        refuse_existing(out)
    modes, losses = ("direct_sft", "picd")[not full :], LOSSES[not full :]
    parts = iter(_announce([WORLD, CHECKPOINT, *modes, PAIRS, *losses, RESULTS], console))

    console.rule(next(parts))
    if not test_file.is_file():
        train_rows, test_rows = gsisr.split_by_id(list(simulate_rows(rows, seed)), 1 / 9, seed)
        gsisr.write_samples(train_file, train_rows)
        gsisr.write_samples(test_file, test_rows)
    train_rows, test_rows = (list(gsisr.read_samples(file)) for file in (train_file, test_file))
    console.print(f"{len(train_rows)} training rows, {len(test_rows)} test rows in {data}")

    console.rule(next(parts))
    if not checkpoint.is_dir():
        template = gsisr.PromptTemplate.load(TEMPLATE)
        write_tiny_model(
            checkpoint,
            gsisr.training_texts(train_rows, template, library),
            new_tokens=GSISR_LATENTS.tokens,
            metadata={"latents": GSISR_LATENTS.to_dict()},
            seed=seed,
            layers=2,
            hidden_size=96,
        )
    console.print(f"{checkpoint}, with {len(GSISR_LATENTS.tokens)} latent tokens")

    def train_and_score(name: str, config: str, rows_file: Path, overrides: Sequence[str]) -> None:
        """Trains, or goes on, with a config beside this file; then plans for the test rows."""
        console.rule(next(parts))
        run, scores = out / name, out / "evaluation" / name
        changes = [*overrides, f"output={run}", f"data.train={rows_file}", f"seed={seed}"]
        settings = load_config(TrainConfig, CONFIGS / f"{config}.yaml", changes)
        model = train(settings, resume=(run / "config.yaml").is_file())
        if not scores.is_dir():
            decoding: dict[str, Any] = {"mode": "unconstrained", "max_new_tokens": MAX_NEW_TOKENS}
            evaluate_model(
                model, test_file, scores, train_data=train_file, batch_size=64, **decoding
            )

    for mode in modes:
        train_and_score(mode, mode, train_file, [f"model={checkpoint}"])

    console.rule(next(parts))
    # Pairs to train on, of training rows; of test rows also those with equal plans.
    more: dict[str, Any] = {"per_anchor": PAIRS_OF_A_ROW, "seed": seed}
    training, test, unchanged = (data / name for name in PAIR_FILES)
    if not training.is_file():
        report = write_counterfactuals(train_file, training, library, limit=ANCHORS, **more)
        console.print(report_table(report))
    if not test.is_file():
        more["limit"] = TEST_ANCHORS
        write_counterfactuals(test_file, test, library, unchanged=unchanged, **more)
    console.print(f"Pairs to train on in {training}, to measure on in {test} and {unchanged}")

    for loss in losses:
        changes = [f"model={out / 'picd' / 'model'}", f"preference.loss={loss}"]
        changes.append(f"preference.reference_cache={out / 'reference'}")
        train_and_score(loss, "scdpo", training, changes)

    console.rule(next(parts))
    _show([*modes, *losses], out, test_rows, console)


def _announce(parts: Sequence[str], console: Console) -> list[str]:
    """Says what will be done and how long each part takes; the parts' headings."""
    console.print(
        f"{len(parts)} parts, about {sum(MINUTES.get(part, 0.1) for part in parts):.0f} minutes on "
        "two idle cores. Stop when you like: the same command goes on."
    )
    headings = []
    for number, part in enumerate(parts, start=1):
        title = f"Training: {TITLES[part]}" if part in TITLES else part
        minutes = MINUTES.get(part)
        length = f"{minutes:g} min" if minutes else "seconds"
        headings.append(f"{number}. {title}")
        console.print(f"  {headings[-1]:62}{length:>9}", highlight=False)
    return headings


def _show(names: Sequence[str], out: Path, test_rows: list[gsisr.Sample], console: Console) -> None:
    """Three plans, the tables, whether PICD passes the best floor, and where everything is."""
    runs: dict[str, Any] = {name: read_json(out / "evaluation" / name / METRICS) for name in names}
    answers = {name: list(read_jsonl(out / "evaluation" / name / PREDICTIONS)) for name in names}
    task = GsisrTask.load(out / "picd" / "model")
    for row in _different_contexts(test_rows, SHOWN_PLANS):
        console.print()
        console.print(task.template.render(test_rows[row], task.library).user, style="dim")
        text = answers["scdpo"][row]["text"]
        label = test_rows[row].raw_labels
        console.print(plan_view(text, task.library, latents=GSISR_LATENTS, label=label))
        # The label's reasoning in words is what the latent tokens stand for.
        console.print(f"SC-DPO's answer as it is: {text}", highlight=False, soft_wrap=True)
        words = label.partition("</THOUGHT>")[0]
        console.print(f"Label's reasons in words: {words}</THOUGHT>", soft_wrap=True)

    # Extras: the rest goes without.
    drawn, tested = (
        importlib.util.find_spec(name) is not None for name in ("matplotlib", "statsmodels")
    )
    _, test, unchanged = (out / "data" / name for name in PAIR_FILES)
    sensitivity = compare_sensitivity(
        {name: out / name / "model" for name in names if name != "direct_sft"},
        test,
        out / "sensitivity",
        unchanged=unchanged,
        logs={name: out / name / "log.jsonl" for name in names if name in LOSSES and drawn},
        batch_size=64,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    table = comparison_table({TITLES[name]: runs[name] for name in names})
    write_text(out / "results.txt", plain_text(table))
    curves = out / "learning_curves.png"
    if drawn:
        logs = {TITLES[name]: out / name / "log.jsonl" for name in names if name not in LOSSES}
        draw_learning_curves(logs, curves)
    console.print()
    console.print(sensitivity_view(sensitivity, by_perturbation=False))
    console.print()
    console.print(table)
    if tested:
        console.print(_beside_the_floors(answers, task.library), style="bold")
    console.print(f"Everything is in {out}:")
    for what, where in (
        ("table", out / "results.txt"),
        ("learning curves", curves),
        ("PICD planner", out / "picd" / "model"),
        ("SC-DPO planner", out / "scdpo" / "model"),
        ("predictions", out / "evaluation"),
        ("pairs", out / "sensitivity" / TABLES),
        ("reward shifts", out / "sensitivity" / CURVES),
    ):
        if drawn or where.suffix != ".png":
            console.print(f"  {what:16}{where}", highlight=False, soft_wrap=True)
    if not (drawn and tested):
        lacks = ", no ".join(["curves"] * (not drawn) + ["paired test"] * (not tested))
        mend = "pip install 'gplan-jax[plots,baselines]', then gplan quickstart again"
        console.print(f"No {lacks}: {mend}.", highlight=False, markup=False, soft_wrap=True)
    for command, what in (
        (f"gplan serve --model {out}/scdpo/model", "the page is at http://127.0.0.1:8000"),
        (f"gplan plan --model {out}/scdpo/model --data {out}/data/test.csv --row 5", "one plan"),
    ):
        console.print(f"Try: {command}    # {what}", highlight=False, soft_wrap=True)


def _beside_the_floors(
    answers: Mapping[str, list[dict[str, Any]]], library: gsisr.IntentLibrary
) -> str:
    """PICD's Acc@1 and that of the best floor, paired by row; with one seed no more than that."""
    rows = answers["picd"]
    labels = [row["label"] for row in rows]
    texts = {name: [row["floors"][name] for row in rows] for name in FLOORS}
    texts["picd"] = [row["text"] for row in rows]
    arms = {name: score_arm([found], labels, library) for name, found in texts.items()}
    summary = summarize_arms(arms, [row["id"] for row in rows], reference=None, measures=["acc1"])
    found = next(
        c for c in summary.comparisons if c.first == "picd" and c.second == summary.reference
    )
    floor = str(summary.reference).replace("_", " ")
    picd, best = (summary.arms[name]["acc1"].mean for name in (found.first, found.second))
    return (
        f"Acc@1 of PICD is {100 * picd:.1f}, that of the best floor ({floor}) {100 * best:.1f}: "
        f"{100 * found.difference:+.1f} points ({100 * found.low:.1f} to {100 * found.high:.1f}, "
        f"p {p_text(found.p, '= ')}, paired over {len(rows)} rows that neither saw). One seed: "
        "other weights would give other figures."
    )


def _different_contexts(samples: list[gsisr.Sample], count: int) -> list[int]:
    """The first rows of different order types: contexts that call for different plans."""
    by_type: dict[str, int] = {}
    for row, sample in enumerate(samples):
        by_type.setdefault(gsisr.facts_of(sample).order_type, row)
    return list(by_type.values())[:count]
