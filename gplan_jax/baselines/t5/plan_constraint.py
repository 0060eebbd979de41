"""The plan rules over tokens: each atom is written as a code of tokens, a plan as one code after
another and the end token. A trie says how a code may go on, ``plan_mask`` which atoms may follow.

Letters: R sequences, A atoms, V vocabulary, M nodes of the trie; node 0 is its root.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gplan_jax.baselines.rows.plan_mask import (
    PlanMask,
    PlanState,
    initial_state,
    open_actions,
    taken,
)
from gplan_jax.foundation.errors import GplanError


class CodeState(NamedTuple):
    """Where each sequence stands: its node [R] of the trie, and its plan of whole codes so far."""

    node: jax.Array
    plan: PlanState


class PlanConstraint(NamedTuple):
    """A ``Constraint`` that lets through the codes of plans that obey the rules, and nothing else.

    Attributes:
        mask: the rules over atoms.
        children: int32 [M, V], the node that a token leads to, M where it leads to none.
        below: float32 [M, A], 1 where the atom's code runs through the node.
        atom: int32 [M], the atom whose code ends at the node, A where none does.
        is_end: bool [V], true for the end token.
    """

    mask: PlanMask
    children: np.ndarray
    below: np.ndarray
    atom: np.ndarray
    is_end: np.ndarray

    def initial(self, rows: int) -> CodeState:
        """The root, and an empty plan."""
        return CodeState(jnp.zeros(rows, jnp.int32), initial_state(self.mask, rows))

    def open(self, state: CodeState) -> jax.Array:
        """bool [R, V]: tokens that lead towards an atom that may follow; between codes, the end."""
        actions = open_actions(self.mask, state.plan)
        # A node is open if some open atom's code runs through it; node M never is.
        nodes = actions[:, :-1].astype(jnp.float32) @ jnp.asarray(self.below).T > 0
        nodes = jnp.pad(nodes, ((0, 0), (0, 1)))
        onward = jnp.take_along_axis(nodes, jnp.asarray(self.children)[state.node], axis=1)
        ends = (state.node == 0) & actions[:, -1]
        return onward | (ends[:, None] & jnp.asarray(self.is_end))

    def advance(self, state: CodeState, tokens: jax.Array) -> CodeState:
        """The state after a token; at the end of a code the atom is taken."""
        node = jnp.asarray(self.children)[state.node, tokens]
        node = jnp.where(node < len(self.children), node, 0)
        atom = jnp.asarray(self.atom)[node]
        whole = atom < self.below.shape[1]
        return CodeState(jnp.where(whole, 0, node), taken(self.mask, state.plan, atom))


def plan_constraint(
    codes: Sequence[Sequence[int]], mask: PlanMask, *, vocabulary: int, end: int
) -> PlanConstraint:
    """The constraint under which atom a is written as ``codes[a]``.

    Args:
        codes: the tokens of each of the A atoms.
        mask: the rules over these atoms.
        vocabulary: V.
        end: the token that ends a plan.

    Raises:
        GplanError: a code is empty, has the end token or one outside the vocabulary, or begins
            another one (then it would be open where a plan's code ends).
    """
    atoms = len(codes)
    if atoms != mask.free.shape[0]:
        raise GplanError(f"There are {atoms} codes for {mask.free.shape[0]} atoms; give one each.")
    children: list[dict[int, int]] = [{}]
    below: list[set[int]] = [set(range(atoms))]
    atom_at: dict[int, int] = {}
    for atom, code in enumerate(codes):
        node, begins_with_one = 0, False
        for token in code:
            if token == end or not 0 <= token < vocabulary:
                raise GplanError(
                    f"The code of atom {atom}, {list(code)}, has token {token}; codes are made of "
                    f"tokens from 0 to {vocabulary - 1} except the end token {end}."
                )
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
                below.append(set())
            node = children[node][token]
            below[node].add(atom)
            begins_with_one |= node in atom_at
        if not code or len(below[node]) > 1 or begins_with_one:
            raise GplanError(
                f"The code of atom {atom}, {list(code)}, is empty, begins another atom's code or "
                "begins with one; make codes of which none begins another."
            )
        atom_at[node] = atom
    nodes = len(children)
    table = np.full((nodes, vocabulary), nodes, np.int32)
    through = np.zeros((nodes, atoms), np.float32)
    for node in range(nodes):
        table[node, list(children[node])] = list(children[node].values())
        through[node, list(below[node])] = 1
    ends = np.array([atom_at.get(node, atoms) for node in range(nodes)], np.int32)
    return PlanConstraint(mask, table, through, ends, np.arange(vocabulary) == end)


def longest_plan(codes: Sequence[Sequence[int]], mask: PlanMask) -> int:
    """Tokens that every plan fits into with its end token."""
    return mask.maximum * max(len(code) for code in codes) + 1
