"""What the metrics reward: identities that follow from their definitions."""

from __future__ import annotations

import json
import random
from math import log2
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.evaluation.significance.metric_study import (
    MEASURES,
    StudyRow,
    above_floor,
    metric_study,
    read_study_rows,
    study_rows,
)
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, check_plan
from gplan_jax.gsisr.plan_rules import admissible_intents, plan_rules

LIBRARY = IntentLibrary.load()
INTENTS = admissible_intents(LIBRARY)
# One intent of each kind that NDCG tells apart, free of what came before.
FREE = sorted(
    {
        LIBRARY.relevance_key(intent): i
        for i, intent in enumerate(INTENTS)
        if plan_rules(LIBRARY, INTENTS).free >> i & 1
    }.values()
)


def plan(*numbers: int) -> Plan:
    return [INTENTS[n] for n in numbers]


def rows(count: int = 40) -> list[StudyRow]:
    """Labels of 4 intents; two intents stand in all of them, at the end."""
    draw = random.Random(0)
    common, rest = FREE[:2], FREE[2:]
    return [
        StudyRow(
            id=f"u{i // 2:03}",
            plan=plan(*draw.sample(rest, 2), *common),
            order_type=("hotel", "fuel")[i % 4 == 0],
            fold=i // 2 % 4,
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return metric_study(rows(), LIBRARY)


def scores(study: dict[str, Any], name: str) -> dict[str, float]:
    [line] = [a for a in study["answers"] if a["name"] == name]
    return dict(line["scores"])


def test_the_label_has_all_and_its_order_is_what_ndcg_does_not_see(study: dict[str, Any]) -> None:
    label = scores(study, "label")
    assert [label[m] for m in MEASURES[:6]] == [1.0] * 6
    for name in ("label_shuffled", "label_reversed"):
        found = scores(study, name)
        assert found["ndcg3"] == found["ndcg3_unique"] == 1.0
        assert found["exact"] == 0.0
    assert scores(study, "label_reversed")["acc1"] == 0.0


def test_a_cut_label_loses_what_the_discount_says(study: dict[str, Any]) -> None:
    ideal = 1 + 1 / log2(3) + 1 / 2
    assert scores(study, "label_first_1")["ndcg3"] == pytest.approx(1 / ideal)
    assert scores(study, "label_first_2")["ndcg3"] == pytest.approx((1 + 1 / log2(3)) / ideal)
    assert scores(study, "label_first_3")["ndcg3"] == pytest.approx(1)
    # Of four intents k are kept, the rest is inserted.
    assert [scores(study, f"label_first_{k}")["nes"] for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert scores(study, "label_first_1")["acc1"] == 1.0


def test_repeats_are_paid_once_by_the_stricter_ndcg(study: dict[str, Any]) -> None:
    repeated = scores(study, "first_repeated")
    assert repeated["ndcg3"] == 1.0
    assert repeated["ndcg3_unique"] == pytest.approx(1 / (1 + 1 / log2(3) + 1 / 2))
    assert repeated["filter_pass"] == 0.0


def test_static_lists_are_the_floor(study: dict[str, Any]) -> None:
    two = scores(study, "static_2")
    assert two["ndcg3"] == pytest.approx((1 + 1 / log2(3)) / (1 + 1 / log2(3) + 1 / 2))
    static = [a for a in study["answers"] if a["name"].startswith("static_")]
    assert len(static) == 4
    for measure in MEASURES:
        assert study["floor"][measure]["score"] == max(a["scores"][measure] for a in static)
    [label] = [a for a in study["answers"] if a["name"] == "label"]
    assert label["above_floor"]["ndcg3"] == 1.0
    assert study["floor"]["exact"]["score"] == 0.0


def test_random_plans_keep_the_rules(study: dict[str, Any]) -> None:
    assert scores(study, "random_plan")["filter_pass"] == 1.0
    assert check_plan(canonical_plan(plan(*FREE[:2]), LIBRARY), LIBRARY)


def test_another_rows_label_is_never_the_same_ids() -> None:
    # Both ids' own plans are unlike, so a row that drew its own id would score.
    own, other = plan(*FREE[4:8]), plan(*FREE[8:12])
    found = [StudyRow("a", own, "x", 0), StudyRow("a", own, "x", 0), StudyRow("b", other, "y", 1)]
    assert scores(metric_study(found, LIBRARY), "other_row")["exact"] == 0.0


def test_intervals_hold_the_means_and_everything_is_json(study: dict[str, Any]) -> None:
    for answer in study["answers"]:
        for measure, mean in answer["scores"].items():
            low, high = answer["intervals"][measure]
            assert low - 1e-9 <= mean <= high + 1e-9
        assert answer["title"]
    assert json.loads(json.dumps(study, allow_nan=False)) == study
    assert (study["rows"], study["ids"]) == (40, 20)
    best = study["floor"]["ndcg3"]["score"]
    assert any(f"{best:.3f}" in sentence for sentence in study["findings"])


def test_training_plans_can_be_given_and_draws_repeat() -> None:
    training = [plan(*FREE[20:24])] * 3
    given = metric_study(rows(), LIBRARY, training=training, seed=3)
    assert scores(given, "static_4")["ndcg3"] < 0.5
    assert metric_study(rows(), LIBRARY, training=training, seed=3) == given


def test_scores_on_the_scale_from_floor_to_label() -> None:
    assert above_floor(0.75, 0.5) == 0.5
    assert above_floor(0.25, 0.5) == -0.5
    assert above_floor(1.0, 1.0) is None


def test_rows_come_from_samples_and_from_a_runs_file(tmp_path: Path) -> None:
    label = canonical_plan(plan(*FREE[:3]), LIBRARY)
    sample = Sample.from_context(
        {
            "id": "u1",
            "raw_labels": label,
            "trigger_1": "酒店",
            "currenttime": "2025-01-15 10:00:00",
        }
    )
    [row] = study_rows([sample], [2], LIBRARY)
    path = tmp_path / "predictions.jsonl"
    record = {"id": "u1", "label": label, "fold": 2, "facts": {"order_type": row.order_type}}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert read_study_rows(path, LIBRARY) == [row]
    with pytest.raises(GplanError, match="0 folds for 1 rows"):
        study_rows([sample], [], LIBRARY)
    with pytest.raises(GplanError, match=r"Row 1 \(id u1\) has no plan"):
        study_rows([sample.with_label("")], [0], LIBRARY)


@pytest.mark.parametrize("change", [{"fold": None}, {"facts": {}}, {"label": "none"}])
def test_broken_rows_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    label = canonical_plan(plan(*FREE[:3]), LIBRARY)
    record = {"id": "u", "label": label, "fold": 0, "facts": {"order_type": "x"}} | change
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(RowError, match="row 1"):
        read_study_rows(path, LIBRARY)


def test_too_little_is_refused() -> None:
    with pytest.raises(GplanError, match="no rows to study"):
        metric_study([], LIBRARY)
    one = rows(1)
    with pytest.raises(GplanError, match="at least two ids"):
        metric_study(one, LIBRARY)
    same_fold = [StudyRow(r.id, r.plan, r.order_type, 0) for r in rows()]
    with pytest.raises(GplanError, match="one fold"):
        metric_study(same_fold, LIBRARY)
