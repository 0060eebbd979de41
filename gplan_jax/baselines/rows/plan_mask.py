"""Which atoms may follow a plan so far, batch-wise in JAX, and greedy decoding under that mask.

A is the number of atoms, B that of the batch's rows; action A is the end of the plan. What the
mask lets through is what ``gsisr.check_plan`` lets through: no intent twice, one tool of each
exclusive group, a reference to the previous place only after an intent that yields one, and the
bounds of the plan length. It never leads into a dead end: ``plan_rules`` refuses a library where a
plan could get stuck before its minimum, and from there on a plan may end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.gsisr.filter import plan_rules

# (ids [B, maximum] so far with A where nothing is yet, step t) -> scores [B, A + 1] at position t
StepScores = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class PlanMask:
    """A library's rules over its atoms; a pytree whose bounds are static, since they are shapes."""

    closes: np.ndarray | jax.Array  # bool [A, A]; atoms of row a can't follow once a is taken
    free: np.ndarray | jax.Array  # bool [A]; the atom does not refer to the previous place
    yields: np.ndarray | jax.Array  # bool [A]; the atom yields a place
    minimum: int
    maximum: int


jax.tree_util.register_dataclass(
    PlanMask, data_fields=["closes", "free", "yields"], meta_fields=["minimum", "maximum"]
)


class PlanState(NamedTuple):
    """What of a batch of unfinished plans matters for what may follow."""

    closed: jax.Array  # bool [B, A]; the atom can't follow any more
    place: jax.Array  # bool [B]; an earlier intent yields a place
    length: jax.Array  # int32 [B]; how many intents there are


def plan_mask(atoms: Atoms) -> PlanMask:
    """The rules of a library; GplanError where a plan of it could get stuck before its minimum."""
    rules = plan_rules(atoms.library, atoms.intents)

    def bits(word: int) -> np.ndarray:
        return np.array([word >> i & 1 for i in range(atoms.count)], bool)

    closes_AxA = np.stack([bits(word) for word in rules.closes])
    return PlanMask(closes_AxA, bits(rules.free), bits(rules.yields), rules.minimum, rules.maximum)


def initial_state(mask: PlanMask, batch: int) -> PlanState:
    """The state of ``batch`` plans that have no intent yet."""
    return PlanState(
        closed=jnp.zeros((batch, mask.free.shape[0]), bool),
        place=jnp.zeros(batch, bool),
        length=jnp.zeros(batch, jnp.int32),
    )


def open_actions(mask: PlanMask, state: PlanState) -> jax.Array:
    """What may follow each plan: bool [B, A + 1], the last column the end of the plan."""
    reachable_BxA = ~state.closed & (jnp.asarray(mask.free) | state.place[:, None])
    atoms_BxA = reachable_BxA & (state.length < mask.maximum)[:, None]
    return jnp.concatenate([atoms_BxA, (state.length >= mask.minimum)[:, None]], axis=1)


def taken(mask: PlanMask, state: PlanState, actions_B: jax.Array) -> PlanState:
    """The state once each plan has gone on with its action; the end leaves it as it is."""
    goes_on_B = actions_B < mask.free.shape[0]
    atom_B = jnp.where(goes_on_B, actions_B, 0)
    return PlanState(
        closed=state.closed | (jnp.asarray(mask.closes)[atom_B] & goes_on_B[:, None]),
        place=state.place | (jnp.asarray(mask.yields)[atom_B] & goes_on_B),
        length=state.length + goes_on_B.astype(jnp.int32),
    )


def decode(step_scores: StepScores, mask: PlanMask, batch: int, constrained: bool) -> jax.Array:
    """Greedy plans, int32 [B, maximum] filled up with A: each step's open action of highest score.

    Not ``constrained``, only the maximum length ends a plan that does not end by itself, and a
    plan may be empty.
    """
    end = mask.free.shape[0]

    def unfinished(loop: tuple[jax.Array, jax.Array, jax.Array, PlanState]) -> jax.Array:
        step, _, ended_B, _ = loop
        return (step < mask.maximum) & ~ended_B.all()

    def step_on(
        loop: tuple[jax.Array, jax.Array, jax.Array, PlanState],
    ) -> tuple[jax.Array, jax.Array, jax.Array, PlanState]:
        step, ids_BxM, ended_B, state = loop
        scores_BxC = step_scores(ids_BxM, step)
        if constrained:
            scores_BxC = jnp.where(open_actions(mask, state), scores_BxC, -jnp.inf)
        action_B = jnp.where(ended_B, end, jnp.argmax(scores_BxC, axis=-1)).astype(jnp.int32)
        ids_BxM = ids_BxM.at[:, step].set(action_B)
        return step + 1, ids_BxM, ended_B | (action_B == end), taken(mask, state, action_B)

    ids_BxM = jnp.full((batch, mask.maximum), end, jnp.int32)
    start = jnp.zeros((), jnp.int32), ids_BxM, jnp.zeros(batch, bool), initial_state(mask, batch)
    return jax.lax.while_loop(unfinished, step_on, start)[1]
