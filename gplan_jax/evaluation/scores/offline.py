"""Scores of predicted plans: row by row into predictions.jsonl, their means into metrics.json.

All figures come from the texts of predictions.jsonl alone (the label's, the model's, the floors'),
so `score_file` computes them again with the same code and finds the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.baselines.fitting.arms import FLOORS
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import (
    FILTER_MEASURES,
    PLAN_MEASURES,
    GsisrTask,
    score_text,
)
from gplan_jax.data.tasks.task import Example, RowScores, Task
from gplan_jax.evaluation.scores.intervals import RESAMPLES, bootstrap_interval, wilson_interval
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import atomic_directory, read_records, write_json, write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, parse_plan
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary

PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"
# A floor writes no latent prefix, so its validity would be a zero that says nothing.
FLOOR_MEASURES = (*PLAN_MEASURES, *FILTER_MEASURES)
INTERVAL_METHOD = (
    "95%: Wilson for {}; for the others a percentile bootstrap that draws whole "
    f"ids, {RESAMPLES} resamples, seed 0"
)
NO_FLOORS = (
    "no training rows were given, and floors fitted on the rows they are scored on would be no "
    "floors: give the training rows to see them"
)


@dataclass(frozen=True)
class Prediction:
    """What one row's scores are computed from; ``floors`` are the floors' plan texts by name."""

    prompt_id: str
    text: str
    label: str
    floors: Mapping[str, str] = field(default_factory=dict)
    latent: bool = True  # whether anybody asks for its latent prefix


def evaluate(
    samples: Sequence[Sample],
    texts: Sequence[str],
    train_samples: Sequence[Sample] | None,
    library: IntentLibrary,
    out_dir: str | Path,
    *,
    latents: LatentVocabulary | None = GSISR_LATENTS,
    run: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Scores ``texts`` and the floors against the samples' labels; writes and returns the metrics.

    Without ``train_samples`` the floors are left out, without ``latents`` (where responses have
    none, or a grammar writes them) Latent-Valid. predictions.jsonl and metrics.json appear in
    the new ``out_dir`` together; ``run`` (model, data, device ...) is kept in metrics.json.
    """
    check_rows(samples, train_samples, library)
    if len(samples) != len(texts):
        raise GplanError(f"{len(texts)} answers for {len(samples)} rows; each row needs one.")
    floors = {name: fit(train_samples, library) for name, fit in FLOORS.items() if train_samples}
    predictions = [
        Prediction(
            sample.id, text, sample.raw_labels, {n: f.plan_for(sample) for n, f in floors.items()}
        )
        for sample, text in zip(samples, texts, strict=True)
    ]
    scores = [score_text(p.text, p.label, library, latents) for p in predictions]
    metrics = summarize(predictions, scores, library)
    shared_ids = {s.id for s in train_samples or ()} & {s.id for s in samples}
    facts = {"train_rows": len(train_samples or ()), "ids_also_in_training": len(shared_ids)}
    with atomic_directory(out_dir) as folder:
        pairs = zip(predictions, scores, strict=True)
        records = (prediction_record(n, p, s, library) for n, (p, s) in enumerate(pairs, start=1))
        write_jsonl(folder / PREDICTIONS, records)
        write_json(folder / METRICS, {**metrics, "run": {**(run or {}), **facts}})
    return metrics


def evaluate_examples(
    task: Task,
    examples: Sequence[Example],
    texts: Sequence[str],
    train_samples: Sequence[Sample] | None,
    encoder: ChatEncoder,
    out_dir: str | Path,
    *,
    run: Mapping[str, Any] | None = None,
    free: bool = True,
) -> dict[str, Any]:
    """As ``evaluate``, for examples of any task; only plans have floors.

    Answers that are not ``free`` followed the plan grammar, which makes every one Latent-Valid.
    """
    if isinstance(task, GsisrTask):
        samples = [example.context for example in examples]
        latents = encoder.latents if free and task.has_latents else None
        return evaluate(
            samples, texts, train_samples, task.library, out_dir, latents=latents, run=run
        )
    pairs = list(zip(examples, texts, strict=True))
    predictions = [Prediction(example.id, text, example.answer) for example, text in pairs]
    scores = [task.score(text, example, encoder) for example, text in pairs]
    metrics = summarize(predictions, scores)
    with atomic_directory(out_dir) as folder:
        rows = enumerate(zip(predictions, scores, strict=True), start=1)
        write_jsonl(folder / PREDICTIONS, (prediction_record(n, p, s) for n, (p, s) in rows))
        write_json(folder / METRICS, {**metrics, "run": dict(run or {})})
    return metrics


def check_rows(
    samples: Sequence[Sample], train_samples: Sequence[Sample] | None, library: IntentLibrary
) -> None:
    """GplanError where rows can't be evaluated, before a model spends time on them."""
    if not samples:
        raise GplanError("There are no rows to evaluate.")
    for number, sample in enumerate(samples, start=1):
        if not parse_plan(sample.raw_labels, library):
            raise GplanError(
                f"Row {number} (id {sample.id}) has no plan in raw_labels to score against; "
                "leave unlabelled rows out, or see their plans with `gplan plan`."
            )
    if train_samples is None:
        return
    if not any(parse_plan(sample.raw_labels, library) for sample in train_samples):
        raise GplanError("No training row has a plan, so there is nothing to fit the floors on.")
    both = set(train_samples) & set(samples)
    if both:
        raise GplanError(
            f"{len(both)} rows (one has id {min(s.id for s in both)}) are training rows and test "
            "rows at once, so the floors would know the answers; split the data by id."
        )


def score_file(
    path: str | Path, library: IntentLibrary, *, latents: LatentVocabulary = GSISR_LATENTS
) -> dict[str, Any]:
    """Computes the metrics of a predictions.jsonl again, from its texts alone.

    Needs "id", "text" and "label" (strings) in each row and reads "floors" where it stands;
    scores in the file are ignored. So it also scores another program's answers.
    """
    predictions = read_predictions(path, library)
    if not predictions:
        raise GplanError(f"{path} holds no predictions.")
    if len({frozenset(p.floors) for p in predictions}) > 1:
        raise GplanError(f"{path}: some rows carry other floors than the rest; score them apart.")
    scores = [
        score_text(p.text, p.label, library, latents if p.latent else None) for p in predictions
    ]
    return summarize(predictions, scores, library)


def summarize(
    predictions: Sequence[Prediction],
    scores: Sequence[RowScores],
    library: IntentLibrary | None = None,
) -> dict[str, Any]:
    """Means with intervals of the model and each floor, all in [0, 1], and what failed how often.

    {"rows", "ids": counts, "model": {measure: mean}, "floors": {name: {measure: mean}},
    "intervals": {"model": {measure: [low, high]}, "floors": {name: the same}, "method": text},
    "floors_left_out": reason or None, "latent_failures": {reason: rows}, "violations":
    {"tier/code": rows}}.
    """
    ids = [p.prompt_id for p in predictions]
    measures = [m for m in scores[0].values if all(m in score.values for score in scores)]
    model, model_intervals = _means(scores, measures, ids)
    floors: dict[str, dict[str, float]] = {}
    floor_intervals: dict[str, dict[str, list[float]]] = {}
    for name in predictions[0].floors:
        assert library is not None  # what has floors are plans
        floor_scores = [score_text(p.floors[name], p.label, library) for p in predictions]
        floors[name], floor_intervals[name] = _means(floor_scores, FLOOR_MEASURES, ids)
    return {
        "rows": len(predictions),
        "ids": len(set(ids)),
        "model": model,
        "floors": floors,
        "floors_left_out": None if floors else NO_FLOORS,
        "intervals": {
            "model": model_intervals,
            "floors": floor_intervals,
            "method": INTERVAL_METHOD.format(" and ".join(_shares(measures))),
        },
        "latent_failures": _count(
            s.latent_failure.partition(":")[0] for s in scores if s.latent_failure
        ),
        "violations": _count(
            f"{tier}/{code}" for s in scores for tier, code in sorted(set(s.violations))
        ),
    }


def _means(
    scores: Sequence[RowScores], measures: Sequence[str], ids: Sequence[str]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    values_NxM = np.array([[score.values[m] for m in measures] for score in scores])
    means = dict(zip(measures, values_NxM.mean(axis=0).tolist(), strict=True))
    intervals = dict(zip(measures, bootstrap_interval(values_NxM, ids).tolist(), strict=True))
    for share in _shares(measures):
        hits = sum(score.values[share] for score in scores)
        intervals[share] = list(wilson_interval(hits, len(scores)))
    return means, intervals


def _shares(measures: Sequence[str]) -> Sequence[str]:
    return [name for name in measures if name in ("acc1", "acc1_tool")] or measures[:1]


def _count(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0])))


def prediction_record(
    number: int, prediction: Prediction, scores: RowScores, library: IntentLibrary | None = None
) -> dict[str, Any]:
    """One line of predictions.jsonl, with plans by a library; ``number`` counts from 1."""
    record = {
        "row": number,
        "id": prediction.prompt_id,
        "text": prediction.text,
        "label": prediction.label,
        "scores": scores.values,
        "latent_failure": scores.latent_failure,
    }
    if library is None:
        return record
    return record | {
        "plan": parse_plan(prediction.text, library),
        "label_plan": parse_plan(prediction.label, library),
        "violations": [{"tier": tier, "code": code} for tier, code in scores.violations],
        "floors": dict(prediction.floors),
    }


def read_predictions(path: str | Path, library: IntentLibrary) -> list[Prediction]:
    """The texts of a predictions.jsonl; RowError where one is missing or no plan."""
    mend = 'Each row is a JSON object with the strings "id", "text" and "label".'
    predictions = []
    for number, row in read_records(path, ("id", "text", "label"), mend):
        if not parse_plan(row["label"], library):
            raise RowError(path, number, "label", "holds no plan to score against", mend)
        floors = row.get("floors", {})
        if not isinstance(floors, dict) or not all(isinstance(t, str) for t in floors.values()):
            raise RowError(path, number, "floors", "is not an object of plan texts", mend)
        # A file of `evaluate` has no such score where nobody asked for latents.
        latent = "latent_valid" in row["scores"] if row.get("scores") else True
        predictions.append(Prediction(row["id"], row["text"], row["label"], floors, latent))
    return predictions
