"""How like real rows simulated ones are: distances aspect by aspect, and a classifier on trial.

The total variation distance of an aspect is half the sum of |real share - simulated share| over
its values: 0 where the shares agree, 1 where no value is common. The classifier is asked to tell a
simulated row from a real one; its area under the ROC curve (AUC) on users it was not trained on is
0.5 where it can only guess. Ids of places are left out of all of it: they tell where a row comes
from by design. So are dates: the public rows are all of one working day.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gplan_jax.foundation.errors import GplanError, load_extra
from gplan_jax.gsisr import (
    COLUMNS,
    Facts,
    IntentLibrary,
    Plan,
    Sample,
    canonical_plan,
    facts_of,
    parse_plan,
)
from gplan_jax.gsisr.facts import Behavior, Habit, long_term, place_kind, short_term
from gplan_jax.synthesis.rules.service_rules import ServiceRules, shipped_rules

TOOL, START, END, RANGE, TAG = IntentLibrary.load().keys
View = Literal["contexts", "plans", "all"]
Features = dict[str, float | str]
VIEWS: tuple[View, ...] = ("contexts", "plans", "all")
EMPTIABLE = tuple(c for c in COLUMNS if c.startswith(("profile", "trigger", "current_", "short")))
FACTS = (
    "order_type", "order_distance", "order_in_home_city", "order_at_home", "order_at_work",
    "minutes_since_order", "hours_to_start", "hours_to_end", "days_to_start",
    "starts_at_midnight", "phase", "order_recency", "order_visits", "hour", "day_part",
    "place_kind", "at_home", "at_work", "near_home", "near_work", "in_home_city",
    "place_recency", "place_visits", "hours_since_behavior", "locality", "recent_count",
)  # fmt: skip
WORDS = 120
FOLDS, ROUNDS, DRAWS, TRIED = 5, 150, 400, 60
_PLACE_ID = re.compile(r"p_\w*?\d+")


@dataclass(frozen=True)
class RowParts:
    """A row taken apart."""

    sample: Sample
    facts: Facts
    behaviors: tuple[Behavior, ...]
    habits: tuple[Habit, ...]
    plan: Plan


@dataclass(frozen=True)
class Separability:
    """How well the rows are told apart.

    Attributes:
        auc: area under the ROC curve over rows of users held out.
        low, high: its 95% interval, users drawn with replacement.
        telling: the features that the classifier misses most when they are shuffled, with the
            loss of AUC, the worst first.
    """

    auc: float
    low: float
    high: float
    telling: tuple[tuple[str, float], ...]


def take_apart(sample: Sample, library: IntentLibrary) -> RowParts:
    """Reads everything that the measures look at."""
    facts = facts_of(sample)
    return RowParts(
        sample,
        facts,
        short_term(sample.short_term_behavior_seq, facts.now),
        long_term(sample.long_term_behavior),
        parse_plan(sample.raw_labels, library),
    )


def is_working_day(sample: Sample) -> bool:
    """Whether the row is of a day like that of the public rows: no weekend, no holiday."""
    return sample.weekendflag == sample.holidayflag == "0"


def distances(real: Sequence[RowParts], simulated: Sequence[RowParts]) -> dict[str, float]:
    """Aspect -> total variation distance, in the order of ASPECTS."""
    return {name: _distance(aspect, real, simulated) for name, aspect in ASPECTS.items()}


def tell_apart(
    real: Sequence[RowParts], simulated: Sequence[RowParts], view: View, *, seed: int = 0
) -> Separability:
    """Trains the classifier (boosted trees) in five folds by user and tries it on held-out users.

    Args:
        real, simulated: the rows. For "plans" ``simulated`` is not used: the real contexts stand
            on both sides, once with their own plans and once with the rules' plans for them, so
            that nothing but the plans, given the facts, can tell.
        view: features of the "contexts" alone, of the "plans" beside the contexts, or of "all".
        seed: of folds and draws.

    Raises:
        GplanError: scikit-learn is missing, or there are too few users.
    """
    if view == "plans":
        simulated = answered_by_rules(real)
    sides = [*((row, 0) for row in real), *((row, 1) for row in simulated)]
    users = np.array([row.sample.id for row, _ in sides])
    if len(set(users)) < 2 * FOLDS:
        raise GplanError(f"{len(set(users))} users are too few to tell rows apart by {FOLDS} folds")
    words = _frequent_words([row for row, _ in sides])
    features = [_features(row, view, words) for row, _ in sides]
    return _on_trial(features, np.array([side for _, side in sides]), users, seed)


def answered_by_rules(rows: Iterable[RowParts]) -> list[RowParts]:
    """The same contexts with the plans of the rules."""
    library = IntentLibrary.load()
    rules = ServiceRules(library)
    found = []
    for row in rows:
        context = row.sample.with_label("")
        found.append(take_apart(context.with_label(rules.label(context)), library))
    return found


def _distance(
    aspect: Callable[[RowParts], Iterable[object]],
    real: Sequence[RowParts],
    simulated: Sequence[RowParts],
) -> float:
    one, other = (
        Counter(str(v) for row in rows for v in aspect(row)) for rows in (real, simulated)
    )
    if not one or not other:
        return 0.0 if one == other else 1.0
    return sum(abs(one[v] / one.total() - other[v] / other.total()) for v in one | other) / 2


def _column(name: str) -> Callable[[RowParts], Iterable[object]]:
    return lambda row: [getattr(row.facts, name)]


def _values(key: str) -> Callable[[RowParts], Iterable[object]]:
    return lambda row: [intent[key] for intent in row.plan if key in intent]


def _empty_profile(row: RowParts) -> Iterable[object]:
    names = (f"profile_feat_{i}" for i in range(1, 15))
    return ["".join("." if getattr(row.sample, name) else "0" for name in names)]


# What is compared: name -> the values that a row contributes.
ASPECTS: Mapping[str, Callable[[RowParts], Iterable[object]]] = {
    "order type": _column("order_type"),
    "order distance": _column("order_distance"),
    "type and distance": lambda row: [(row.facts.order_type, row.facts.order_distance)],
    "order phase": lambda row: [
        (row.facts.order_type, shipped_rules("amap").tell(row.sample).known["phase"])
    ],
    "order made, hours ago": lambda row: [_log2(row.facts.minutes_since_order, 60)],
    "order time missing": lambda row: [row.sample.trigger_5 == ""],
    "order end missing": lambda row: [row.sample.trigger_7 == ""],
    "place kind": _column("place_kind"),
    "place category": _column("place_category"),
    "home city": _column("in_home_city"),
    "order in home city": _column("order_in_home_city"),
    "hour": _column("hour"),
    "missing profile": _empty_profile,
    "profile tastes": lambda row: [len(row.sample.profile_feat_13.split("|"))],
    "behaviours": lambda row: [len(row.behaviors)],
    "behaviour locality": lambda row: [b.locality for b in row.behaviors],
    "behaviour kind": lambda row: [place_kind(b.category) for b in row.behaviors],
    "behaviour category": lambda row: [b.category for b in row.behaviors],
    "behaviour actions": lambda row: [b.actions for b in row.behaviors],
    "latest locality": _column("locality"),
    "recent behaviours": _column("recent_count"),
    "order looked at": _column("order_recency"),
    "place looked at": _column("place_recency"),
    "habits": lambda row: [len(row.habits)],
    "habit kind": lambda row: [place_kind(h.category) for h in row.habits],
    "habit actions": lambda row: [h.actions for h in row.habits],
    "repeated habits": lambda row: [len(set(row.habits)) < len(row.habits)],
    "plan length": lambda row: [len(row.plan)],
    "first intent": lambda row: [canonical_plan(row.plan[:1])],
    "last intent": lambda row: [canonical_plan(row.plan[-1:])],
    "intents": lambda row: [canonical_plan([intent]) for intent in row.plan],
    "tools": _values(TOOL),
    "tags": _values(TAG),
    "ranges": _values(RANGE),
    "starts": _values(START),
    "order of tools": lambda row: [tuple(intent[TOOL] for intent in row.plan)],
}


def _log2(value: float | None, unit: float) -> int | None:
    """The octave of a value; None where unknown."""
    return None if value is None else int(np.log2(max(value, 1) / unit))


def _frequent_words(rows: Iterable[RowParts]) -> set[str]:
    """The category words that most rows of both sides hold."""
    counts = Counter(word for row in rows for word in {*_history_words(row)})
    return {word for word, _ in counts.most_common(WORDS)}


def _history_words(row: RowParts) -> Iterable[str]:
    return [*(b.category for b in row.behaviors), *(h.category for h in row.habits)]


def _features(row: RowParts, view: View, words: set[str]) -> Features:
    context = _context_features(row, words)
    return context if view == "contexts" else context | _plan_features(row)


def _context_features(row: RowParts, words: set[str]) -> Features:
    sample, facts = row.sample, row.facts
    found: Features = {}
    for name in FACTS:
        value = getattr(facts, name)
        if isinstance(value, str) or (value is None and name.endswith(("home", "work", "city"))):
            found[f"{name}={value}"] = 1.0
        else:
            found[name] = np.nan if value is None else float(value)
    found["current_tag=" + sample.current_tag] = 1.0
    found |= {f"empty {column}": 1.0 for column in EMPTIABLE if not getattr(sample, column)}
    for column in ("short_term_behavior_seq", "long_term_behavior"):
        text = _PLACE_ID.sub("p", getattr(sample, column))
        found |= {f"length {column}": float(len(text))}
    for i in (1, 2, 3, 4, 10, 11, 12):
        found[f"profile_feat_{i}={getattr(sample, f'profile_feat_{i}')}"] = 1.0
    for i in (13, 14):
        codes = getattr(sample, f"profile_feat_{i}").split("|")
        found[f"codes profile_feat_{i}"] = float(len(codes))
        found |= {f"profile_feat_{i} has {code.split(':')[0]}": 1.0 for code in codes}
    return found | _history_features(row, words)


def _history_features(row: RowParts, words: set[str]) -> Features:
    behaviors, habits, now = row.behaviors, row.habits, row.facts.now
    ages = [(now - b.when).total_seconds() / 3600 for b in behaviors]
    counts = [h.count for h in habits]
    found: Counter[str] = Counter()
    for name, entries in (("short", behaviors), ("long", habits)):
        found.update(f"{name} kind {place_kind(entry.category)}" for entry in entries)
        found.update(f"{name} word {e.category}" for e in entries if e.category in words)
        found.update(f"{name} {act}" for entry in entries for act in entry.actions)
        found[f"{name} entries"] = len(entries)
        found[f"{name} places"] = len({entry.place for entry in entries})
    found.update(f"short {b.locality}" for b in behaviors)
    more = {
        "short oldest hours": max(ages, default=np.nan),
        "short median hours": float(np.median(ages)) if ages else np.nan,
        "short distinct hours": float(len(set(ages))),
        "long most": float(max(counts, default=0)),
        "long least": float(min(counts, default=0)),
        "long distinct counts": float(len(set(counts))),
    }
    return {**{name: float(count) for name, count in found.items()}, **more}


def _plan_features(row: RowParts) -> Features:
    found: Counter[str] = Counter()
    for position, intent in enumerate(row.plan, start=1):
        found[f"plan {position} {intent.get(TOOL)}"] = 1
        found[f"plan {position} {canonical_plan([intent])}"] = 1
        for key in (TOOL, START, END, RANGE, TAG):
            if key in intent:
                found[f"plan {key} {intent[key]}"] += 1
    found["plan length"] = len(row.plan)
    return {name: float(count) for name, count in found.items()}


def _on_trial(
    features: Sequence[Features], side_N: np.ndarray, users_N: np.ndarray, seed: int
) -> Separability:
    sklearn = _sklearn()
    with sklearn["threadpool_limits"](
        1
    ):  # Threads that wait for a busy core take ten times as long.
        return _cross_validated(sklearn, features, side_N, users_N, seed)


def _cross_validated(
    sklearn: dict[str, Any],
    features: Sequence[Features],
    side_N: np.ndarray,
    users_N: np.ndarray,
    seed: int,
) -> Separability:
    vectorizer = sklearn["DictVectorizer"](sparse=False)
    table_NxF = vectorizer.fit_transform(features)
    names = vectorizer.get_feature_names_out()
    scores_N, losses_F = np.zeros(len(side_N)), np.zeros(len(names))
    folds = sklearn["StratifiedGroupKFold"](FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(table_NxF, side_N, users_N):
        model = sklearn["HistGradientBoostingClassifier"](
            max_iter=ROUNDS, learning_rate=0.08, max_leaf_nodes=15, random_state=seed
        ).fit(table_NxF[train], side_N[train])
        scores_N[test] = model.predict_proba(table_NxF[test])[:, 1]
        losses_F += _losses(model, table_NxF[test], side_N[test], seed) / FOLDS
    low, high = _interval(scores_N, side_N, users_N, seed)
    worst = np.argsort(-losses_F)[:15]
    telling = tuple((str(names[i]), float(losses_F[i])) for i in worst if losses_F[i] > 0)
    return Separability(auc_of(scores_N, side_N), low, high, telling)


def _losses(model: Any, table_NxF: np.ndarray, side_N: np.ndarray, seed: int) -> np.ndarray:
    """[F]: by how much the AUC falls where one feature is shuffled among the rows.

    Only the TRIED features that tell most by themselves are shuffled.
    """
    generator = np.random.default_rng(seed)
    whole = auc_of(model.predict_proba(table_NxF)[:, 1], side_N)
    losses = np.zeros(table_NxF.shape[1])
    single_F = [
        abs(auc_of(np.nan_to_num(column, nan=-1e9), side_N) - 0.5) for column in table_NxF.T
    ]
    for feature in np.argsort(single_F)[-TRIED:]:
        shuffled = table_NxF.copy()
        shuffled[:, feature] = generator.permutation(shuffled[:, feature])
        losses[feature] = whole - auc_of(model.predict_proba(shuffled)[:, 1], side_N)
    return losses


def auc_of(scores_N: np.ndarray, side_N: np.ndarray) -> float:
    """The chance that a row of side 1 scores above one of side 0, ties counting half."""
    order, counts = np.unique(scores_N, return_inverse=True, return_counts=True)[1:]
    ranks_N = (np.cumsum(counts) - (counts - 1) / 2)[order]
    ones = int(side_N.sum())
    zeros = len(side_N) - ones
    return float((ranks_N[side_N == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def _interval(
    scores_N: np.ndarray, side_N: np.ndarray, users_N: np.ndarray, seed: int
) -> tuple[float, float]:
    """95% of the AUCs of as many users drawn with replacement."""
    generator = np.random.default_rng(seed)
    rows_of: dict[str, list[int]] = {}
    for i, user in enumerate(users_N):
        rows_of.setdefault(user, []).append(i)
    groups = [np.array(rows) for rows in rows_of.values()]
    found = []
    for _ in range(DRAWS):
        drawn = generator.integers(len(groups), size=len(groups))
        rows = np.concatenate([groups[i] for i in drawn])
        if 0 < side_N[rows].sum() < len(rows):
            found.append(auc_of(scores_N[rows], side_N[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _sklearn() -> dict[str, Any]:
    """What of scikit-learn is used, by name."""
    parts = {
        "sklearn.ensemble": "HistGradientBoostingClassifier",
        "sklearn.feature_extraction": "DictVectorizer",
        "sklearn.model_selection": "StratifiedGroupKFold",
        "threadpoolctl": "threadpool_limits",
    }
    return {
        name: getattr(load_extra(module, "baselines", "telling rows apart"), name)
        for module, name in parts.items()
    }
