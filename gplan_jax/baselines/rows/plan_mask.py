"""Which atoms may follow a plan so far, batch-wise in JAX, and greedy decoding under that mask.

A is the number of atoms, B that of the batch's rows; action A is the end of the plan. What the
mask lets through is what ``gsisr.check_plan`` lets through: no intent twice, one tool of each
exclusive group, a reference to the previous place only after an intent that yields one, and the
bounds of the plan length. It never leads into a dead end: ``plan_rules`` refuses a library where a
plan could get stuck before its minimum, and from there on a plan may end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.gsisr.plan_rules import plan_rules

Carry = TypeVar("Carry")
StepScores = Callable[[Carry, jax.Array, jax.Array], tuple[Carry, jax.Array]]
# Step, ids, which plans have ended, the rules' state, the scores' carry.
Loop = tuple[jax.Array, jax.Array, jax.Array, "PlanState", Carry]


class PlanMask(NamedTuple):
    """A library's rules over its atoms: constants of the host, or arrays given to a program.

    Attributes:
        closes: bool [A, A]; the atoms of row a can't follow once atom a is taken.
        free: bool [A]; the atom does not refer to the previous place.
        yields: bool [A]; the atom yields a place.
        minimum, maximum: bounds of the plan length.
    """

    closes: np.ndarray | jax.Array
    free: np.ndarray | jax.Array
    yields: np.ndarray | jax.Array
    minimum: int
    maximum: int


class PlanState(NamedTuple):
    """What of a batch of unfinished plans matters for what may follow.

    Attributes:
        closed: bool [B, A]; the atom can't follow any more.
        place: bool [B]; an earlier intent yields a place.
        length: int32 [B]; how many intents there are.
    """

    closed: jax.Array
    place: jax.Array
    length: jax.Array


def plan_mask(atoms: Atoms) -> PlanMask:
    """The rules of a library; GplanError where a plan of it could get stuck before its minimum."""
    rules = plan_rules(atoms.library, atoms.intents)

    def bits(word: int) -> np.ndarray:
        return np.array([word >> i & 1 for i in range(atoms.count)], bool)

    closes = np.stack([bits(word) for word in rules.closes])
    return PlanMask(closes, bits(rules.free), bits(rules.yields), rules.minimum, rules.maximum)


def initial_state(mask: PlanMask, batch: int) -> PlanState:
    """The state of ``batch`` plans that have no intent yet."""
    return PlanState(
        closed=jnp.zeros((batch, mask.free.shape[0]), bool),
        place=jnp.zeros(batch, bool),
        length=jnp.zeros(batch, jnp.int32),
    )


def open_actions(mask: PlanMask, state: PlanState) -> jax.Array:
    """What may follow each plan: bool [B, A + 1], the last column the end of the plan."""
    reachable = ~state.closed & (jnp.asarray(mask.free) | state.place[:, None])
    atoms = reachable & (state.length < mask.maximum)[:, None]
    return jnp.concatenate([atoms, (state.length >= mask.minimum)[:, None]], axis=1)


def taken(mask: PlanMask, state: PlanState, actions_B: jax.Array) -> PlanState:
    """The state once each plan has gone on with its action; the end leaves it as it is."""
    goes_on = actions_B < mask.free.shape[0]
    atom = jnp.where(goes_on, actions_B, 0)
    return PlanState(
        closed=state.closed | (jnp.asarray(mask.closes)[atom] & goes_on[:, None]),
        place=state.place | (jnp.asarray(mask.yields)[atom] & goes_on),
        length=state.length + goes_on.astype(jnp.int32),
    )


def decode(
    step_scores: StepScores[Carry], mask: PlanMask, batch: int, constrained: bool, carry: Carry
) -> jax.Array:
    """Greedy plans: at each step the open action of the highest score, until all have ended.

    May stand inside a jitted function that closes over ``mask`` (its maximum is a shape).

    Args:
        step_scores: (carry, ids [B, maximum] so far with A where nothing is yet, step t) ->
            (carry, scores [B, A + 1] of what comes at position t).
        mask: the rules.
        batch: B.
        constrained: whether the rules hold; where not, only the maximum length ends a plan that
            does not end by itself, and a plan may be empty.
        carry: what ``step_scores`` begins with.

    Returns:
        int32 [B, maximum] atoms, filled up with A.
    """
    end = mask.free.shape[0]

    def unfinished(loop: Loop[Carry]) -> jax.Array:
        step, _, ended, _, _ = loop
        return (step < mask.maximum) & ~ended.all()

    def step_on(loop: Loop[Carry]) -> Loop[Carry]:
        step, ids, ended, state, carry = loop
        carry, scores = step_scores(carry, ids, step)
        if constrained:
            scores = jnp.where(open_actions(mask, state), scores, -jnp.inf)
        action = jnp.where(ended, end, jnp.argmax(scores, axis=-1)).astype(jnp.int32)
        ids = ids.at[:, step].set(action)
        return step + 1, ids, ended | (action == end), taken(mask, state, action), carry

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((batch, mask.maximum), end, jnp.int32),
        jnp.zeros(batch, bool),
        initial_state(mask, batch),
        carry,
    )
    return jax.lax.while_loop(unfinished, step_on, start)[1]
