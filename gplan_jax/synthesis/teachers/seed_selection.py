"""Few-shot examples: which seeds a teacher is shown for a context.

Seeds are taken from the context's own stratum (trigger and place), in an order that stands for the
stratum as a whole: each next one is the seed that makes the chosen ones most like all the others,

    next = argmax_j sum_i max(s_ij - covered_i, 0),     covered_i = max over chosen k of s_ik,

the greedy rule of facility location (Nemhauser, Wolsey and Fisher 1978). s_ij is the Jaccard
similarity of two plans' intents and of their neighbouring pairs, so that a second seed with the
same plan adds nothing and comes after every other plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise, zip_longest

import numpy as np

from gplan_jax.gsisr import Plan, Sample, canonical_plan
from gplan_jax.synthesis.teachers.seed import Seed, Stratum, stratum_of


class SeedPool:
    """Seeds to choose examples from. The choice depends on the seeds, not on their order."""

    def __init__(self, seeds: Sequence[Seed]) -> None:
        # In an order that follows nothing in the seeds.
        self._seeds = tuple(sorted(seeds, key=_hashed))
        self._strata = tuple(seed.stratum for seed in self._seeds)
        self._ranked = lru_cache(maxsize=None)(self._rank)

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

    def _rank(self, group: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(group[i] for i in spread([self._seeds[i].plan for i in group]))


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
    ranked = [alike[i] for i in _greedy([plans[a[0]] for a in alike], [len(a) for a in alike])]
    # Every plan once, then those that have a second seed, and so on.
    return [place for turn in zip_longest(*ranked) for place in turn if place is not None]


def _greedy(plans: Sequence[Plan], counts: Sequence[int]) -> list[int]:
    """The order of different plans, of which the i-th stands for ``counts[i]`` seeds."""
    if not plans:
        return []
    # Jaccard similarities of the plans' intents and neighbouring pairs of intents.
    features = []
    for plan in plans:
        intents = ["", *(canonical_plan([intent]) for intent in plan)]
        features.append(
            {*intents[1:], *(f"{one} {next_one}" for one, next_one in pairwise(intents))}
        )
    number = {name: i for i, name in enumerate(sorted(set().union(*features)))}
    has_PxF = np.zeros((len(plans), len(number)))
    for row, names in enumerate(features):
        has_PxF[row, [number[name] for name in names]] = 1
    both_PxP = has_PxF @ has_PxF.T
    sizes_P = has_PxF.sum(axis=1)
    similarity_PxP = both_PxP / (sizes_P[:, None] + sizes_P - both_PxP)
    weights_P, covered_P = np.array(counts), np.zeros(len(plans))
    waiting = np.ones(len(plans), dtype=bool)
    order = []
    for _ in plans:
        gains_P = np.maximum(similarity_PxP - covered_P, 0) @ weights_P
        # Rounded, so that sums in another order can't settle a tie.
        best = int(np.argmax(np.where(waiting, np.round(gains_P, 9), -1)))
        order.append(best)
        waiting[best] = False
        covered_P = np.maximum(covered_P, similarity_PxP[best])
    return order


def _hashed(seed: Seed) -> tuple[bytes, str, str]:
    texts = tuple(seed.sample.to_dict().values())
    return hashlib.sha256(repr(texts).encode()).digest(), seed.sample.id, seed.sample.raw_labels
