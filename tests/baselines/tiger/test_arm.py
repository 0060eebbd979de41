"""Both arms on invented rows whose order decides the plan, and the network on random ones."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.baselines.t5.model import T5Config, shift_right
from gplan_jax.baselines.t5.plans import (
    START,
    Free,
    longest_plan,
    plan_constraint,
    plan_loss,
    search_plans,
)
from gplan_jax.baselines.tiger.arm import END, TIGER, TIGER_RQ, Tiger, grammar_ids, plan_text
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
IDS, MASK = grammar_ids(ATOMS), plan_mask(ATOMS)
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
def test_residual_codes_write_plans_as_well(fitted: Fitted) -> None:
    rqvae = RqVaeSettings(levels=2, codes=4, hidden=8, latent=4, steps=10)
    result = fit(TIGER_RQ, rqvae=rqvae, company=4)
    predictor = result.predictor
    assert predictor.parameters != fitted.predictor.parameters  # The codes are others.
    assert result.curve[-1]["loss"] < 0.5 * result.curve[0]["loss"]
    texts = predictor.predict(ROWS[12:], constrained=True)
    assert not [violation for text in texts for violation in check_plan(text, LIBRARY)]


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(GplanError, match="nothing to fit"):
        TIGER.fit([row("酒店", 0, [])], [], TIGER.settings(), InputMode.FULL, LIBRARY, 0)


@pytest.mark.parametrize("arm", [TIGER, TIGER_RQ], ids=lambda arm: arm.name)
def test_the_declared_trials_are_settings(arm: Arm) -> None:
    assert len(arm.trials) == 4 and arm.trials[0] == {}
    for trial in arm.trials:
        arm.settings(**trial)


CONFIG = T5Config(
    vocabulary_size=IDS.vocabulary, hidden_size=16, heads=2, head_dim=8, mlp_size=16,
    encoder_layers=1, decoder_layers=1,
)  # fmt: skip
FEATURES = np.random.default_rng(0).integers(1, 40, (6, 5, 3)).astype(np.int32)
TARGET = np.array([[3, 20, END, START], [4, END, START, START], [5, 6, 7, END]] * 2, np.int32)


@nnx.jit
def logits_of(model: Tiger, features: jax.Array, target: jax.Array = TARGET) -> jax.Array:
    encoded, mask = model.encode({"features": features})
    return model.t5.decode(shift_right(target, START), encoded, mask)


@nnx.jit(static_argnums=3)
def loss_of(
    model: Tiger, batch: dict[str, jax.Array], key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    return plan_loss(model, batch, key, train)


def searched(model: Tiger, constraint: Any, *, beams: int, steps: int) -> np.ndarray:
    batch = {"features": FEATURES}
    return np.asarray(
        search_plans(*nnx.split(model), batch, constraint, beams=beams, steps=steps, end=END)
    )


@pytest.fixture(scope="module")
def model() -> Tiger:
    return Tiger(40, CONFIG, feature_dropout=0.5, rngs=nnx.Rngs(0))


def test_a_position_is_the_sum_of_its_numbers_and_padding_is_not_there(model: Tiger) -> None:
    expected = logits_of(model, FEATURES)
    np.testing.assert_allclose(logits_of(model, FEATURES[:, :, ::-1]), expected, atol=1e-5)
    padded = np.pad(FEATURES, ((0, 0), (0, 2), (0, 1)))
    np.testing.assert_allclose(logits_of(model, padded), expected, atol=1e-5)
    other = np.where(np.arange(5)[:, None] == 2, FEATURES[::-1], FEATURES)
    assert np.abs(np.asarray(logits_of(model, other)) - expected).max() > 1e-3


def test_the_loss_is_the_cross_entropy_of_tokens_up_to_the_end(model: Tiger) -> None:
    batch = {"features": FEATURES, "target": TARGET, "weight": np.array([1, 1, 1, 0, 1, 1.0])}
    total, count = loss_of(model, batch, jax.random.key(0), False)
    log_probs = np.asarray(jax.nn.log_softmax(logits_of(model, FEATURES)))
    expected = 0.0
    for row in (0, 1, 2, 4, 5):
        for place, token in enumerate(TARGET[row]):
            expected -= log_probs[row, place, token] * (token != START)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert count == 3 + 2 + 4 + 2 + 4


def test_training_leaves_numbers_out_and_prediction_does_not(model: Tiger) -> None:
    batch = {"features": FEATURES, "target": TARGET, "weight": np.ones(6)}
    keys = jax.random.split(jax.random.key(0), 2)
    trained = [float(loss_of(model, batch, key, True)[0]) for key in keys]
    judged = [float(loss_of(model, batch, key, False)[0]) for key in keys]
    assert trained[0] != trained[1]
    assert judged[0] == judged[1]


def test_what_an_untrained_network_writes_under_the_rules_are_plans(model: Tiger) -> None:
    constraint = plan_constraint(IDS.codes, MASK, vocabulary=IDS.vocabulary, end=END)
    found = searched(model, constraint, beams=2, steps=longest_plan(IDS.codes, MASK))
    assert found.shape == (6, longest_plan(IDS.codes, MASK))
    plans = [IDS.read(tokens) for tokens in found]
    assert not [violation for p in plans for violation in check_plan(plan_text(p, ATOMS), LIBRARY)]
    for plan, tokens in zip(plans, found, strict=True):
        written = IDS.write([atom for atom in plan if atom is not None])
        assert tuple(tokens[: len(written)]) == written


def test_one_free_beam_follows_the_most_probable_token(model: Tiger) -> None:
    found = searched(model, Free(), beams=1, steps=TARGET.shape[1])
    # Teacher forcing with the found tokens must agree at every place up to the end.
    probable = np.asarray(logits_of(model, FEATURES, found)).argmax(axis=-1)
    for tokens, best in zip(found.tolist(), probable.tolist(), strict=True):
        length = tokens.index(END) + 1 if END in tokens else len(tokens)
        assert tokens[:length] == best[:length]
