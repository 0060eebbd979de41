"""What every T5 that writes plans shares: the rules over its tokens, its loss, and its search.

Each atom is written as a code of tokens, a plan as one code after another and the end token. A trie
says how a code may go on, ``plan_mask`` which atoms may follow.

Letters: B rows, S source, T target, R sequences, A atoms, V vocabulary, D model, M nodes of the
trie; node 0 is its root.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gplan_jax.baselines.fitting.network import Batch
from gplan_jax.baselines.rows.plan_mask import (
    PlanMask,
    PlanState,
    initial_state,
    open_actions,
    taken,
)
from gplan_jax.baselines.t5.beam import Constraint, Free, beam_search
from gplan_jax.baselines.t5.model import T5, DecoderCache, shift_right
from gplan_jax.foundation.errors import GplanError

START = 0  # The token before a plan's first one; it fills up targets, too.


class CodeState(NamedTuple):
    """Where each sequence stands: its node [R] of the trie, and its plan of whole codes so far."""

    node: jax.Array
    plan: PlanState


class PlanConstraint(NamedTuple):
    """A ``Constraint`` that lets through the codes of plans that obey the rules, and nothing else.

    Its trie has M nodes, the root is 0.
    """

    mask: PlanMask
    children: np.ndarray  # int32 [M, V], the node that a token leads to, M where it leads to none
    below: np.ndarray  # float32 [M, A], 1 where the atom's code runs through the node
    atom: np.ndarray  # int32 [M], the atom whose code ends at the node, A where none does
    is_end: np.ndarray  # bool [V]

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
    codes: Sequence[Sequence[int]],
    mask: PlanMask,
    *,
    vocabulary: int,
    end: int,
    room: int = 0,
) -> PlanConstraint:
    """The constraint under which atom a is written as ``codes[a]``, tokens below ``vocabulary``.

    Empty nodes fill the trie up to ``room``, so that codes of equal lengths that share other
    beginnings have arrays of the same shapes, and one compiled program.
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
    used = len(children)
    nodes = max(used, room)
    table = np.full((nodes, vocabulary), nodes, np.int32)
    through = np.zeros((nodes, atoms), np.float32)
    for node in range(used):
        table[node, list(children[node])] = list(children[node].values())
        through[node, list(below[node])] = 1
    ends = np.array([atom_at.get(node, atoms) for node in range(nodes)], np.int32)
    return PlanConstraint(mask, table, through, ends, np.arange(vocabulary) == end)


def longest_plan(codes: Sequence[Sequence[int]], mask: PlanMask) -> int:
    """Tokens that every plan fits into with its end token."""
    return mask.maximum * max(len(code) for code in codes) + 1


class PlanT5(nnx.Module):
    """A T5 whose decoder writes plans; what its encoder reads is the arm's own."""

    t5: T5

    def encode(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The encoder's output [B, S, D], and which of its positions are no padding [B, S]."""
        raise NotImplementedError


def plan_loss(
    model: PlanT5, batch: Batch, key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy of the tokens of plans, and how many there are.

    The batch has what ``model.encode`` reads, "target" [B, T], END included and filled up with
    START, and "weight" [B]: both sums count a row as often as its weight says.
    """
    encoder_key, decoder_key = jax.random.split(key) if train else (None, None)
    encoded_BxSxD, mask_BxS = model.encode(batch, encoder_key)
    target_BxT = batch["target"]
    logits_BxTxV = model.t5.decode(
        shift_right(target_BxT, START), encoded_BxSxD, mask_BxS, decoder_key
    )
    counts_BxT = (target_BxT != START) * batch["weight"][:, None]
    losses_BxT = optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, target_BxT)
    return jnp.sum(losses_BxT * counts_BxT), jnp.sum(counts_BxT)


def plan_decoder(
    codes: Sequence[Sequence[int]], constraint: PlanConstraint, *, beams: int, end: int
) -> Callable[[nnx.GraphDef, nnx.State, Batch, bool], jax.Array]:
    """The ``decode`` of a ``Recipe`` whose atoms are written as ``codes``; see ``search_plans``."""

    def decode(
        graph: nnx.GraphDef, weights: nnx.State, batch: Batch, constrained: bool
    ) -> jax.Array:
        rule = constraint if constrained else Free()
        steps = longest_plan(codes, constraint.mask)
        return search_plans(graph, weights, batch, rule, beams=beams, steps=steps, end=end)

    return decode


@functools.partial(jax.jit, static_argnames=("graph", "beams", "steps", "end"))
def search_plans(
    graph: nnx.GraphDef,
    weights: nnx.State,
    batch: Batch,
    constraint: Constraint,
    *,
    beams: int,
    steps: int,
    end: int,
) -> jax.Array:
    """The tokens of each row's best plan by beam search: int32 [B, steps], filled up with ``end``.

    ``graph`` and ``weights`` are the two parts of ``nnx.split`` of a ``PlanT5``.
    """
    model: PlanT5 = nnx.merge(graph, weights)
    encoded_BxSxD, mask_BxS = model.encode(batch)

    def step(cache: DecoderCache, tokens: jax.Array) -> tuple[DecoderCache, jax.Array]:
        cache, logits = model.t5.step(cache, tokens)
        return cache, jax.nn.log_softmax(logits)

    return beam_search(
        step,
        DecoderCache.reorder,
        model.t5.start(encoded_BxSxD, mask_BxS, beams=beams, steps=steps),
        constraint,
        rows=len(encoded_BxSxD),
        beams=beams,
        steps=steps,
        start=START,
        end=end,
    ).tokens
