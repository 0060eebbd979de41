"""What the metrics reward: identities that follow from their definitions."""

from __future__ import annotations

import json
import random
from math import log2
from typing import Any

import pytest

from gplan_jax.evaluation.significance.metric_study import (
    MEASURES,
    StudyRow,
    metric_study,
)
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, canonical_plan, check_plan
from gplan_jax.gsisr.filter import admissible_intents, plan_rules

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


def test_draws_repeat_and_depend_on_the_seed(study: dict[str, Any]) -> None:
    assert metric_study(rows(), LIBRARY) == study
    other = metric_study(rows(), LIBRARY, seed=3)
    assert scores(other, "random_plan") != scores(study, "random_plan")
    assert scores(other, "static_4") == scores(study, "static_4")


def test_too_little_is_refused() -> None:
    with pytest.raises(GplanError, match="no rows to study"):
        metric_study([], LIBRARY)
    one = rows(1)
    with pytest.raises(GplanError, match="at least two ids"):
        metric_study(one, LIBRARY)
    same_fold = [StudyRow(r.id, r.plan, r.order_type, 0) for r in rows()]
    with pytest.raises(GplanError, match="one fold"):
        metric_study(same_fold, LIBRARY)
