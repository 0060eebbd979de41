"""The mask lets through what the rule filter does, never gets stuck, and decoding obeys it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.plan_mask import (
    PlanMask,
    PlanState,
    decode,
    initial_state,
    open_actions,
    plan_mask,
    taken,
)
from gplan_jax.gsisr import IntentLibrary, check_plan

AMAP = IntentLibrary.load()
# Two groups that share a tool, a reference, and few atoms: rules bite at nearly every step.
SMALL = IntentLibrary.model_validate(
    {
        "name": "small",
        "tool_key": "tool",
        "parameters": {"to": {"values": {"home": "", "there": ""}}},
        "tools": {
            "ride": {"parameters": ["to"], "yields_place": True},
            "walk": {"parameters": ["to"]},
            "bus": {},
            "show": {"yields_place": True},
            "note": {"optional": ["to"]},
        },
        "previous_place": "there",
        "exclusive_groups": [["ride", "walk"], ["walk", "bus"]],
        "plan_length": {"minimum": 2, "maximum": 6},
    }
)
LIBRARIES = {"amap": AMAP, "small": SMALL}


@cache
def _atoms(name: str) -> tuple[Atoms, PlanMask]:
    atoms = Atoms.of(LIBRARIES[name])
    return atoms, plan_mask(atoms)


def lets_through(mask: PlanMask, plan: Sequence[int]) -> bool:
    """Whether the mask admits every intent of a plan and its end."""
    state = initial_state(mask, 1)
    for action in (*plan, mask.free.shape[0]):
        if not _open(mask, state)[action]:
            return False
        state = taken(mask, state, jnp.array([action]))
    return True


def _open(mask: PlanMask, state: PlanState) -> np.ndarray:
    return np.asarray(open_actions(mask, state))[0]


@pytest.mark.parametrize("name", LIBRARIES)
@given(data=st.data())
def test_the_mask_and_the_filter_agree_on_any_plan(name: str, data: st.DataObject) -> None:
    atoms, mask = _atoms(name)
    ids = data.draw(st.lists(st.integers(0, atoms.count - 1), max_size=10 if name == "amap" else 7))
    valid = not check_plan(atoms.text(ids), atoms.library)
    assert lets_through(mask, ids) == valid


@pytest.mark.parametrize("name", LIBRARIES)
@given(data=st.data())
def test_whatever_the_mask_lets_through_passes_and_it_never_gets_stuck(
    name: str, data: st.DataObject
) -> None:
    atoms, mask = _atoms(name)
    state, plan = initial_state(mask, 1), []
    while True:
        ways = np.flatnonzero(_open(mask, state))
        assert len(ways), f"stuck after {plan}"
        action = int(data.draw(st.sampled_from(ways.tolist())))
        if action == atoms.END:
            break
        plan.append(action)
        state = taken(mask, state, jnp.array([action]))
        assert len(plan) <= mask.maximum
    assert check_plan(atoms.text(plan), atoms.library) == []


def test_every_valid_plan_of_a_small_library_gets_through() -> None:
    """All sequences of up to three atoms, the mask beside the filter."""
    atoms, mask = _atoms("small")
    plans: list[tuple[int, ...]] = [()]
    frontier = plans
    for _ in range(3):
        frontier = [(*plan, atom) for plan in frontier for atom in range(atoms.count)]
        plans = plans + frontier
    through = {
        plan for plan in plans if len(plan) >= 2 and _through_on_host(plan, mask, atoms.count)
    }
    valid = {plan for plan in plans if not check_plan(atoms.text(plan), SMALL)}
    assert through == valid and len(valid) > 100


def _through_on_host(plan: Sequence[int], mask: PlanMask, count: int) -> bool:
    """The mask's own arrays, walked with numpy: JAX step by step would take a minute."""
    closed, place = np.zeros(count, bool), False
    for atom in plan:
        if closed[atom] or not (mask.free[atom] or place):
            return False
        closed, place = closed | mask.closes[atom], place or bool(mask.yields[atom])
    return mask.minimum <= len(plan) <= mask.maximum


def test_the_end_leaves_the_state_and_rows_do_not_mix() -> None:
    atoms, mask = _atoms("small")
    state = taken(mask, initial_state(mask, 2), jnp.array([0, atoms.END]))
    assert state.length.tolist() == [1, 0] and state.place.tolist() == [True, False]
    assert not state.closed[1].any() and state.closed[0].any()
    again = taken(mask, state, jnp.full(2, atoms.END))
    for before, after in zip(state, again, strict=True):
        np.testing.assert_array_equal(before, after)


def test_greedy_decoding_obeys_the_rules_or_only_the_length() -> None:
    atoms, mask = _atoms("small")
    batch = 64
    scores = jax.random.normal(jax.random.key(0), (mask.maximum, batch, atoms.count + 1))

    def step(ids: jax.Array, t: jax.Array) -> jax.Array:
        return scores[t]

    plans = {
        constrained: np.asarray(jax.jit(lambda c=constrained: decode(step, mask, batch, c))())
        for constrained in (True, False)
    }
    for ids in plans[True]:
        assert check_plan(atoms.text(ids.tolist()), SMALL) == []
    greedy = np.asarray(scores.argmax(-1)).T
    for ids, best in zip(plans[False], greedy, strict=True):
        ended = np.cumsum(best == atoms.END) > 0
        np.testing.assert_array_equal(ids, np.where(ended, atoms.END, best))
    assert any(check_plan(atoms.text(ids.tolist()), SMALL) for ids in plans[False])


def test_decoding_hands_the_ids_so_far_on() -> None:
    atoms, mask = _atoms("small")

    def step(ids: jax.Array, t: jax.Array) -> jax.Array:
        # Wants the atom after the last one, which it reads from the ids.
        last = jnp.where(t > 0, ids[:, jnp.maximum(t - 1, 0)], -1)
        return jax.nn.one_hot(last + t + 1, atoms.count + 1)

    ids = decode(step, mask, 1, False)
    assert ids.tolist() == [[0, 2, 5, atoms.END, atoms.END, atoms.END]]
