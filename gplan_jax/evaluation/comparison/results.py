"""From the files of the fits to predictions, curves, scores and the summary."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax.evaluation.comparison.jobs import Job, chosen_trial, is_done, seed_path
from gplan_jax.evaluation.comparison.task import Task
from gplan_jax.evaluation.significance.arm_summary import ArmScores, highest, score_arm
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json
from gplan_jax.gsisr import canonical_plan, facts_of, parse_plan

# Means that stand in the table beside what is tested.
BESIDE = ("exact", "filter_pass")


@dataclass(frozen=True)
class ArmTexts:
    """An arm's plan texts, a line a seed [S][N], and what its fits cost (None: fitted elsewhere).

    ``constrained`` and ``free`` are the same where an arm does not tell them apart.
    """

    constrained: list[list[str]]
    free: list[list[str]]
    parameters: int | None = None
    seconds: float | None = None


def finished_arms(task: Task, names: Sequence[str]) -> list[str]:
    """Those of the arms whose every fold and seed is there."""
    return [
        name
        for name in names
        if all(
            is_done(task.out, Job(name, fold, seed))
            for fold in range(len(task.rows.parts))
            for seed in range(task.seeds_of(name))
        )
    ]


def scored_rows(task: Task) -> list[int]:
    """The rows that are scored, in the order of the file, counted from 0."""
    return sorted(row for part in task.rows.parts for row in part.test)


def read_arm(task: Task, name: str) -> tuple[ArmTexts, list[dict[str, Any]]]:
    """An arm's predictions in the order of ``scored_rows``, and its curves.

    The curves are those of the chosen trials, one a fold, which show a validation loss; without
    trials they are those of the fits that predict.

    The size is the largest over the folds (vocabularies differ), the seconds the median of a fit.

    Raises:
        GplanError: a file holds other rows than its fold.
    """
    order = scored_rows(task)
    constrained, free, parameters, seconds = [], [], [], []
    curves = [
        _point(fold, 0, row)
        for fold in range(len(task.rows.parts))
        for row in chosen_trial(task.out, Job(name, fold, 0))["curve"]
    ]
    judged = bool(curves)
    for seed in range(task.seeds_of(name)):
        texts: dict[int, tuple[str, str]] = {}
        for fold, part in enumerate(task.rows.parts):
            path = seed_path(task.out, Job(name, fold, seed))
            found = read_json(path)
            if found["rows"] != list(part.test):
                raise GplanError(f"{path} is of other rows than its fold; remove the file.")
            pairs = zip(found["constrained"], found["free"], strict=True)
            texts |= dict(zip(found["rows"], pairs, strict=True))
            if not judged:
                curves += [_point(fold, seed, row) for row in found["curve"]]
            parameters.append(found["parameters"])
            seconds.append(found["seconds"])
        constrained.append([texts[row][0] for row in order])
        free.append([texts[row][1] for row in order])
    cost = max(parameters), statistics.median(seconds)
    return ArmTexts(constrained, free, *cost), curves


def prediction_lines(task: Task, arms: Mapping[str, ArmTexts]) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl."""
    fold_of = {row: fold for fold, part in enumerate(task.rows.parts) for row in part.test}
    lines = []
    for place, row in enumerate(scored_rows(task)):
        sample = task.rows.scored[row]
        facts = facts_of(sample)
        lines.append({
            "row": row + 1,
            "id": sample.id,
            "label": canonical_plan(parse_plan(sample.raw_labels, task.library), task.library),
            "fold": fold_of[row],
            "facts": {
                "order_type": facts.order_type,
                "hour": facts.hour,
                "order_distance": facts.order_distance,
            },
            "arms": {
                name: {
                    "constrained": [texts[place] for texts in arm.constrained],
                    "free": [texts[place] for texts in arm.free],
                }
                for name, arm in arms.items()
            },
        })  # fmt: skip
    return lines


def score_texts(
    task: Task, arms: Mapping[str, ArmTexts]
) -> tuple[dict[str, ArmScores], dict[str, dict[str, float]]]:
    """The scores of constrained plans, and the means beside them.

    Returns:
        arm -> scores, and arm -> {"exact", "filter_pass", "free_acc1", "free_filter_pass"}.
    """
    labels = [task.rows.scored[row].raw_labels for row in scored_rows(task)]
    scores: dict[str, ArmScores] = {
        name: score_arm(arm.constrained, labels, task.library) for name, arm in arms.items()
    }
    beside = {}
    for name, arm in arms.items():
        free = scores[name]
        if arm.free is not arm.constrained and arm.free != arm.constrained:
            free = score_arm(arm.free, labels, task.library)
        beside[name] = {
            **{measure: float(scores[name][measure].mean()) for measure in BESIDE},
            "free_acc1": float(free["acc1"].mean()),
            "free_filter_pass": float(free["filter_pass"].mean()),
        }
    return scores, beside


def best_floor(task: Task, scores: Mapping[str, ArmScores]) -> str | None:
    """The floor with the highest Acc@1, of equals the one with the highest NES; None without.

    So the first intents of ``gradient_boosting`` are not told from ``gradient_boosting_first``.
    """
    return highest(scores, (name for name in scores if is_floor(task, name)), ("acc1", "nes"))


def is_floor(task: Task, name: str) -> bool:
    """Whether a name of the table is a floor's; arms that were added are none."""
    return name in task.arms.entries and task.is_floor(name)


def _point(fold: int, seed: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "fold": fold,
        "seed": seed,
        **{key: row.get(key) for key in ("epoch", "loss", "validation_loss")},
    }


def clear_halves(out: Path) -> None:
    """Removes what a kill left of files that were being written."""
    for path in out.rglob(".*.*"):
        if path.is_file():
            path.unlink()
