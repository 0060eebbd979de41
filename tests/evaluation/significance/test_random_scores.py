"""Any table of scores ends in a summary that is JSON: no score is too even, no id too long."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.evaluation.scores.intervals import NO_SPREAD
from gplan_jax.evaluation.significance.arm_summary import summarize_arms

EXAMPLES = max(200, settings().max_examples)  # cheap ones; an option of the command line adds more

pytest.importorskip("statsmodels")


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Two or three arms on a few rows of uneven ids; many scores tie, some arms are constant."""
    ids = draw(st.lists(st.sampled_from("abcd"), min_size=3, max_size=8))
    ids[:2] = "ab"
    score = st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 2 / 3, 0.1, 0.7, 1e-9, 1 - 1e-12])
    rows = st.one_of(
        score.map(lambda value: [value] * len(ids)),
        st.lists(score, min_size=len(ids), max_size=len(ids)),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=len(ids), max_size=len(ids)),
        st.lists(st.floats(0, 1), min_size=len(ids), max_size=len(ids)),
    )
    arms = draw(st.lists(st.lists(rows, min_size=1, max_size=2), min_size=2, max_size=3))
    return {f"arm{i}": {"ndcg3": np.array(arm)} for i, arm in enumerate(arms)}, ids


@settings(max_examples=EXAMPLES)
@given(table=tables())
def test_any_scores_end_in_json(table: tuple[dict[str, dict[str, np.ndarray]], list[str]]) -> None:
    arms, ids = table
    summary = summarize_arms(arms, ids, reference="arm0", measures=["ndcg3"])
    json.dumps(summary.model_dump(), allow_nan=False)
    for name, arm in arms.items():
        mean = summary.arms[name]["ndcg3"]
        assert mean.low - NO_SPREAD <= mean.mean <= mean.high + NO_SPREAD
        if np.ptp(rows := arm["ndcg3"].mean(axis=0)) == 0 and rows[0] not in (0, 1):
            assert mean.high - mean.low < 1e-9 or mean.interval.startswith("wilson")
    for found in summary.comparisons:
        assert 0 < found.p <= found.p_holm <= 1
        assert found.low <= found.high


def test_an_arm_alike_on_every_row_has_an_interval_without_width() -> None:
    """Also where an id has two rows: rounding of their sum is no spread."""
    ids = ["a", "a", "b", "c", "d", "e", "f", "g"]
    arms = {
        "one": {"ndcg3": np.full((1, 8), 2 / 3)},
        "other": {"ndcg3": np.full((1, 8), 1 / 3)},
    }
    summary = summarize_arms(arms, ids, reference="other", measures=["ndcg3"])
    (found,) = summary.comparisons
    assert found.low == found.high == pytest.approx(1 / 3)
    assert found.p == pytest.approx(2 / 2**7) and found.holds
