"""Means over scored rows, combining judges, and pairwise outcomes."""

from __future__ import annotations

from itertools import permutations
from math import isclose
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.evaluation.judge.aggregate import (
    Compared,
    Judged,
    Level,
    Outcome,
    combined,
    krippendorff_alpha,
    outcome_of,
    summarize_pairs,
    summarize_scores,
)
from gplan_jax.evaluation.judge.judgement import Choice, Preference

AXES = ("flow", "logic")
values = st.lists(st.one_of(st.none(), st.integers(1, 5).map(float)), min_size=1, max_size=6)


def judged(row: int, scores: tuple[float, ...] | None, why: str = "cut off") -> Judged:
    if scores is None:
        return Judged("a", row, f"u{row}", "unscored", None, why)
    return Judged("a", row, f"u{row}", "scored", scores)


def test_an_unscored_row_is_no_three() -> None:
    rows = [judged(1, (5, 4)), judged(2, None), judged(3, (1, 4)),
            Judged("a", 4, "u4", "no_plan", None)]  # fmt: skip
    result = summarize_scores({"j": rows}, AXES, combine="mean", seed=0)
    figures = result["sources"]["a"]["judges"]["j"]
    assert figures["means"] == {"flow": 3.0, "logic": 4.0, "overall": 3.5}
    assert (figures["scored"], figures["unscored"], figures["no_plan"]) == (2, 1, 1)
    assert figures["intervals"]["logic"] == [4.0, 4.0]
    assert result["unscored"] == {"j": {"cut off": 1}}
    assert result["alpha"] is None and result["sources"]["a"]["combined"] is None


def test_nothing_scored_has_no_means() -> None:
    result = summarize_scores({"j": [judged(1, None)]}, AXES, combine="mean", seed=0)
    assert result["sources"]["a"]["judges"]["j"]["means"] is None


def test_two_judges_have_an_agreement_and_combine() -> None:
    both = {
        "x": [judged(1, (5, 1)), judged(2, (3, 3)), judged(3, (1, 5))],
        "y": [judged(1, (5, 5)), judged(2, (3, 3)), judged(3, None)],
    }
    result = summarize_scores(both, AXES, combine="mean", seed=0)
    assert result["alpha"]["flow"] == {"ordinal": 1.0, "interval": 1.0}
    assert result["alpha"]["logic"]["interval"] < 0
    together = result["sources"]["a"]["combined"]
    assert (together["scored"], together["unscored"]) == (2, 1)
    assert together["means"] == {"flow": 4.0, "logic": 3.0, "overall": 3.5}


@given(values)
def test_combining_needs_more_than_half(given_values: list[float | None]) -> None:
    told = [v for v in given_values if v is not None]
    by_mean = combined(given_values, "mean", default=3)
    by_vote = combined(given_values, "majority", default=3)
    if 2 * len(told) <= len(given_values):
        assert by_mean is None and by_vote is None
    else:
        assert by_mean == pytest.approx(mean(told))
        assert by_vote in told
        assert told.count(by_vote) == max(map(told.count, told))


def test_a_tied_vote_goes_to_the_default_and_then_down() -> None:
    assert combined([5, 3, 1], "majority", default=3) == 3
    assert combined([5, 5, 4, 4], "majority", default=3) == 4
    assert combined([4, 2], "majority", default=3) == 2
    assert combined([5, 5, 1], "majority", default=3) == 5


@pytest.mark.parametrize(
    ("forth", "back", "outcome"),
    [("first", "second", "win"), ("second", "first", "loss"), ("first", "first", "tie"),
     ("second", "second", "tie"), ("tie", "tie", "tie"), ("first", "tie", "tie"),
     ("tie", "first", "tie"), (None, "second", "unscored"), ("first", None, "unscored")],
)  # fmt: skip
def test_a_win_needs_both_orders(
    forth: Choice | None, back: Choice | None, outcome: Outcome
) -> None:
    assert outcome_of(Preference(forth, ""), Preference(back, "")) == outcome


def test_win_rate_and_position_bias() -> None:
    rows = [
        Compared("u1", "win", ("first", "second")),
        Compared("u1", "tie", ("first", "first")),
        Compared("u2", "tie", ("first", "tie")),
        Compared("u3", "loss", ("second", "first")),
        Compared("u4", "unscored", ("first", None)),
        Compared("u5", "identical"),
    ]
    result = summarize_pairs({"j": rows}, combine="mean", seed=0)
    line = result["judges"]["j"]
    assert [line[k] for k in ("win", "tie", "loss", "unscored", "identical")] == [1, 2, 1, 1, 1]
    assert line["win_rate"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    low, high = line["interval"]
    assert 0 <= low <= line["win_rate"] <= high <= 1
    assert line["first_share"] == pytest.approx(5 / 7)  # Seven preferences, two for the second.
    assert line["inconsistent"] == 1 / 4
    assert result["combined"] is None


def test_nothing_told_is_no_win_rate() -> None:
    result = summarize_pairs({"j": [Compared("u", "identical")]}, combine="mean", seed=0)
    line = result["judges"]["j"]
    assert (
        line["win_rate"] is line["interval"] is line["first_share"] is line["inconsistent"] is None
    )


def test_the_judges_of_a_pair_combine() -> None:
    judges = {
        "x": [Compared("u", "win", ("first", "second")), Compared("v", "identical")],
        "y": [Compared("u", "tie", ("tie", "tie")), Compared("v", "identical")],
    }
    result = summarize_pairs(judges, combine="mean", seed=0)
    assert result["combined"] == {"rows": 1, "win_rate": 0.75, "interval": [0.75, 0.75]}


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
