from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.seeds.review_file import Decision, ReviewVerdict
from gplan_jax.synthesis.seeds.reviewer_agreement import (
    agreement_of,
    agreement_tables,
    kappa,
    measure,
)
from gplan_jax.synthesis.seeds.seed_candidates import Draft, SeedCandidate

WORDS: dict[str, ReviewVerdict] = {"a": "accept", "e": "edit", "r": "reject", "-": ""}


def decisions(candidates: list[SeedCandidate], letters: str) -> dict[int, Decision]:
    made = {}
    for candidate, letter in zip(candidates, letters, strict=True):
        draft = candidate.proposal
        if letter == "e":
            draft = Draft(draft.plan[::-1], draft.reasoning)
        if letter != "-":
            made[candidate.row] = Decision(candidate.row, draft, WORDS[letter])
    return made


def test_kappa_of_a_table_worked_out_by_hand() -> None:
    """Both say yes 20 times, both no 15; only the first says yes 5 times, only the second 10.

    p_o = 35 / 50 = 0.7; p_e = 25/50 * 30/50 + 25/50 * 20/50 = 0.3 + 0.2 = 0.5; kappa = 0.2 / 0.5.
    """
    first = ["yes"] * 20 + ["yes"] * 5 + ["no"] * 10 + ["no"] * 15
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    found = measure("x", first, second)
    assert found.agreed == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)
    assert found.interval is not None
    low, high = found.interval
    # The large-sample standard error (Fleiss, Cohen and Everitt 1969) is 0.127 here.
    assert low == pytest.approx(0.4 - 1.96 * 0.127, abs=0.04)
    assert high == pytest.approx(0.4 + 1.96 * 0.127, abs=0.04)
    assert measure("x", first, second) == found  # The same resamples each time.


answers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(answers)
def test_kappa_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    found = kappa(np.array(pairs).T, 4)
    if found is None:
        assert len(set(pairs)) == 1 and pairs[0][0] == pairs[0][1]
        return
    expected = metrics.cohen_kappa_score(*zip(*pairs, strict=True), labels=range(4))
    assert found == pytest.approx(expected)


def test_agreement_that_says_nothing_is_undefined() -> None:
    found = measure("x", ["a"] * 9, ["a"] * 9)
    assert (found.agreed, found.kappa, found.interval) == (1.0, None, None)
    assert dataclasses.astuple(measure("x", [], [])) == ("x", 0, None, None, None)


def test_two_reviewers_are_compared_on_what_both_decided(
    candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    first = decisions(candidates, "aaaaaeeerr--")
    second = decisions(candidates, "aaaarearra-a")
    found = agreement_of(first, second, candidates, library)
    assert (found.both, found.only_first, found.only_second) == (10, 0, 1)
    assert found.confusion == {
        "accept": {"accept": 4, "edit": 0, "reject": 1},
        "edit": {"accept": 1, "edit": 1, "reject": 1},
        "reject": {"accept": 1, "edit": 0, "reject": 1},
    }
    verdict, kept, intent, plan = found.measures
    # p_o = 6/10; p_e = (5 * 6 + 3 * 1 + 2 * 3) / 100 = 0.39.
    assert verdict.agreed == pytest.approx(0.6)
    assert verdict.kappa == pytest.approx((0.6 - 0.39) / 0.61)
    # Kept: both 6, only the first 2, only the second 1, neither 1: p_e = (8 * 7 + 2 * 3) / 100.
    assert kept.kappa == pytest.approx((0.7 - 0.62) / 0.38)
    assert plan.count == intent.count == 6 and plan.agreed == pytest.approx(5 / 6)
    assert [d.row for d in found.differences] == [5, 7, 8, 10]
    assert found.differences[1].about == "verdict, plan"
    assert found.differences[1].plans[0] != found.differences[1].plans[1]


def test_a_reworded_reason_is_a_difference_too(
    candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    first = decisions(candidates, "e" * 12)
    second = decisions(candidates, "e" * 12)
    draft = Draft(second[3].draft.plan, {**second[3].draft.reasoning, "STEP_1": "别的"})
    second[3] = dataclasses.replace(second[3], draft=draft)
    found = agreement_of(first, second, candidates, library)
    assert [(d.row, d.about) for d in found.differences] == [(3, "reasoning")]


def test_reviews_without_a_common_row_cannot_be_compared(
    candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    first, second = (decisions(candidates, f) for f in ("aaaaaa------", "------aaaaaa"))
    with pytest.raises(GplanError, match="no decided row in common"):
        agreement_of(first, second, candidates, library)


def test_the_result_is_json_and_tables(
    candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    first, second = (decisions(candidates, f) for f in ("aaaaaeeerr--", "aaaarearra-a"))
    found = agreement_of(first, second, candidates, library)
    value = json.loads(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
    assert value["both"] == 10 and value["measures"][0]["name"] == "verdict"
    assert not any(isinstance(m["kappa"], float) and math.isnan(m["kappa"])
                   for m in value["measures"])  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    for table in agreement_tables(found, "[red]a.csv", "b.csv"):
        console.print(table)
    text = console.export_text()
    assert "0.344" in text and "[red]a.csv" in text and "60.0%" in text
