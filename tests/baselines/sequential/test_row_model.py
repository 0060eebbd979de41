"""Row models: what is asked, what is shown, and that decoding is teacher forcing."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.rows.plan_mask import PlanMask
from gplan_jax.baselines.sequential.arm import (
    Bert4RecSettings,
    ReaRecSettings,
    RowModel,
    RowSettings,
    SequentialKind,
    asked_positions,
    decode_plans,
    masked_plans,
    row_loss,
    started,
)

ATOMS, END, START, MASK, LONGEST = 6, 6, 7, 8, 4
SIZES = {"hidden": 8, "layers": 1, "heads": 2, "inner": 8, "decoding_batch": 4}
PLANS = jnp.array([[2, 0, 6, 6], [1, 2, 3, 4], [5, 6, 6, 6]])
FEATURES = jnp.array(np.random.default_rng(0).integers(1, 9, (3, 5, 2)), jnp.int32)
RULES = PlanMask(np.eye(ATOMS, dtype=bool), np.ones(ATOMS, bool), np.ones(ATOMS, bool), 2, LONGEST)
# Compiled as a whole they are ready sooner than operation by operation.
read, loss_of = nnx.jit(RowModel.__call__), nnx.jit(row_loss, static_argnums=3)


@functools.cache
def model(kind: SequentialKind, steps: int = 2, loss: str = "softmax") -> RowModel:
    given: dict[str, Any] = {**SIZES, "loss": loss}
    settings: RowSettings
    if kind is SequentialKind.SASREC:
        settings = RowSettings(**given)
    elif kind is SequentialKind.BERT4REC:
        settings = Bert4RecSettings(**given)
    else:
        settings = ReaRecSettings(**given, steps=steps)
    return RowModel(
        kind, settings, vocabulary=9, positions=5, atoms=ATOMS, longest=LONGEST, rngs=nnx.Rngs(0)
    )


def test_asked_and_started() -> None:
    asked = asked_positions(PLANS, ATOMS)
    assert asked.tolist() == [[True, True, True, False], [True] * 4, [True, True, False, False]]
    assert started(PLANS, ATOMS).tolist() == [[7, 2, 0, -1], [7, 1, 2, 3], [7, 5, -1, -1]]


@pytest.mark.parametrize(
    "kind", [SequentialKind.SASREC, SequentialKind.REAREC_ERL, SequentialKind.REAREC_PRL]
)
def test_step_by_step_equals_teacher_forcing(kind: SequentialKind) -> None:
    network = model(kind)
    forced, _ = read(network, FEATURES, started(PLANS, ATOMS))
    asked = asked_positions(PLANS, ATOMS)
    for step in range(LONGEST):
        so_far = jnp.where(jnp.arange(LONGEST) < step, PLANS, END)
        alone, _ = read(network, FEATURES, network.shown_plan(so_far, jnp.array(step)))
        here = np.asarray(asked[:, step])
        np.testing.assert_allclose(
            forced[here, step], alone[here, step], atol=1e-5, err_msg=f"step {step}"
        )


def test_rearec_without_steps_is_sasrec() -> None:
    plain, none = model(SequentialKind.SASREC), model(SequentialKind.REAREC_ERL, 0)
    shown = started(PLANS, ATOMS)
    first, second = read(plain, FEATURES, shown)[0], read(none, FEATURES, shown)[0]
    np.testing.assert_array_equal(plain.recommends(first), none.recommends(second))
    batch = {"features": FEATURES, "plan": PLANS, "weight": jnp.ones(3)}
    losses = [float(loss_of(m, batch, jax.random.key(0), True)[0]) for m in (plain, none)]
    assert losses[0] == losses[1]


def test_what_bert4rec_is_shown_when_it_predicts() -> None:
    shown = model(SequentialKind.BERT4REC).shown_plan(PLANS, jnp.array(2))
    assert shown.tolist() == [[2, 0, MASK, -1], [1, 2, MASK, -1], [5, 6, MASK, -1]]


def test_mask_last_instances_are_what_prediction_meets() -> None:
    plans = jnp.tile(PLANS, (40, 1))
    shown, hidden = masked_plans(plans, ATOMS, jax.random.key(0), 0.3, 1.0)
    assert (np.asarray(hidden).sum(1) == 1).all()
    cuts = np.asarray(hidden).argmax(1)
    expected = np.stack([model(SequentialKind.BERT4REC).shown_plan(plan[None], jnp.array(cut))[0]
                         for plan, cut in zip(plans[:9], cuts[:9], strict=True)])  # fmt: skip
    np.testing.assert_array_equal(shown[:9], expected)
    assert {tuple(c) for c in zip(range(3), cuts[:3], strict=True)}
    for row, length in ((0, 3), (1, 4), (2, 2)):
        assert set(cuts[row::3]) == set(range(length))


def test_other_instances_show_the_whole_plan_but_what_they_hide() -> None:
    plans = jnp.tile(PLANS, (40, 1))
    shown, hidden = masked_plans(plans, ATOMS, jax.random.key(0), 0.3, 0.0)
    asked = asked_positions(plans, ATOMS)
    assert np.asarray(hidden).any(1).all() and not (hidden & ~asked).any()
    np.testing.assert_array_equal(shown == MASK, hidden)
    np.testing.assert_array_equal(shown == -1, ~asked)
    seen = np.asarray(asked & ~hidden)
    np.testing.assert_array_equal(np.asarray(shown)[seen], np.asarray(plans)[seen])


@pytest.mark.parametrize("kind", list(SequentialKind))
def test_validation_is_the_cross_entropy_of_every_next_action(kind: SequentialKind) -> None:
    network = model(kind)
    batch = {"features": FEATURES, "plan": PLANS, "weight": jnp.array([1.0, 1.0, 0.0])}
    total, count = loss_of(network, batch, jax.random.key(0), False)
    expected = 0.0
    for row, length in ((0, 3), (1, 4)):
        for step in range(length):
            shown = network.shown_plan(PLANS[row : row + 1], jnp.array(step))
            chain, _ = read(network, FEATURES[row : row + 1], shown)
            logs = jax.nn.log_softmax(network.scores(network.recommends(chain[0, step])))
            expected -= float(logs[PLANS[row, step]])
    assert float(count) == 7
    assert float(total) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", list(SequentialKind))
def test_training_losses_are_finite_and_weightless_rows_count_nothing(kind: SequentialKind) -> None:
    network = model(kind, loss="bce")
    batch = {"features": FEATURES, "plan": PLANS, "weight": jnp.array([1.0, 1.0, 0.0])}
    total, count = loss_of(network, batch, jax.random.key(0), True)
    assert np.isfinite(total) and 0 < float(count) <= 7
    other = {**batch, "plan": PLANS.at[2].set(jnp.array([0, 1, 6, 6]))}
    assert float(loss_of(network, other, jax.random.key(0), True)[0]) == pytest.approx(
        float(total), rel=1e-4
    )


@pytest.mark.parametrize("kind", [SequentialKind.SASREC, SequentialKind.BERT4REC])
def test_padded_context_positions_change_nothing(kind: SequentialKind) -> None:
    network = model(kind)
    padded = FEATURES.at[:, 1].set(0)
    shown = network.shown_plan(PLANS, jnp.array(1))
    moved = nnx.clone(network)
    moved.positions[...] = moved.positions[...].at[1].set(5.0)
    np.testing.assert_array_equal(
        read(network, padded, shown)[0][:, 1], read(moved, padded, shown)[0][:, 1]
    )
    assert not np.allclose(
        read(network, FEATURES, shown)[0][:, 1], read(moved, FEATURES, shown)[0][:, 1]
    )


def test_decoded_plans_are_greedy_and_obey_the_rules() -> None:
    network = model(SequentialKind.SASREC)
    features = np.asarray(FEATURES)
    for constrained in (True, False):
        found = decode_plans(*nnx.split(network), features, RULES, constrained=constrained)
        assert found.shape == (3, LONGEST)
        forced, _ = read(network, FEATURES, started(jnp.asarray(found), ATOMS))
        scores = np.asarray(network.scores(network.recommends(forced)))
        for row, plan in enumerate(found.tolist()):
            intents = plan[: plan.index(END)] if END in plan else plan
            for step in range(min(len(intents) + 1, LONGEST)):
                closed: set[int] = set()
                if constrained:
                    closed = set(intents[:step]) | ({END} if step < 2 else set())
                order = np.argsort(-scores[row, step])
                assert plan[step] == next(a for a in order.tolist() if a not in closed)
