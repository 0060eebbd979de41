"""How much of a data set's first intents can be known: from the rules' facts, and by the floors."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from gplan_jax.baselines.floors import FLOORS
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, facts_of, parse_plan
from gplan_jax.synthesis.amap.planning import supported_openings
from gplan_jax.synthesis.amap.situation import situation_of

FOLDS = 5


def oracle_acc1(samples: Sequence[Sample]) -> float:
    """Acc@1 of who knows the world's rules, and the facts, but nobody's taste."""
    right = 0
    for sample in samples:
        weights: Counter[str] = Counter()
        for opening, weight in supported_openings(situation_of(facts_of(sample))):
            weights[canonical_plan(opening[:1])] += weight  # type: ignore[assignment]
        right += max(weights, key=weights.__getitem__) == _first(sample.raw_labels)
    return right / len(samples)


def floor_acc1(
    samples: Sequence[Sample], floor: str, library: IntentLibrary, *, seed: int = 0
) -> float:
    """Acc@1 of a floor in five folds by id, each fitted on the other four.

    Raises:
        GplanError: there are fewer users than folds.
    """
    users = sorted({sample.id for sample in samples})
    if len(users) < FOLDS:
        raise GplanError(f"{len(users)} users are too few for {FOLDS} folds.")
    random.Random(seed).shuffle(users)
    fold_of = {user: number % FOLDS for number, user in enumerate(users)}
    right = 0
    for fold in range(FOLDS):
        fitted = FLOORS[floor]([s for s in samples if fold_of[s.id] != fold], library)
        held_out = [sample for sample in samples if fold_of[sample.id] == fold]
        right += sum(_first(fitted.predict(s)) == _first(s.raw_labels) for s in held_out)
    return right / len(samples)


def _first(label: str) -> str:
    return canonical_plan(parse_plan(label)[:1])
