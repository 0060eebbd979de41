"""The constraint lets through the codes of all plans that obey the rules, and of no others."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.plan_mask import initial_state, open_actions, plan_mask, taken
from gplan_jax.baselines.t5.plans import PlanConstraint, longest_plan, plan_constraint
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, check_plan

ATOMS = Atoms.of(IntentLibrary.load())
MASK = plan_mask(ATOMS)
END = 20
# Digits to the base of 10 and 20, as many as the atom's number has: codes of unlike lengths.
CODES = [
    (10 + i,) if i < 8 else (18, i % 10) if i < 18 else (19, i // 10, i % 10)
    for i in range(ATOMS.count)
]
CONSTRAINT = plan_constraint(CODES, MASK, vocabulary=END + 1, end=END)
open_tokens = jax.jit(CONSTRAINT.open)
advance = jax.jit(CONSTRAINT.advance)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_random_walks_are_plans_that_the_rules_let_through(seed: int) -> None:
    generator = np.random.default_rng(seed)
    atom_of = {code: atom for atom, code in enumerate(CODES)}
    state, plan, code = CONSTRAINT.initial(1), [], ()
    for _ in range(longest_plan(CODES, MASK)):
        allowed = np.flatnonzero(open_tokens(state)[0])
        token = int(generator.choice(allowed))
        if token == END:
            break
        state = advance(state, jnp.array([token]))
        code += (token,)
        if code in atom_of:
            plan.append(atom_of[code])
            code = ()
    else:
        pytest.fail("the longest plan has no place for its end")
    assert not code
    assert not check_plan(ATOMS.text(plan), ATOMS.library)


def test_between_codes_the_tokens_are_those_of_the_open_atoms() -> None:
    code_state, plan_state = CONSTRAINT.initial(1), initial_state(MASK, 1)
    for atom in (0, 147, 100, 146, 145):
        actions = np.asarray(open_actions(MASK, plan_state))[0]
        wanted = {CODES[a][0] for a in np.flatnonzero(actions[:-1])} | ({END} & {END * actions[-1]})
        assert set(np.flatnonzero(open_tokens(code_state)[0]).tolist()) == wanted
        for depth, token in enumerate(CODES[atom][:-1], start=1):
            code_state = advance(code_state, jnp.array([token]))
            below = {
                CODES[a][depth]
                for a in np.flatnonzero(actions[:-1])
                if CODES[a][:depth] == CODES[atom][:depth]
            }
            assert set(np.flatnonzero(open_tokens(code_state)[0]).tolist()) == below
        code_state = advance(code_state, jnp.array([CODES[atom][-1]]))
        plan_state = taken(MASK, plan_state, jnp.array([atom]))
        for mine, theirs in zip(code_state.plan, plan_state, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("first", "fault"),
    [
        ((), "empty"),
        ((11,), "begins"),
        ((19,), "begins"),
        ((11, 3), "begins"),
        ((END,), "end token"),
        ((99,), "token 99"),
    ],
)
def test_ambiguous_codes_are_refused(first: tuple[int, ...], fault: str) -> None:
    with pytest.raises(GplanError, match=fault):
        plan_constraint([first, *CODES[1:]], MASK, vocabulary=END + 1, end=END)


def test_each_atom_needs_a_code() -> None:
    with pytest.raises(GplanError, match="147 codes for 148 atoms"):
        plan_constraint(CODES[1:], MASK, vocabulary=END + 1, end=END)


def test_room_in_the_trie_changes_nothing() -> None:
    tight = plan_constraint(CODES, MASK, vocabulary=END + 1, end=END)
    wide = plan_constraint(CODES, MASK, vocabulary=END + 1, end=END, room=len(tight.atom) + 5)
    assert len(wide.atom) == len(tight.atom) + 5

    @jax.jit
    def follow(constraint: PlanConstraint, tokens: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(
            lambda state, token: (constraint.advance(state, token[None]), constraint.open(state)),
            constraint.initial(1),
            tokens,
        )

    tokens = jnp.array([*CODES[3], *CODES[100], END])
    jax.tree.map(np.testing.assert_array_equal, follow(tight, tokens), follow(wide, tokens))
