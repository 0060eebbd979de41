"""What the metrics reward: scores of answers whose quality is known beforehand, on the same rows.

A metric that gives a high score to a list that never looks at the row, or to the label in any
order, can't tell planners apart there. The static lists are each metric's floor.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from gplan_jax.baselines.floors.counting import PopularityList
from gplan_jax.evaluation.scores.intervals import Clusters, bca_intervals
from gplan_jax.evaluation.significance.arm_summary import score_arm
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan
from gplan_jax.gsisr.filter import admissible_intents, plan_rules

MEASURES = (
    "acc1",
    "ndcg3",
    "nes",
    "ndcg3_unique",
    "ndcg3_positional",
    "exact",
    "filter_pass",
    "acc1_tool",
    "ndcg3_tool",
)
TITLES = {
    "label": "the label itself",
    "label_shuffled": "the label in another order",
    "label_reversed": "the label backwards",
    "first_repeated": "the label's first intent, repeated",
    "other_row": "another row's label, same order type",
    "random_plan": "a random plan that keeps the rules",
}


@dataclass(frozen=True)
class StudyRow:
    """What the study needs of a row."""

    id: str  # rows of one user share it
    plan: Plan  # the label's
    order_type: str
    fold: int  # rows of other folds are this row's training rows


def metric_study(
    rows: Sequence[StudyRow], library: IntentLibrary, *, seed: int = 0
) -> dict[str, Any]:
    """Scores telling answers on labelled rows.

    The answers: static lists of the 1, 2, ... most frequent intents of the other folds' plans (as
    many as the longest of these has), the label itself, in another random order, backwards, cut
    after its first 1, 2, ... intents, its first intent repeated to its length, the label of a
    random row with another id and the same order type (with any order type where there is none),
    and a random plan that keeps the library's rules and has the length of some other fold's plan.

    {"rows", "ids", "measures": names, "answers": [{"name", "title", "scores": {measure: mean},
    "intervals": {measure: [low, high]} (95%, BCa over ids)}], "floor": {measure: {"answer",
    "score"}} (the best static list), "findings": sentences with these figures}.
    """
    if not rows:
        raise GplanError("There are no rows to study the metrics on.")
    clusters = Clusters.of([row.id for row in rows])
    training = {f: [row.plan for row in rows if row.fold != f] for f in {r.fold for r in rows}}
    if not all(training.values()):
        raise GplanError(
            "All rows are in one fold, so no plans are left to count the static lists in."
        )
    answers = _answers(rows, training, library, random.Random(seed))
    labels = [canonical_plan(row.plan, library) for row in rows]
    scored = [score_arm([texts], labels, library) for texts in answers.values()]
    values_AxMxN = np.array([[scores[m][0] for m in MEASURES] for scores in scored])
    bounds_AxMx2 = bca_intervals(values_AxMxN.reshape(-1, len(rows)), clusters, seed=seed).reshape(
        *values_AxMxN.shape[:2], 2
    )
    scores = {
        name: dict(zip(MEASURES, means_M, strict=True))
        for name, means_M in zip(answers, values_AxMxN.mean(axis=2).tolist(), strict=True)
    }
    static = [name for name in answers if name.startswith("static_")]
    best = {m: max(static, key=lambda name: scores[name][m]) for m in MEASURES}
    floor = {m: {"answer": best[m], "score": scores[best[m]][m]} for m in MEASURES}
    return {
        "rows": len(rows),
        "ids": clusters.count,
        "measures": list(MEASURES),
        "answers": [
            {
                "name": name,
                "title": _title(name),
                "scores": scores[name],
                "intervals": dict(zip(MEASURES, bounds_Mx2, strict=True)),
            }
            for name, bounds_Mx2 in zip(answers, bounds_AxMx2.tolist(), strict=True)
        ],
        "floor": floor,
        "findings": _findings(scores, floor),
    }


def _answers(
    rows: Sequence[StudyRow],
    training: Mapping[int, Sequence[Plan]],
    library: IntentLibrary,
    draw: random.Random,
) -> dict[str, list[str]]:
    """Name -> a plan text for each row."""
    longest = max(len(plan) for plans in training.values() for plan in plans)
    answers: dict[str, list[str]] = {}
    # The most frequent intents of each fold's training plans.
    samples = {
        fold: [Sample.from_context({"raw_labels": canonical_plan(p, library)}) for p in plans]
        for fold, plans in training.items()
    }
    for k in range(1, longest + 1):
        lists = {fold: PopularityList.fit(s, library, k=k).plan for fold, s in samples.items()}
        answers[f"static_{k}"] = [lists[row.fold] for row in rows]

    def shuffled(plan: Plan) -> Plan:
        """Another order than the plan's own; the plan where it has but one intent."""
        order = list(range(len(plan)))
        while len(plan) > 1 and order == sorted(order):
            draw.shuffle(order)
        return [plan[i] for i in order]

    # The label, whole and changed.
    changes: dict[str, Callable[[Plan], Plan]] = {
        "label": lambda plan: plan,
        "label_shuffled": shuffled,
        "label_reversed": lambda plan: plan[::-1],
        **{f"label_first_{k}": itemgetter(slice(k)) for k in range(1, longest)},
        "first_repeated": lambda plan: plan[:1] * len(plan),
    }
    plans = {name: [change(row.plan) for row in rows] for name, change in changes.items()}

    # Plans that know nothing of the row: that of another id, of the same order type where there is
    # one ...
    of_type: dict[str, list[StudyRow]] = defaultdict(list)
    for row in rows:
        of_type[row.order_type].append(row)
    single = {kind for kind, found in of_type.items() if len({row.id for row in found}) == 1}
    plans["other_row"] = []
    for row in rows:
        choices = rows if row.order_type in single else of_type[row.order_type]
        other = draw.choice(choices)
        while other.id == row.id:
            other = draw.choice(choices)
        plans["other_row"].append(other.plan)
    # ... and one at random, by the rules, as long as some training plan (or the rules' nearest).
    intents = admissible_intents(library)
    rules = plan_rules(library, intents)
    plans["random_plan"] = []
    for row in rows:
        length = len(draw.choice(training[row.fold]))
        plan: Plan = []
        left, place = rules.all, False
        while len(plan) < min(max(length, rules.minimum), rules.maximum):
            open_intents = left if place else left & rules.free
            numbers = [i for i in range(len(intents)) if open_intents >> i & 1]
            if not numbers:
                break
            taken = draw.choice(numbers)
            plan.append(intents[taken])
            left &= ~rules.closes[taken]
            place = place or bool(rules.yields >> taken & 1)
        plans["random_plan"].append(plan)
    for name, made in plans.items():
        answers[name] = [canonical_plan(plan, library) for plan in made]
    return answers


def _title(name: str) -> str:
    kind, _, count = name.rpartition("_")
    if kind == "static":
        many = "most frequent intent" if count == "1" else f"{count} most frequent intents"
        return f"the {many}, for every row"
    if kind == "label_first":
        return f"the label cut after {count}"
    return TITLES[name]


def _findings(
    scores: Mapping[str, Mapping[str, float]], floor: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    best = floor["ndcg3"]
    static = scores[str(best["answer"])]
    shuffled, repeated = scores["label_shuffled"], scores["first_repeated"]
    other, noise = scores["other_row"], scores["random_plan"]
    return [
        f"{_title(str(best['answer'])).capitalize()}: NDCG@3 {best['score']:.3f} without a look "
        f"at the row, Acc@1 {static['acc1']:.3f}, {static['exact']:.3f} of the rows exact. "
        f"{_title('other_row').capitalize()}, has NDCG@3 {other['ndcg3']:.3f} and "
        f"Acc@1 {other['acc1']:.3f}.",
        f"NDCG@3 asks whether an intent is in the label, not where: {_title('label_shuffled')} "
        f"scores {shuffled['ndcg3']:.3f} (NDCG@3 by position {shuffled['ndcg3_positional']:.3f}, "
        f"NES {shuffled['nes']:.3f}, Acc@1 {shuffled['acc1']:.3f}).",
        f"It pays for repeats: {_title('first_repeated')} scores {repeated['ndcg3']:.3f}; "
        f"crediting each intent once leaves {repeated['ndcg3_unique']:.3f}, and the rule filter "
        f"passes {repeated['filter_pass']:.3f} of these plans.",
        f"NES pays for common intents: {_title('other_row')} has {other['nes']:.3f} with "
        f"{other['exact']:.3f} exact, and {_title('random_plan')} {noise['nes']:.3f}.",
        f"Exact match gives nothing away: {floor['exact']['score']:.3f} for the best static list, "
        f"{shuffled['exact']:.3f} for {_title('label_shuffled')}, {other['exact']:.3f} for "
        f"{_title('other_row')}.",
    ]
