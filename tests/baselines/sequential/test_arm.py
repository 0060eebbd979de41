"""The four arms on invented rows whose order decides the plan."""

from __future__ import annotations

from typing import Any

import pytest

from gplan_jax.baselines.fitting.arms import ARMS, Arm, Fitted
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.sequential.arm import BERT4REC, REAREC_ERL, REAREC_PRL, SASREC
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import parse_config
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan

LIBRARY = IntentLibrary.load()
CARD, WEATHER, REMINDER, TRAIN = ({"工具名称": f"tool_{n}"} for n in (6, 9, 8, 3))
RIDE = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
PARKING = {"工具名称": "tool_7", "tag": "停车场"}
PLANS = {"酒店": [RIDE, WEATHER, REMINDER], "门票": [PARKING, CARD, TRAIN, WEATHER]}
ODD = [{"工具名称": "tool_99"}, WEATHER, REMINDER]
SIZES: dict[str, Any] = {
    "hidden": 16, "heads": 2, "inner": 16, "layers": 1, "batch_size": 16, "learning_rate": 0.02,
    "epochs": 60, "patience": 60, "warmup_steps": 2, "decoding_batch": 16, "dropout": 0.0,
}  # fmt: skip


def row(order: str, number: int, plan: list[dict[str, str]]) -> Sample:
    return Sample.from_context(
        {
            "id": f"u{number}",
            "profile_feat_1": str(number % 3),
            "currenttime": "2025-05-01 09:00:00",
            "trigger_1": order,
            "raw_labels": canonical_plan(plan, LIBRARY),
        }
    )


def rows(count: int) -> list[Sample]:
    return [row(order, n, plan) for n in range(count) for order, plan in PLANS.items()]


def fitted(arm: Arm, train: list[Sample], **changes: Any) -> Fitted:
    settings = parse_config(arm.settings, SIZES | changes, source="test")
    return arm.fit(train, rows(4), settings, InputMode.FULL, LIBRARY, 0)


@pytest.mark.parametrize(
    "arm",
    [
        SASREC,
        BERT4REC,
        pytest.param(REAREC_ERL, marks=pytest.mark.slow),
        pytest.param(REAREC_PRL, marks=pytest.mark.slow),
    ],
    ids=lambda arm: arm.name,
)
def test_it_learns_what_the_order_decides(arm: Arm) -> None:
    found = fitted(arm, [*rows(12), row("酒店", 99, ODD)])
    unlabelled = [sample.with_label("") for sample in rows(3)]
    for constrained in (True, False):
        texts = found.predictor.predict(unlabelled, constrained=constrained)
        assert texts == [sample.raw_labels for sample in rows(3)]
    assert found.predictor.predict([], constrained=True) == []
    assert found.predictor.parameters > 1000
    assert found.best is not None and found.best["validation_loss"] > 0
    # A type of order that training never saw still gets a plan that obeys the rules.
    [text] = found.predictor.predict([row("船票", 1, ODD)], constrained=True)
    assert not check_plan(text, LIBRARY)


def test_rows_without_a_usable_plan_are_no_training_rows() -> None:
    with pytest.raises(GplanError, match="No training row has a usable plan"):
        fitted(SASREC, [row("酒店", 1, ODD)])


@pytest.mark.parametrize("arm", [SASREC, BERT4REC, REAREC_ERL, REAREC_PRL])
def test_the_search_space_is_declared(arm: Arm) -> None:
    assert ARMS[arm.name] is arm
    assert len(arm.trials) == 4 and arm.trials[0] == {}
    for trial in arm.trials:
        parse_config(arm.settings, dict(trial), source=arm.name)
