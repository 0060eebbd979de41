"""Krippendorff's alpha: published figures, the definition by brute force, its identities."""

from __future__ import annotations

from itertools import permutations
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.evaluation.judge.agreement import Level, krippendorff_alpha

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section D: four observers,
# twelve units, missing data. It prints nominal 0.743, ordinal 0.815 and interval 0.849.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
EXAMPLE = list(zip(*OBSERVERS, strict=True))

scores = st.one_of(st.none(), st.integers(1, 5))
tables = st.integers(2, 4).flatmap(
    lambda m: st.lists(st.lists(scores, min_size=m, max_size=m), min_size=1, max_size=9)
)


def by_brute_force(ratings: list[list[int | None]], level: Level) -> float | None:
    """1 - (mean distance within units) / (mean distance over all pairable scores), pair by pair."""
    units = [[score for score in unit if score is not None] for unit in ratings]
    units = [unit for unit in units if len(unit) > 1]
    pool = [score for unit in units for score in unit]

    def distance(a: int, b: int) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return float((a - b) ** 2)
        low, high = sorted((a, b))
        between = sum(low <= score <= high for score in pool)
        return (between - (pool.count(a) + pool.count(b)) / 2) ** 2

    expected = [distance(a, b) for a, b in permutations(pool, 2)]
    if not any(expected):
        return None
    observed = sum(
        distance(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)
    )
    return 1 - (observed / len(pool)) / (sum(expected) / len(expected))


@pytest.mark.parametrize(
    ("level", "printed"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_the_published_example(level: Level, printed: float) -> None:
    alpha = krippendorff_alpha(EXAMPLE, level)
    assert alpha is not None and round(alpha, 3) == printed


@pytest.mark.parametrize("level", LEVELS)
@given(ratings=tables)
def test_it_is_the_definition_pair_by_pair(level: Level, ratings: list[list[int | None]]) -> None:
    alpha, wanted = krippendorff_alpha(ratings, level), by_brute_force(ratings, level)
    if wanted is None:
        assert alpha is None
    else:
        assert alpha is not None and isclose(alpha, wanted, abs_tol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_full_agreement_is_one_and_no_variation_is_nothing(level: Level) -> None:
    assert krippendorff_alpha([[1, 1], [4, 4], [None, 2], [5, 5]], level) == 1
    assert krippendorff_alpha([[3, 3], [3, 3]], level) is None
    assert krippendorff_alpha([[3, None], [None, 2]], level) is None
    assert krippendorff_alpha([], level) is None
