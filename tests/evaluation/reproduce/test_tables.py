"""Verdicts on claims, from scores that were made to hold, to contradict or to say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gplan_jax.evaluation.comparison.known_arms import known_arms
from gplan_jax.evaluation.reproduce.paper import MARGINS, PAPER, RECIPES, TITLES, Claim
from gplan_jax.evaluation.reproduce.tables import Outcome, judge_claims, reproduce_table
from gplan_jax.foundation import GplanError

ROWS, SEEDS = 300, 5
IDS = [str(row) for row in range(ROWS)]


def scores(difference: float, *, seeds: int = SEEDS, seed_sd: float = 0.0) -> dict[str, dict]:
    """Two arms whose means differ by about that much; the same rows are hard for both."""
    rng = np.random.default_rng(0)
    hard_N = rng.normal(0.5, 0.2, ROWS)
    shift_Sx1 = rng.permutation(np.linspace(-1, 1, seeds))[:, None] * seed_sd
    noise = 0.02
    first = hard_N + difference + shift_Sx1 + rng.normal(0, noise, (seeds, ROWS))
    second = hard_N + rng.normal(0, noise, (seeds, ROWS))
    return {"picd": {"acc1": first}, "cot_sft": {"acc1": second}}


@pytest.mark.parametrize(
    ("difference", "says", "outcome"),
    [
        (0.1, "higher", "holds"),
        (-0.1, "higher", "contradicted"),
        (0.0, "higher", "not told apart"),
        (0.1, "same", "holds"),
        (0.0, "same", "holds"),
        (-0.1, "same", "contradicted"),
    ],
)
def test_a_verdict_is_what_the_scores_were_made_for(
    difference: float, says: str, outcome: Outcome
) -> None:
    claim = Claim("picd", "cot_sft", "acc1", says)  # type: ignore[arg-type]
    [verdict] = judge_claims([claim], scores(difference), IDS)
    assert verdict.outcome == outcome
    assert verdict.difference == pytest.approx(difference, abs=0.01)
    assert verdict.low < verdict.difference < verdict.high


def test_rows_alone_decide_nothing_where_seeds_scatter_or_there_is_one() -> None:
    claim = Claim("picd", "cot_sft", "acc1")
    # Over rows the difference is beyond doubt; over seeds it is 0.05 +- 0.3.
    [scattered] = judge_claims([claim], scores(0.05, seed_sd=0.3), IDS)
    assert scattered.low > 0 and scattered.p < 0.05
    assert scattered.seed_low is not None and scattered.seed_low < 0
    [alone] = judge_claims([claim], scores(0.1, seeds=1), IDS)
    assert alone.low > 0 and alone.seed_low is None
    assert scattered.outcome == alone.outcome == "not told apart"


def test_the_interval_over_seeds_is_the_paired_t_tests() -> None:
    found = scores(0.01, seed_sd=0.02)
    first_S, second_S = (found[arm]["acc1"].mean(axis=1) for arm in ("picd", "cot_sft"))
    expected = stats.ttest_rel(first_S, second_S).confidence_interval(0.95)
    [verdict] = judge_claims([Claim("picd", "cot_sft", "acc1")], found, IDS)
    assert (verdict.seed_low, verdict.seed_high) == pytest.approx((expected.low, expected.high))


def test_a_loss_within_the_margin_is_no_contradiction_of_same() -> None:
    claim = Claim("picd", "cot_sft", "acc1", "same")
    [verdict] = judge_claims([claim], scores(-MARGINS["acc1"] / 2), IDS)
    assert verdict.outcome == "holds" and verdict.high < 0


@pytest.mark.parametrize("name", PAPER)
def test_every_claim_is_about_arms_and_measures_that_exist(name: str) -> None:
    table, arms = PAPER[name], {*RECIPES, *known_arms()}
    assert set(table.figures) <= arms and set(table.measures) <= set(TITLES)
    assert all(len(figures) == len(table.measures) for figures in table.figures.values())
    for claim in table.claims:
        assert {claim.first, claim.second} <= set(table.arms)
        assert claim.measure in table.measures
        assert claim.says == "higher" or claim.measure in MARGINS


def test_paper_scale_wants_a_checkpoint(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GplanError, match="give --model DIR"):
        reproduce_table("table2", tmp_path, scale="paper", seeds=2)
