"""Both arms on invented rows whose order decides the plan."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.baselines.t5 import PlanConstraint, plan_constraint
from gplan_jax.baselines.tiger.arm import TIGER, TIGER_RQ, TigerPredictor, widened
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings
from gplan_jax.baselines.tiger.semantic_ids import END, grammar_ids
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan

LIBRARY = IntentLibrary.load()
CARD, WEATHER, REMINDER, TRAIN = ({"工具名称": f"tool_{n}"} for n in (6, 9, 8, 3))
RIDE = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
PARKING = {"工具名称": "tool_7", "tag": "停车场"}
PLANS = {"酒店": [RIDE, WEATHER, REMINDER], "门票": [PARKING, CARD, TRAIN, WEATHER]}
ODD = [{"工具名称": "tool_99"}, WEATHER, REMINDER]
SIZES = {
    "hidden_size": 16, "heads": 2, "mlp_size": 16, "encoder_layers": 1, "decoder_layers": 1,
    "batch_size": 8, "learning_rate": 0.02, "epochs": 25, "patience": 25, "warmup_steps": 2,
    "beams": 2,
}  # fmt: skip


def row(order: str, number: int, plan: list[dict[str, str]]) -> Sample:
    return Sample.from_context(
        {
            "id": f"u{number}",
            "profile_feat_1": str(number % 3),
            "currenttime": f"2026-01-05 {8 + number % 4:02}:00:00",
            "current_city": "甲市",
            "trigger_1": order,
            "trigger_2": "甲市",
            "raw_labels": canonical_plan(plan) if plan else "",
        }
    )


ROWS = [row(order, n, PLANS[order]) for n in range(8) for order in PLANS]


def fit(arm: Arm, **more: Any) -> Fitted:
    train = [*ROWS[:12], row("酒店", 90, ODD), row("酒店", 91, [])]
    settings = arm.settings(**SIZES, **more)
    return arm.fit(train, ROWS[12:], settings, InputMode.FULL, LIBRARY, 0)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(TIGER)


def test_it_learns_the_plan_of_an_order_and_looks_at_no_label(fitted: Fitted) -> None:
    rows = [row(order, n, []) for order in PLANS for n in (0, 5)]
    expected = [canonical_plan(PLANS[order]) for order in PLANS for _ in (0, 5)]
    predictor = fitted.predictor
    for constrained in (True, False):
        assert predictor.predict(rows, constrained=constrained) == expected
    labelled = [sample.with_label(canonical_plan([TRAIN])) for sample in rows]
    assert predictor.predict(labelled, constrained=True) == expected
    assert predictor.predict([], constrained=True) == []
    assert predictor.parameters > 0
    assert fitted.best is not None and fitted.best["validation_loss"] > 0


def test_a_row_without_anything_known_gets_a_plan(fitted: Fitted) -> None:
    [text] = fitted.predictor.predict([row("从未见过", 99, [])], constrained=True)
    assert not check_plan(text, LIBRARY)


def test_the_same_seed_gives_the_same_curve(fitted: Fitted) -> None:
    again = fit(TIGER)
    assert [entry["loss"] for entry in again.curve] == [entry["loss"] for entry in fitted.curve]


@pytest.mark.slow
def test_residual_codes_write_plans_as_well() -> None:
    rqvae = RqVaeSettings(levels=2, codes=4, hidden=8, latent=4, steps=10)
    result = fit(TIGER_RQ, rqvae=rqvae, company=4)
    predictor = result.predictor
    assert isinstance(predictor, TigerPredictor)
    assert result.curve[-1]["loss"] < 0.5 * result.curve[0]["loss"]
    assert len({len(code) for code in predictor.ids.codes}) == 1
    texts = predictor.predict(ROWS[12:], constrained=True)
    assert not [violation for text in texts for violation in check_plan(text, LIBRARY)]


def test_room_in_the_trie_changes_nothing() -> None:
    atoms = Atoms.of(LIBRARY)
    ids = grammar_ids(atoms)
    tight = plan_constraint(ids.codes, plan_mask(atoms), vocabulary=ids.vocabulary, end=END)
    wide = widened(tight, len(tight.atom) + 5)

    @jax.jit
    def follow(constraint: PlanConstraint, tokens: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(
            lambda state, token: (constraint.advance(state, token[None]), constraint.open(state)),
            constraint.initial(1),
            tokens,
        )

    tokens = jnp.asarray(ids.write([3, 100]))
    jax.tree.map(np.testing.assert_array_equal, follow(tight, tokens), follow(wide, tokens))


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(GplanError, match="nothing to fit"):
        TIGER.fit([row("酒店", 0, [])], [], TIGER.settings(), InputMode.FULL, LIBRARY, 0)


@pytest.mark.parametrize("arm", [TIGER, TIGER_RQ], ids=lambda arm: arm.name)
def test_the_declared_trials_are_settings(arm: Arm) -> None:
    assert len(arm.trials) == 4 and arm.trials[0] == {}
    for trial in arm.trials:
        arm.settings(**trial)
