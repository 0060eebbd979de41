"""Seeds, and few-shot examples: which of them a teacher is shown for a context.

A seed is a context, the plan an expert approved for it, and the reasoning between the two: the
paper's "Intent-Environment-Logic" triplets (section 3.2). The intents are the plan, the environment
is the context, the logic is the reasoning.

Examples are taken from the context's own stratum (trigger and place), in an order that stands for
the stratum as a whole: each next one is the seed that makes the chosen ones most like all others,

    next = argmax_j sum_i max(s_ij - covered_i, 0),     covered_i = max over chosen k of s_ik,

the greedy rule of facility location (Nemhauser, Wolsey and Fisher 1978). s_ij is the Jaccard
similarity of two plans' intents and of their neighbouring pairs, so that a second seed with the
same plan adds nothing and comes after every other plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise, zip_longest
from pathlib import Path

import numpy as np

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    RowPlace,
    Sample,
    canonical_plan,
    check_plan,
    facts_of,
    parse_label,
    read_numbered_samples,
)
from gplan_jax.reasoning import ReasoningTrace

Stratum = tuple[str, str]
_MEND = "Mend the row, or make the seed file anew with gplan seeds import."


@dataclass(frozen=True, slots=True)
class Seed:
    """One triplet."""

    sample: Sample  # The context; ``raw_labels`` holds reasoning and plan in canonical form.
    plan: Plan
    trace: ReasoningTrace  # One STEP an intent.

    @property
    def stratum(self) -> Stratum:
        return stratum_of(self.sample)


def stratum_of(sample: Sample) -> Stratum:
    """(``Facts.order_type``, ``Facts.order_distance``): these two tell most about the plan."""
    facts = facts_of(sample)
    return facts.order_type, facts.order_distance


def read_seeds(path: str | Path, library: IntentLibrary) -> list[Seed]:
    """Reads a seed file: rows of the service, each with reasoning and a plan that passes.

    RowError where a row's times can't be read, it has no reasoning, or its label breaks the form,
    the library or a rule of the filter.
    """
    rows = read_numbered_samples(path, form=library.rows)
    return [read_seed(sample, library, RowPlace(path, row)) for row, sample in rows]


def read_seed(sample: Sample, library: IntentLibrary, where: RowPlace) -> Seed:
    """Checks one labelled sample in full; RowError as ``read_seeds`` says."""
    try:
        facts_of(sample)
    except GplanError as error:
        raise _fault(where, None, str(error)) from None
    try:
        label = parse_label(sample, library, where)
    except RowError as error:
        raise _fault(where, sample.form.label, error.problem) from None
    if label.trace is None:
        raise _fault(where, sample.form.label, "a seed needs its reasoning before the plan")
    if broken := check_plan(label.text, library):
        raise _fault(where, sample.form.label, "; ".join(violation.message for violation in broken))
    return Seed(sample.with_label(label.text), label.plan, label.trace)


def _fault(where: RowPlace, column: str | None, problem: str) -> RowError:
    return RowError(where.file, where.row, column, problem.rstrip("."), _MEND)


class SeedPool:
    """Seeds to choose examples from. The choice depends on the seeds, not on their order."""

    def __init__(self, seeds: Sequence[Seed]) -> None:
        # In an order that follows nothing in the seeds.
        def hashed(seed: Seed) -> tuple[bytes, str, str]:
            texts = repr(tuple(seed.sample.to_dict().values()))
            digest = hashlib.sha256(texts.encode()).digest()
            return digest, seed.sample.id, seed.sample.raw_labels

        def ranked(group: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(group[i] for i in spread([self._seeds[i].plan for i in group]))

        self._seeds = tuple(sorted(seeds, key=hashed))
        self._strata = tuple(seed.stratum for seed in self._seeds)
        self._ranked = lru_cache(maxsize=None)(ranked)

    def __len__(self) -> int:
        return len(self._seeds)

    def examples(self, sample: Sample, count: int) -> tuple[Seed, ...]:
        """Up to ``count`` seeds for a context: its stratum's, then its trigger's, then any.

        All samples of a stratum get the same ones in the same order, so that servers can cache the
        prompt up to the context; a seed with the sample's own id is left out.
        """
        ordered = self._in_order(stratum_of(sample))
        return tuple(islice((seed for seed in ordered if seed.sample.id != sample.id), count))

    def _in_order(self, stratum: Stratum) -> Iterator[Seed]:
        trigger, _ = stratum
        own = tuple(i for i, s in enumerate(self._strata) if s == stratum)
        like = tuple(i for i, s in enumerate(self._strata) if s[0] == trigger and s != stratum)
        others = tuple(i for i, s in enumerate(self._strata) if s[0] != trigger)
        for group in (own, like, others):
            yield from (self._seeds[i] for i in self._ranked(group))


def spread(plans: Sequence[Plan]) -> list[int]:
    """The places of ``plans`` in greedy facility-location order; of equals the first comes first.

    >>> first, second = [{"工具名称": "tool_8"}], [{"工具名称": "tool_9"}]
    >>> spread([first, second, second])
    [1, 0, 2]
    """
    places: dict[str, list[int]] = {}
    for place, plan in enumerate(plans):
        places.setdefault(canonical_plan(plan), []).append(place)
    alike = list(places.values())
    if not alike:
        return []
    # Jaccard similarities of the plans' intents and neighbouring pairs of intents.
    features = []
    for own in alike:
        intents = ["", *(canonical_plan([intent]) for intent in plans[own[0]])]
        features.append(
            {*intents[1:], *(f"{one} {next_one}" for one, next_one in pairwise(intents))}
        )
    number = {name: i for i, name in enumerate(sorted(set().union(*features)))}
    has_PxF = np.zeros((len(alike), len(number)))
    for row, names in enumerate(features):
        has_PxF[row, [number[name] for name in names]] = 1
    both_PxP = has_PxF @ has_PxF.T
    sizes_P = has_PxF.sum(axis=1)
    similarity_PxP = both_PxP / (sizes_P[:, None] + sizes_P - both_PxP)
    # The different plans, each weighing as many seeds as have it.
    weights_P, covered_P = np.array([len(own) for own in alike]), np.zeros(len(alike))
    waiting = np.ones(len(alike), dtype=bool)
    ranked = []
    for _ in alike:
        gains_P = np.maximum(similarity_PxP - covered_P, 0) @ weights_P
        # Rounded, so that sums in another order can't settle a tie.
        best = int(np.argmax(np.where(waiting, np.round(gains_P, 9), -1)))
        ranked.append(alike[best])
        waiting[best] = False
        covered_P = np.maximum(covered_P, similarity_PxP[best])
    # Every plan once, then those that have a second seed, and so on.
    return [place for turn in zip_longest(*ranked) for place in turn if place is not None]
