"""Summaries of arms: figures, tests that fit the rows, verdicts, and bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from gplan_jax.evaluation.scores.intervals import mcnemar_pvalue
from gplan_jax.evaluation.scores.offline import FLOOR_MEASURES, score_text
from gplan_jax.evaluation.significance.arm_summary import (
    BCA,
    MCNEMAR,
    MEASURES,
    PERMUTATION,
    ArmDifference,
    ArmScores,
    ArmSummary,
    score_arm,
    summarize_arms,
)
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, canonical_plan
from gplan_jax.gsisr.filter import admissible_intents

ROWS = 120
SINGLE = [f"u{i:03}" for i in range(ROWS)]
REPEATED = [f"u{i // 2:03}" for i in range(ROWS)]


def arm(share: float, seed: int, *, seeds: int = 1, rows: int = ROWS) -> ArmScores:
    rng = np.random.default_rng(seed)
    hits = (rng.random((seeds, rows)) < share).astype(float)
    return {
        "acc1": hits,
        "ndcg3": np.clip(hits * 0.4 + rng.random((seeds, rows)) * 0.5, 0, 1),
        "nes": rng.random((seeds, rows)) * 0.5 + share / 2,
    }


ARMS = {
    "popularity_list": arm(0.3, 1),
    "trigger_table": arm(0.5, 2),
    "sasrec": arm(0.45, 3, seeds=3),
    "planner": arm(0.85, 4, seeds=3),
}


@pytest.fixture(scope="module")
def summary() -> ArmSummary:
    return summarize_arms(ARMS, SINGLE, reference=None)


def pair(summary: ArmSummary, first: str, second: str, measure: str) -> ArmDifference:
    [found] = [
        c for c in summary.comparisons if (c.first, c.second, c.measure) == (first, second, measure)
    ]
    return found


def test_the_best_floor_is_the_reference_and_neighbours_are_compared(summary: ArmSummary) -> None:
    assert summary.reference == "trigger_table"
    assert [(c.first, c.second) for c in summary.comparisons if c.measure == "nes"] == [
        ("popularity_list", "trigger_table"),
        ("sasrec", "trigger_table"),
        ("planner", "trigger_table"),
        ("sasrec", "planner"),
    ]
    without_floors = {"b": ARMS["planner"], "a": ARMS["sasrec"]}
    assert summarize_arms(without_floors, SINGLE, reference=None).reference == "b"


def test_every_arm_has_mean_interval_and_seeds_apart(summary: ArmSummary) -> None:
    line = summary.arms["sasrec"]["ndcg3"]
    values = ARMS["sasrec"]["ndcg3"]
    assert line.mean == pytest.approx(values.mean())
    assert line.low < line.mean < line.high
    means = values.mean(axis=1)
    assert line.seed_sd == pytest.approx(means.std(ddof=1))
    # t of 2 degrees of freedom at 0.975
    reach = 4.302652730 * means.std(ddof=1) / 3**0.5
    assert line.seed_high - line.mean == pytest.approx(reach)
    assert line.mean - line.seed_low == pytest.approx(reach)
    single = summary.arms["trigger_table"]["acc1"]
    assert (single.seeds, single.seed_sd, single.seed_low) == (1, None, None)
    assert [summary.arms["sasrec"][m].interval for m in MEASURES] == ["wilson_cluster", BCA, BCA]
    assert single.interval == "wilson"


def test_the_test_fits_the_rows(summary: ArmSummary) -> None:
    exact = pair(summary, "popularity_list", "trigger_table", "acc1")
    assert exact.method == MCNEMAR
    assert exact.p == mcnemar_pvalue(
        ARMS["popularity_list"]["acc1"][0], ARMS["trigger_table"]["acc1"][0]
    )
    assert pair(summary, "popularity_list", "trigger_table", "nes").method == PERMUTATION
    assert pair(summary, "sasrec", "trigger_table", "acc1").method == PERMUTATION
    repeated = summarize_arms(ARMS, REPEATED, reference=None)
    assert {c.method for c in repeated.comparisons} == {PERMUTATION}
    assert {c.clusters for c in repeated.comparisons} == {ROWS // 2}


def test_what_holds_is_significant_after_holm_and_away_from_0(summary: ArmSummary) -> None:
    assert pair(summary, "planner", "trigger_table", "acc1").holds
    assert not pair(summary, "sasrec", "trigger_table", "acc1").holds
    for found in summary.comparisons:
        excluded = found.low > 0 or found.high < 0
        assert found.holds == (found.p_holm < 0.05 and excluded)
        assert found.p_holm >= found.p
        assert found.low <= found.difference <= found.high


def test_holm_runs_over_the_comparisons_of_one_measure(summary: ArmSummary) -> None:
    for measure in MEASURES:
        family = sorted((c.p, c.p_holm) for c in summary.comparisons if c.measure == measure)
        worst = 0.0
        for rank, (p, p_holm) in enumerate(family):
            worst = max(worst, min(1.0, (len(family) - rank) * p))
            assert p_holm == pytest.approx(worst)


def test_swapped_arms_swap_the_sign_and_nothing_else() -> None:
    names = ("sasrec", "planner")
    one = summarize_arms({n: ARMS[n] for n in names}, REPEATED, reference="planner")
    other = summarize_arms({n: ARMS[n] for n in names[::-1]}, REPEATED, reference="sasrec")
    for first, second in zip(one.comparisons, other.comparisons, strict=True):
        assert first.difference == pytest.approx(-second.difference)
        # The ends are quantiles of the same resamples, mirrored.
        assert (first.low, first.high) == pytest.approx((-second.high, -second.low), abs=1e-9)
        assert (first.p, first.holds) == (second.p, second.holds)
    assert one.arms["sasrec"] == other.arms["sasrec"]


def taken(arms: dict[str, ArmScores], rows: Sequence[int]) -> dict[str, ArmScores]:
    return {name: {m: v[:, rows] for m, v in found.items()} for name, found in arms.items()}


def test_neither_the_order_of_rows_nor_of_seeds_matters() -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    plain = summarize_arms(ARMS, REPEATED, reference=None).model_dump()
    rows = summarize_arms(
        taken(ARMS, order.tolist()), [REPEATED[i] for i in order], reference=None
    ).model_dump()
    seeds = summarize_arms(
        {n: {m: v[::-1] for m, v in a.items()} for n, a in ARMS.items()},
        REPEATED,
        reference=None,
    ).model_dump()
    for other in (rows, seeds):
        for line, same in zip(plain["comparisons"], other["comparisons"], strict=True):
            for key, value in line.items():
                close = pytest.approx(value, abs=1e-8) if isinstance(value, float) else value
                assert same[key] == close, key
        for name, line in plain["arms"].items():
            for measure, figures in line.items():
                for key, value in figures.items():
                    close = pytest.approx(value, abs=1e-8) if isinstance(value, float) else value
                    assert other["arms"][name][measure][key] == close, key


def test_copied_rows_do_not_narrow_anything(summary: ArmSummary) -> None:
    twice = np.repeat(np.arange(ROWS), 2).tolist()
    copied = summarize_arms(taken(ARMS, twice), [SINGLE[i] for i in twice], reference=None)
    for once, same in zip(summary.comparisons, copied.comparisons, strict=True):
        assert (same.low, same.high) == pytest.approx((once.low, once.high), abs=1e-8)
        assert same.detectable == pytest.approx(once.detectable)
    for name, line in summary.arms.items():
        for measure, figures in line.items():
            other = copied.arms[name][measure]
            assert other.high - other.low >= figures.high - figures.low - 1e-8


def test_seeds_that_agree_are_counted_in_pairs() -> None:
    flat = np.zeros((1, 4))
    arms = {
        "mixed": {"nes": np.stack([flat[0] + 0.5, flat[0] + 0.4, flat[0] - 0.1])},
        "flat": {"nes": flat},
    }
    [found] = summarize_arms(arms, list("abcd"), reference="flat", measures=["nes"]).comparisons
    assert found.seeds_agree == pytest.approx(2 / 3)
    assert found.difference == pytest.approx(0.8 / 3)


def test_identical_arms_differ_by_nothing() -> None:
    arms = {"one": ARMS["sasrec"], "other": ARMS["sasrec"]}
    for found in summarize_arms(arms, REPEATED, reference="one").comparisons:
        figures = (found.difference, found.low, found.high, found.p, found.p_holm)
        assert figures == (0.0, 0.0, 0.0, 1.0, 1.0)
        assert not found.holds
        assert found.detectable == 0.0


def test_one_arm_is_summarized_without_comparisons() -> None:
    summary = summarize_arms({"only": ARMS["sasrec"]}, SINGLE, reference=None)
    assert summary.comparisons == []
    assert summary.detectable == {}
    assert summary.caption == f"{ROWS} rows of {ROWS} ids."


def test_the_summary_is_json_and_says_how_it_was_made(summary: ArmSummary) -> None:
    text = json.dumps(summary.model_dump(), allow_nan=False)
    found = json.loads(text)
    assert list(found["arms"]) == list(ARMS)
    assert found["reference"] == "trigger_table"
    assert (found["rows"], found["ids"]) == (ROWS, ROWS)
    assert set(found["detectable"]) == set(MEASURES)
    assert "95%" in found["method"]
    assert found["caption"].startswith(f"{ROWS} rows of {ROWS} ids.")
    assert f"NES {found['detectable']['nes']:.3f}" in found["caption"]
    assert "Holm" in found["method"]


def test_two_runs_give_the_same_figures(summary: ArmSummary) -> None:
    assert summarize_arms(ARMS, SINGLE, reference=None).model_dump() == summary.model_dump()


def broken(value: float) -> ArmScores:
    values = {m: v.copy() for m, v in ARMS["sasrec"].items()}
    values["nes"][1, 41] = value
    return values


@pytest.mark.parametrize(
    ("arms", "ids", "message"),
    [
        ({}, SINGLE, "nothing to summarize"),
        (ARMS, ["same"] * ROWS, "at least two ids"),
        ({"a": arm(0.5, 0, rows=1)}, ["u"], "at least two ids"),
        ({"a": ARMS["sasrec"], "b": arm(0.5, 0, rows=90)}, SINGLE, "arm b has .*same rows"),
        (ARMS, SINGLE[:-1], "same rows"),
        ({"a": broken(np.nan)}, SINGLE, "arm a, seed 1, row 42: nes is nan"),
        ({"a": broken(np.inf)}, SINGLE, "row 42: nes is inf"),
        ({"a": {"acc1": np.ones((1, ROWS))}}, SINGLE, "arm a has no scores in ndcg3"),
        (
            {"a": {m: np.ones((1 + (m == "nes"), ROWS)) for m in MEASURES}},
            SINGLE,
            "number of seeds",
        ),
        ({"a": dict.fromkeys(MEASURES, np.ones(ROWS))}, SINGLE, "seeds, rows"),
        ({"a": dict.fromkeys(MEASURES, np.ones((0, ROWS)))}, SINGLE, "seeds, rows"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arms: dict[str, ArmScores], ids: list[str], message: str
) -> None:
    with pytest.raises(GplanError, match=message):
        summarize_arms(arms, ids, reference=None)


def test_an_unknown_reference_and_an_impossible_level_are_refused() -> None:
    with pytest.raises(GplanError, match="reference tiger is no arm"):
        summarize_arms(ARMS, SINGLE, reference="tiger")
    with pytest.raises(GplanError, match="alpha is 5"):
        summarize_arms(ARMS, SINGLE, reference=None, alpha=5)


def test_without_the_extra_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(GplanError, match=r"install scipy: .*gplan-jax\[baselines\]"):
        summarize_arms(ARMS, SINGLE, reference=None)


LIBRARY = IntentLibrary.load()
INTENTS = admissible_intents(LIBRARY)


def text(*numbers: int) -> str:
    return canonical_plan([INTENTS[n] for n in numbers], LIBRARY)


LABELS = [text(0, 40, 60), text(100, 3, 70, 80), text(0, 41, 61)]
ANSWERS = [text(0, 40, 61), "no plan at all", text(0, 41, 61)]


def test_an_arms_scores_are_those_of_an_evaluation() -> None:
    arm_scores = score_arm([ANSWERS, LABELS], LABELS, LIBRARY)
    assert set(arm_scores) == set(FLOOR_MEASURES)
    for measure, values in arm_scores.items():
        assert values.shape == (2, 3)
        expected = [
            score_text(answer, label, LIBRARY).values[measure]
            for answer, label in zip(ANSWERS, LABELS, strict=True)
        ]
        assert values[0].tolist() == expected
    assert arm_scores["exact"][1].tolist() == [1, 1, 1]
    assert arm_scores["acc1"][0].tolist() == [1, 0, 1]


def test_an_answer_for_each_row_is_needed() -> None:
    with pytest.raises(GplanError, match="2 answers for 3 rows"):
        score_arm([ANSWERS[:2]], LABELS, LIBRARY)


def test_a_label_without_a_plan_is_refused() -> None:
    with pytest.raises(GplanError, match="no plan to score against"):
        score_arm([ANSWERS], ["no plan", *LABELS[1:]], LIBRARY)
