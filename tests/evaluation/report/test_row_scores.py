"""Scores of a run's plans, its slices and its confusions: parts that sum to the whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gplan_jax.evaluation.comparison.results import ComparisonResults, read_results
from gplan_jax.evaluation.report import row_scores
from gplan_jax.evaluation.report.row_scores import (
    ArmRowScores,
    DisplayName,
    confusion_of,
    intent_label,
    order_type_label,
    score_results,
)
from gplan_jax.evaluation.significance.arm_summary import MEASURES
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl, write_json, write_jsonl
from gplan_jax.gsisr import IntentLibrary, parse_plan, score_prediction


def test_means_are_those_of_the_summary_and_of_the_metric(
    results: ComparisonResults, scores: ArmRowScores, library: IntentLibrary
) -> None:
    for arm in results.arms:
        for measure in MEASURES:
            by_hand = [
                getattr(score_prediction(text, row.label, library), measure)
                for row in results.rows
                for text in row.arms[arm].constrained
            ]
            assert scores.constrained[arm][measure].mean() == pytest.approx(np.mean(by_hand))
            assert results.summary.arms[arm][measure].mean == pytest.approx(np.mean(by_hand))


def test_a_summary_of_other_predictions_is_refused(
    run_folder: Path, library: IntentLibrary
) -> None:
    summary = read_json(run_folder / "summary.json")
    summary["arms"]["tiger"]["nes"]["mean"] += 0.01
    write_json(run_folder / "summary.json", summary)
    with pytest.raises(GplanError, match=r"says nes .* of tiger, but .* Remove summary.json"):
        score_results(read_results(run_folder), library)


def test_a_label_without_a_plan_is_refused(run_folder: Path, library: IntentLibrary) -> None:
    rows = list(read_jsonl(run_folder / "predictions.jsonl"))
    rows[4]["label"] = "nothing"
    write_jsonl(run_folder / "predictions.jsonl", rows)
    with pytest.raises(GplanError, match=r"line 5: the label holds no plan"):
        score_results(read_results(run_folder), library)


@pytest.mark.parametrize(
    "make",
    [row_scores.by_order_type, row_scores.by_day_part, row_scores.by_hour, row_scores.by_distance],
)
def test_slices_sum_to_the_total(make, results: ComparisonResults, scores: ArmRowScores) -> None:  # type: ignore[no-untyped-def]
    found = make(results, scores)
    assert sorted(i for one in found for i in one.rows.tolist()) == list(range(40))


def test_means_of_slices_make_up_the_mean_of_all(
    results: ComparisonResults, scores: ArmRowScores
) -> None:
    keys = [["even", "odd"][i % 2] for i in range(40)]
    labels = {"even": DisplayName("even"), "odd": DisplayName("odd")}
    found = row_scores.slices_of(keys, labels, results, scores)
    for arm in results.arms:
        cells = [one.cells[arm] for one in found]
        whole = sum(c.mean * one.count for c, one in zip(cells, found, strict=True)) / 40
        assert whole == pytest.approx(results.summary.arms[arm]["acc1"].mean)
        assert all(0 <= c.low <= c.mean <= c.high <= 1 for c in cells)


def test_small_slices_are_folded_and_have_no_figures_alone(
    results: ComparisonResults, scores: ArmRowScores
) -> None:
    keys = ["many"] * 34 + ["few"] * 4 + ["one", "two"]
    labels = {key: DisplayName(key) for key in ("few", "one", "two", "many")}
    many, rest = row_scores.slices_of(keys, labels, results, scores)
    assert (many.count, many.few, rest.label.own, rest.count) == (34, False, "all others", 6)
    assert not rest.cells and set(many.cells) == set(results.arms)


def test_confusions_sum_to_rows_times_seeds(
    results: ComparisonResults, scores: ArmRowScores, library: IntentLibrary
) -> None:
    for arm in results.arms:
        confusion = confusion_of(arm, scores, library)
        seeds = len(results.rows[0].arms[arm].constrained)
        assert sum(confusion.rows_wanted) == 40
        assert confusion.counts.sum(axis=1).tolist() == [seeds * n for n in confusion.rows_wanted]
        right = scores.constrained[arm]["acc1"].sum()
        assert confusion.counts.trace() >= right


def test_confusions_by_hand(
    results: ComparisonResults, scores: ArmRowScores, library: IntentLibrary
) -> None:
    confusion = confusion_of("trigger_table", scores, library)
    pairs = Counter(
        tuple(
            str(parse_plan(text, library)[0])
            for text in (r.label, *r.arms["trigger_table"].constrained)
        )
        for r in results.rows
    )
    wanted = Counter(str(parse_plan(row.label, library)[0]) for row in results.rows)
    (most, count), *_ = wanted.most_common(1)
    assert confusion.rows_wanted[0] == count
    assert confusion.counts[0, 0] == pairs[most, most]


def test_answers_without_a_plan_have_their_own_column(
    run_folder: Path, library: IntentLibrary
) -> None:
    rows = list(read_jsonl(run_folder / "predictions.jsonl"))
    for row in rows:
        row["arms"]["trigger_table"]["constrained"] = ["no plan at all"]
    write_jsonl(run_folder / "predictions.jsonl", rows)
    summary = read_json(run_folder / "summary.json")
    for measure in MEASURES:
        summary["arms"]["trigger_table"][measure]["mean"] = 0.0
    write_json(run_folder / "summary.json", summary)
    scores = score_results(read_results(run_folder), library)
    counts = confusion_of("trigger_table", scores, library).counts
    assert counts[:, -1].sum() == 40 == counts.sum()


@pytest.mark.parametrize(
    ("plan", "own", "english"),
    [
        (
            '[{"工具名称":"tool_1","起始位置":"当前位置","终点位置":"家"}]',
            "打车 当前位置→家",
            "ride here → home",
        ),
        ('[{"工具名称":"tool_7","tag":"加油站"}]', "推荐附近的一个地点 加油站", "fuel: one nearby"),
        ('[{"工具名称":"tool_9"}]', "查天气", "weather"),
        ('[{"工具名称":"tool_7","tag":"新的"}]', "推荐附近的一个地点 新的", ""),
    ],
)  # fmt: skip
def test_intents_have_short_names(
    plan: str, own: str, english: str, library: IntentLibrary
) -> None:
    [intent] = parse_plan(plan, library)
    assert intent_label(intent, library) == DisplayName(own, english)


def test_every_admissible_intent_has_an_english_name_of_its_own(library: IntentLibrary) -> None:
    from gplan_jax.gsisr.filter import admissible_intents

    names = [intent_label(intent, library).english for intent in admissible_intents(library)]
    assert all(names) and len(set(names)) == len(names)


def test_other_libraries_keep_their_own_words(library: IntentLibrary) -> None:
    other = library.model_copy(update={"name": "other"})
    assert intent_label({"工具名称": "tool_9"}, other).short == "查天气"
    assert order_type_label("酒店") == DisplayName("酒店", "hotel")
    assert order_type_label("新").short == "新"
