"""What plans of like contexts go on with: counts that say which intent probably comes next.

A context is described by a few coarse facts. Every plan seen counts in a context as much as its own
context is like it, w = product over the facts in which they differ of UNLIKE[fact], so plans of
the nearest contexts weigh most. From these weighted plans the next intent (or the end) is counted
at four levels, each the prior of the next one:

    all intents -> those at this position -> those after the last intent -> those after this set

    p_level(x) = (w_level(x) + PSEUDO[level] * p_level-1(x)) / (w_level + PSEUDO[level])

below all of which lies a uniform distribution, so that nothing has probability 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, write_text
from gplan_jax.gsisr.facts import Facts, facts_of
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import Plan, canonical_plan
from gplan_jax.gsisr.samples import Sample

# What a plan still counts in a context that differs in this fact. These and PSEUDO were chosen by
# the leave-one-out likelihood of plans, of the public development rows and of simulated ones.
UNLIKE = {
    "order_type": 0.6,
    "order_distance": 0.08,
    "order_time": 0.08,
    "region": 0.03,
    "habitual": 0.8,
    "day_part": 0.1,
    "day_off": 0.1,
    "place_kind": 0.3,
    "attention": 0.8,
}
_LOG_UNLIKE = np.log(list(UNLIKE.values()))
UNLIKE_LENGTH = 0.1
PSEUDO_ALL, PSEUDO_POSITION, PSEUDO_LAST, PSEUDO_SET = 0.02, 0.8, 4.0, 0.4
END = 0
MOST_ENTRIES = 20_000
MOST_PLANS = 256
SOON_HOURS, DAY_HOURS, DINNER_ENDS = 3, 24, 21

ContextKey = tuple[str, ...]


def context_key(sample: Sample) -> ContextKey:
    """The coarse facts of a sample, in the order of UNLIKE; () where a time can't be read."""
    try:
        facts = facts_of(sample)
    except GplanError:
        return ()
    return (
        facts.order_type,
        facts.order_distance,
        _order_time(facts),
        str(facts.in_home_city),
        "home" if facts.at_home else "work" if facts.at_work else "",
        "dinner" if 18 <= facts.hour < DINNER_ENDS else facts.day_part,
        "holiday" if facts.holiday else "weekend" if facts.weekend else "",
        facts.place_kind,
        "order" if facts.order_recency == 0 else "other" if facts.other_category else "",
    )


@dataclass(frozen=True)
class NearPlans:
    """The plans that count in one context. P plans, L the most intents of one."""

    plans_PxL: np.ndarray  # int32 [P, L + 1], numbers of intents, then END, then -1
    sets_PxL: np.ndarray  # uint64 [P, L + 1], a hash of the set of the intents before each position
    weights_P: np.ndarray  # what each plan counts, all rows with it together
    base: np.ndarray  # float64 [number of intents + 1], probabilities of the first level


class _Row(Config):
    """How often a plan was seen in a context; ``plan`` is its place among the plans."""

    key: list[str]
    plan: int
    count: int


class _File(Config):
    """Counts as a file; ``plans`` hold places in ``intents``."""

    features: list[str]
    intents: list[str]
    plans: list[list[int]]
    rows: list[_Row]


class IntentCounts:
    """Counts of plans by context, for one thread. END = 0, intents from 1 on."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._values: list[dict[str, int]] = [{} for _ in UNLIKE]
        self._plans: dict[tuple[int, ...], int] = {}
        self._entries: dict[tuple[ContextKey, int], int] = {}
        self._codes = np.zeros((0, len(UNLIKE)), np.int32)
        self._plan_of = np.zeros(0, np.int32)
        self._counts = np.zeros(0)
        self._table = np.zeros((0, 1), np.int32)
        self._sets = np.zeros((0, 1), np.uint64)
        self.version = 0

    @classmethod
    def fit(cls, rows: Iterable[tuple[Sample, Plan]], library: IntentLibrary) -> IntentCounts:
        counts = cls()
        for sample, plan in rows:
            counts.add(context_key(sample), intent_texts(plan, library))
        return counts

    def __len__(self) -> int:
        return int(self._counts[: len(self._entries)].sum())

    def number(self, intent: str) -> int:
        """The number of an intent, given by its text; a new one where it has none yet."""
        return self._numbers.setdefault(intent, len(self._numbers) + 1)

    def add(self, key: ContextKey, plan: Sequence[str]) -> None:
        """Counts a plan, given by the texts of its intents.

        New pairs are passed over after MOST_ENTRIES, so a server adding its answers doesn't grow.
        """
        self._add(key, tuple(self.number(intent) for intent in plan), 1)

    def near(self, key: ContextKey, *, length: int = 0) -> NearPlans:
        """The plans that count in a context, the MOST_PLANS weightiest; the nearest counts 1.

        Plans of another ``length`` count less, where one is given.
        """
        entries, plans = len(self._entries), len(self._plans)
        codes = self._codes_of(key)
        unlike = self._codes[:entries] != codes
        logs = unlike @ _LOG_UNLIKE
        weights = np.exp(logs - logs.max(initial=-np.inf))
        weights *= self._counts[:entries]
        weights_P = np.bincount(self._plan_of[:entries], weights, minlength=plans)
        table, sets = self._table[:plans], self._sets[:plans]
        if length:
            lengths_P = np.count_nonzero(table > END, axis=1)
            weights_P = np.where(lengths_P == length, weights_P, weights_P * UNLIKE_LENGTH)
        if plans > MOST_PLANS:
            kept = np.argpartition(weights_P, -MOST_PLANS)[-MOST_PLANS:]
            table, sets, weights_P = table[kept], sets[kept], weights_P[kept]
        size = len(self._numbers) + 1
        plan, position = np.nonzero(table >= 0)
        base = _smoothed(
            table[plan, position], weights_P[plan], np.full(size, 1 / size), PSEUDO_ALL
        )
        return NearPlans(table, sets, weights_P, base)

    def probabilities(self, near: NearPlans, previous: Sequence[int]) -> np.ndarray:
        """float64 [number of intents + 1]: which intent follows ``previous``, [END] if none does.

        All are above 0 and add to 1; the caller leaves out intents that may not occur again.
        """
        found, size, position = near.base, len(self._numbers) + 1, len(previous)
        if len(found) < size:  # Intents that were numbered after ``near`` was made.
            found = np.concatenate([found, np.full(size - len(found), found.min())])
            found /= found.sum()
        if position >= near.plans_PxL.shape[1]:
            return found
        plans_PxL, next_P = near.plans_PxL, near.plans_PxL[:, position]
        open_P = next_P >= 0
        found = _smoothed(next_P[open_P], near.weights_P[open_P], found, PSEUDO_POSITION)
        if previous:
            plan, at = np.nonzero(plans_PxL[:, :-1] == previous[-1])
            found = _smoothed(plans_PxL[plan, at + 1], near.weights_P[plan], found, PSEUDO_LAST)
        same_P = open_P & (near.sets_PxL[:, position] == _set_hash(previous))
        return _smoothed(next_P[same_P], near.weights_P[same_P], found, PSEUDO_SET)

    def save(self, path: str | Path) -> None:
        content = _File(
            features=list(UNLIKE),
            intents=list(self._numbers),
            plans=[[number - 1 for number in plan] for plan in self._plans],
            rows=[
                _Row(key=list(key), plan=plan, count=int(self._counts[row]))
                for (key, plan), row in self._entries.items()
            ],
        )
        write_text(path, content.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> IntentCounts:
        """Reads a file of counts; GplanError where it is none, or of other facts."""
        path, counts = Path(path), cls()
        try:
            content = _File.model_validate(read_json(path))
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise _unusable(path, f"{where}: {fault['msg']} (given: {fault['input']!r})") from None
        if content.features != list(UNLIKE):
            raise _unusable(path, f"features are not {', '.join(UNLIKE)}")
        for number, intents in enumerate(content.plans):
            if not all(0 <= intent < len(content.intents) for intent in intents):
                raise _unusable(path, f"plans.{number}: {intents} names an intent not in the list")
        for intent in content.intents:
            counts.number(intent)
        for number, row in enumerate(content.rows):
            if len(row.key) not in (0, len(UNLIKE)) or row.count < 1:
                raise _unusable(path, f"rows.{number}: key {row.key}, count {row.count}")
            if not 0 <= row.plan < len(content.plans):
                raise _unusable(path, f"rows.{number}: there is no plan {row.plan}")
            plan = tuple(intent + 1 for intent in content.plans[row.plan])
            counts._add(tuple(row.key), plan, row.count)
        return counts

    def _add(self, key: ContextKey, plan: tuple[int, ...], count: int) -> None:
        entry = (key, self._plans.get(plan, -1))
        row = self._entries.get(entry)
        if row is None:
            if len(self._entries) >= MOST_ENTRIES:
                return
            row = self._new_entry(key, plan)
        self._counts[row] += count
        self.version += 1

    def _new_entry(self, key: ContextKey, plan: tuple[int, ...]) -> int:
        number = self._plans.get(plan)
        if number is None:
            number = self._plans[plan] = len(self._plans)
            width = max(len(plan) + 1, self._table.shape[1])
            self._table = _room(self._table, number, width, fill=-1)
            self._sets = _room(self._sets, number, width, fill=0)
            self._table[number, : len(plan) + 1] = (*plan, END)
            for position in range(len(plan) + 1):
                self._sets[number, position] = _set_hash(plan[:position])
        row = self._entries[(key, number)] = len(self._entries)
        self._codes = _room(self._codes, row, len(UNLIKE), fill=0)
        if row >= len(self._counts):
            more = np.zeros(row + 16, np.int32)
            self._plan_of = np.concatenate([self._plan_of, more])
            self._counts = np.concatenate([self._counts, more])
        if key:
            for values, value in zip(self._values, key, strict=True):
                values.setdefault(value, len(values))
        self._codes[row], self._plan_of[row], self._counts[row] = self._codes_of(key), number, 0
        return row

    def _codes_of(self, key: ContextKey) -> list[int]:
        """Numbers of a key's values, -1 in an empty key, -2 for a value never seen."""
        if not key:
            return [-1] * len(UNLIKE)
        return [values.get(value, -2) for values, value in zip(self._values, key, strict=True)]


def intent_texts(plan: Sequence[dict[str, str]], library: IntentLibrary) -> list[str]:
    """The intents of a plan as texts: each as a plan of its own in canonical writing."""
    return [canonical_plan([intent], library) for intent in plan]


def _order_time(facts: Facts) -> str:
    """Where now stands between the order's start and end, finer than ``facts.phase``."""
    start, end = facts.hours_to_start, facts.hours_to_end
    if start is None:
        return "unknown"
    if start > 0:
        if start <= SOON_HOURS and not facts.starts_at_midnight:
            return "soon"
        return "today" if facts.days_to_start == 0 else "later"
    if end is not None and end < 0:
        return "over"
    if end is not None and facts.hour + facts.now.minute / 60 + end <= DAY_HOURS:
        return "last_day"
    if facts.starts_at_midnight and facts.days_to_start == 0:
        return "first_day"
    return "started" if end is None and start < -SOON_HOURS else "during"


def _smoothed(
    next_N: np.ndarray, weights_N: np.ndarray, prior: np.ndarray, pseudo: float
) -> np.ndarray:
    """Weighted frequencies of ``next_N``, with ``pseudo`` observations of the prior."""
    counted = np.bincount(next_N, weights_N, minlength=len(prior))
    return (counted + pseudo * prior) / (weights_N.sum() + pseudo)


def _set_hash(intents: Sequence[int]) -> int:
    """A hash of a set of numbers that doesn't ask for their order: a sum of scrambled ones."""
    return sum((number + 1) * 0x9E3779B97F4A7C15 % 2**64 >> 8 for number in intents) % 2**64


def _room(table: np.ndarray, row: int, width: int, *, fill: int) -> np.ndarray:
    """The table with room for ``row`` and ``width`` columns; it doubles, so adding stays cheap."""
    if row < len(table) and width <= table.shape[1]:
        return table
    rows = len(table) if row < len(table) else 2 * row + 16
    larger = np.full((rows, width), fill, table.dtype)
    larger[: len(table), : table.shape[1]] = table
    return larger


def _unusable(path: Path, problem: str) -> GplanError:
    return GplanError(
        f"{path}: {problem}. Remove the file (drafts then start without counts), or train again."
    )
