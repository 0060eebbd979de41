"""Context sensitivity: does the plan follow time and place, on pairs of contexts of one user?

Every figure is computed from the texts of predictions.jsonl (one row a context) and from
pairs.jsonl (which two rows make a pair), so `score_folder` finds the same numbers again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gplan_jax.evaluation.scores import offline
from gplan_jax.evaluation.scores.intervals import RESAMPLES, bootstrap_interval
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import atomic_directory, read_records, write_json, write_jsonl
from gplan_jax.gsisr import (
    ContextPair,
    IntentLibrary,
    Plan,
    Sample,
    normalized_edit_similarity,
    parse_plan,
)
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary

PAIRS = "pairs.jsonl"
INTERVAL_METHOD = (
    f"95%: percentile bootstrap that draws whole anchor ids, {RESAMPLES} resamples, seed 0"
)
# NES is a sum of 0.3s and 1s: what differs by less than this differs by rounding alone.
TIE = 1e-9

Plans = Literal["differ", "equal"]
Generate = Callable[[Sequence[Sample]], list[str]]
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class AskedPair:
    """Two contexts of a user, whether the teacher's plans differ, and the predictions' rows."""

    key: str
    anchor_id: str
    perturbation: str
    plans: Plans
    rows: tuple[int, int]


@dataclass(frozen=True)
class Measured:
    """One model's answers on a set of pairs, and what each pair and context adds to a figure."""

    predictions: Sequence[offline.Prediction]
    pairs: Sequence[AskedPair]
    scores: Sequence[offline.RowScores]
    pair_values: Sequence[Mapping[str, float]]

    @property
    def label_values(self) -> list[dict[str, float]]:
        """Of each prediction, its scores against its label."""
        return [score.values for score in self.scores]

    @property
    def pair_ids(self) -> list[str]:
        return [pair.anchor_id for pair in self.pairs]

    @property
    def context_ids(self) -> list[str]:
        """The user's id of each prediction."""
        return [prediction.prompt_id for prediction in self.predictions]


def ask(
    differ: Iterable[ContextPair], equal: Iterable[ContextPair], generate: Generate
) -> tuple[list[offline.Prediction], list[AskedPair]]:
    """Plans every distinct context of the pairs once; ``generate`` never sees a label."""
    row_of: dict[Sample, int] = {}
    pairs = []
    kinds: tuple[tuple[Plans, Iterable[ContextPair]], ...] = (("differ", differ), ("equal", equal))
    for kind, members in kinds:
        for pair in members:
            first, second = (row_of.setdefault(c, len(row_of)) for c in pair.contexts)
            origin = pair.provenance
            asked = AskedPair(pair.key, origin.anchor, origin.perturbation, kind, (first, second))
            pairs.append(asked)
    unlabelled = [dataclasses.replace(sample, raw_labels="") for sample in row_of]
    contexts = list(dict.fromkeys(unlabelled))
    texts = dict(zip(contexts, generate(contexts), strict=True))
    predictions = [
        offline.Prediction(sample.id, texts[context], sample.raw_labels)
        for sample, context in zip(row_of, unlabelled, strict=True)
    ]
    return predictions, pairs


def score_pairs(
    predictions: Sequence[offline.Prediction],
    pairs: Sequence[AskedPair],
    library: IntentLibrary,
    latents: LatentVocabulary | None = GSISR_LATENTS,
) -> Measured:
    """Scores what ``ask`` returned; GplanError where there are no pairs."""
    if not pairs:
        raise GplanError("There are no context pairs to measure.")
    scores = [offline.score_text(p.text, p.label, library, latents) for p in predictions]
    return Measured(
        predictions, pairs, scores, [pair_values(pair, predictions, library) for pair in pairs]
    )


def write_folder(
    measured: Measured, library: IntentLibrary, out_dir: str | Path, run: Mapping[str, Any]
) -> None:
    """Writes predictions.jsonl, pairs.jsonl and metrics.json together into a new directory."""
    with atomic_directory(out_dir) as folder:
        rows = enumerate(zip(measured.predictions, measured.scores, strict=True), start=1)
        records = (offline.prediction_record(n, p, s, library) for n, (p, s) in rows)
        write_jsonl(folder / offline.PREDICTIONS, records)
        pairs = zip(measured.pairs, measured.pair_values, strict=True)
        lines = (
            {
                "pair": pair.key,
                "anchor_id": pair.anchor_id,
                "perturbation": pair.perturbation,
                "plans": pair.plans,
                "anchor": pair.rows[0] + 1,
                "counterfactual": pair.rows[1] + 1,
                "scores": dict(values),
            }
            for pair, values in pairs
        )
        write_jsonl(folder / PAIRS, lines)
        write_json(folder / offline.METRICS, {**summarize(measured), "run": dict(run)})


def read_folder(
    folder: str | Path, library: IntentLibrary, latents: LatentVocabulary | None = GSISR_LATENTS
) -> Measured:
    """Measures again from the texts and pairs of a folder; what was computed there is ignored."""
    predictions = offline.read_predictions(Path(folder) / offline.PREDICTIONS, library)
    path, pairs = Path(folder) / PAIRS, []
    mend = (
        f"Remove the folder and measure again; {offline.PREDICTIONS} and {PAIRS} belong together."
    )
    for number, row in read_records(path, ("pair", "anchor_id", "perturbation"), mend):
        if row.get("plans") not in ("differ", "equal"):
            raise RowError(path, number, "plans", 'is neither "differ" nor "equal"', mend)
        for key in ("anchor", "counterfactual"):
            if type(row.get(key)) is not int or not 1 <= row[key] <= len(predictions):
                raise RowError(path, number, key, f"is no row from 1 to {len(predictions)}", mend)
        rows = (row["anchor"] - 1, row["counterfactual"] - 1)
        found = AskedPair(row["pair"], row["anchor_id"], row["perturbation"], row["plans"], rows)
        pairs.append(found)
    return score_pairs(predictions, pairs, library, latents)


def summarize(measured: Measured) -> dict[str, Any]:
    """All figures with their intervals, also by perturbation.

    {"pairs": {"differ", "equal"}, "contexts", "anchors": counts, "figures": of the pairs, "labels":
    of all contexts against their own labels, "by_perturbation": {name: {"pairs", "figures"}},
    "method"}. A figure is {"mean", "interval": [low, high], "count": pairs or contexts it is the
    mean of}, all in [0, 1]; a figure without a pair is left out.
    """
    pairs, values, ids = measured.pairs, measured.pair_values, measured.pair_ids
    by_perturbation = {}
    for name in dict.fromkeys(pair.perturbation for pair in pairs):
        chosen = [n for n, pair in enumerate(pairs) if pair.perturbation == name]
        by_perturbation[name] = {
            "pairs": _counts(pairs[n] for n in chosen),
            "figures": _figures([values[n] for n in chosen], [ids[n] for n in chosen]),
        }
    return {
        "pairs": _counts(pairs),
        "contexts": len(measured.predictions),
        "anchors": len(set(ids)),
        "figures": _figures(values, ids),
        "labels": _figures(measured.label_values, measured.context_ids),
        "by_perturbation": by_perturbation,
        "method": INTERVAL_METHOD,
    }


def difference(base: Measured, other: Measured) -> dict[str, Figures]:
    """``other - base`` pair by pair and context by context, with intervals of its own.

    Both models answered the same contexts, so the interval of the mean difference is narrower than
    two intervals held beside one another: what makes a context hard cancels out. {"figures",
    "labels"} as in ``summarize``, the means in [-1, 1].
    """
    labels = [[p.label for p in measured.predictions] for measured in (base, other)]
    if base.pairs != other.pairs or labels[0] != labels[1]:
        raise GplanError("Models that were measured on different pairs can't be compared.")
    return {
        "figures": _figures(_less(other.pair_values, base.pair_values), base.pair_ids),
        "labels": _figures(_less(other.label_values, base.label_values), base.context_ids),
    }


def _less(
    values: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]]
) -> list[dict[str, float]]:
    rows = zip(values, base, strict=True)
    return [{m: row[m] - other[m] for m in row if m in other} for row, other in rows]


def pair_values(
    pair: AskedPair, predictions: Sequence[offline.Prediction], library: IntentLibrary
) -> dict[str, float]:
    """What one pair adds to each figure, in [0, 1].

    Where the teacher's plans are equal: ``stayed`` 1 if both answers hold the same plan. Where they
    differ: ``changed`` 1 if both answers hold a plan, not the same one; and, as means over the two
    contexts, ``right_context`` 1 if the answer is closer by NES to its own context's plan than to
    the other's, 1/2 if it is as close, ``exact_own`` and ``exact_other`` 1 if it is that very plan.
    """
    answers = [parse_plan(predictions[row].text, library) for row in pair.rows]
    both_planned, alike = all(answers), answers[0] == answers[1]
    if pair.plans == "equal":
        return {"stayed": float(both_planned and alike)}
    wanted = [parse_plan(predictions[row].label, library) for row in pair.rows]
    directions = list(zip(answers, wanted, wanted[::-1], strict=True))
    return {
        "changed": float(both_planned and not alike),
        "right_context": _mean(_closer(a, own, other, library) for a, own, other in directions),
        "exact_own": _mean(float(a == own) for a, own, _ in directions),
        "exact_other": _mean(float(a == other) for a, _, other in directions),
    }


def _closer(answer: Plan, own: Plan, other: Plan, library: IntentLibrary) -> float:
    lead = normalized_edit_similarity(answer, own, library) - normalized_edit_similarity(
        answer, other, library
    )
    return 0.5 if abs(lead) < TIE else float(lead > 0)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _counts(pairs: Iterable[AskedPair]) -> dict[str, int]:
    kinds = [pair.plans for pair in pairs]
    return {"differ": kinds.count("differ"), "equal": kinds.count("equal")}


def _figures(rows: Sequence[Mapping[str, float]], ids: Sequence[str]) -> Figures:
    """Mean and interval of each measure over the rows that have it."""
    figures: Figures = {}
    for measures in dict.fromkeys(tuple(row) for row in rows):
        chosen = [n for n, row in enumerate(rows) if tuple(row) == measures]
        values_NxM = np.array([[rows[n][m] for m in measures] for n in chosen])
        bounds = bootstrap_interval(values_NxM, [ids[n] for n in chosen]).tolist()
        for measure, mean, bound in zip(measures, values_NxM.mean(axis=0), bounds, strict=True):
            figures[measure] = {"mean": float(mean), "interval": bound, "count": len(chosen)}
    return figures
