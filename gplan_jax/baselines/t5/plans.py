"""What every T5 that writes plans shares: the rules over its tokens, its loss, and its search.

Each atom is written as a code of tokens, a plan as one code after another and the end token. A trie
says how a code may go on, ``plan_mask`` which atoms may follow. The beam search goes over any step
function, under any constraint, for a batch of rows in one program.

Letters: B rows, S source, T target or steps, R sequences, A atoms, V vocabulary, D model, K beams
(those of a row stand side by side in B*K), M nodes of the trie; node 0 is its root.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

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
from gplan_jax.baselines.t5.model import T5, DecoderCache, shift_right
from gplan_jax.foundation.errors import GplanError

Carry = TypeVar("Carry")


class Constraint(Protocol):
    """Which tokens may follow; it and its state (arrays [rows, ...]) are pytrees.

    Some token is open in every state of a sequence that hasn't ended.
    """

    def initial(self, rows: int) -> Any:
        """The state of ``rows`` sequences that have no token yet."""
        ...

    def open(self, state: Any) -> jax.Array:
        """Which tokens may come next: bool [rows, V]."""
        ...

    def advance(self, state: Any, tokens: jax.Array) -> Any:
        """The state after one more token [rows] each; any state where the token isn't open."""
        ...


class Free(NamedTuple):
    """No constraint: every token may follow."""

    def initial(self, rows: int) -> tuple[()]:
        return ()

    def open(self, state: tuple[()]) -> jax.Array:
        return jnp.ones((1, 1), bool)

    def advance(self, state: tuple[()], tokens: jax.Array) -> tuple[()]:
        return ()


class Found(NamedTuple):
    """The best sequence of each row: int32 [B, T], filled up with the end token; its log-prob."""

    tokens: jax.Array
    score: jax.Array


class _Search(NamedTuple):
    """Beams [B, K], best first, and what belongs to each [B*K, ...]."""

    step: jax.Array
    tokens: jax.Array
    scores: jax.Array
    ended: jax.Array
    state: Any
    carry: Any


def beam_search(
    step: Callable[[Carry, jax.Array], tuple[Carry, jax.Array]],
    reorder: Callable[[Carry, jax.Array], Carry],
    carry: Carry,
    constraint: Constraint,
    *,
    rows: int,
    beams: int,
    steps: int,
    start: int,
    end: int,
) -> Found:
    """The most probable sequence of each row among those that the beams reach.

    A sequence's score is the sum of its tokens' log-probabilities, so it never rises: the search is
    over once the best beam of each row has ended. Tokens that are not open count as impossible; the
    others keep their probability. As long as no row has more than ``beams`` open sequences the
    result is the best of all; with one beam it is the greedy sequence.

    ``step`` is (carry, last tokens [B*K]) -> (carry, log-probabilities [B*K, V] of the next one),
    ``reorder`` (carry, parents [B*K]) -> the carry in which beam i goes on from ``parents[i]``. A
    sequence that hasn't ended after ``steps`` tokens is cut.
    """
    offsets = jnp.arange(rows)[:, None] * beams

    def unfinished(search: _Search) -> jax.Array:
        return (search.step < steps) & ~search.ended[:, 0].all()

    def step_on(search: _Search) -> _Search:
        last = search.tokens[:, :, jnp.maximum(search.step - 1, 0)]
        last = jnp.where(search.step == 0, start, last)
        carry, log_probs = step(search.carry, last.reshape(-1))
        log_probs = jnp.where(constraint.open(search.state), log_probs, -jnp.inf)
        vocabulary = log_probs.shape[-1]
        # A beam that has ended goes on by ending again, which costs nothing.
        resting = jnp.where(jnp.arange(vocabulary) == end, 0.0, -jnp.inf)
        ways = jnp.where(
            search.ended[..., None], resting, log_probs.reshape(rows, beams, vocabulary)
        )
        totals = (search.scores[..., None] + ways).reshape(rows, -1)
        scores, best = jax.lax.top_k(totals, beams)
        parents, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)
        from_beam = (offsets + parents).reshape(-1)
        tokens = jnp.take_along_axis(search.tokens, parents[..., None], axis=1)
        state = jax.tree.map(lambda leaf: leaf[from_beam], search.state)
        return _Search(
            step=search.step + 1,
            tokens=tokens.at[:, :, search.step].set(token),
            scores=scores,
            ended=jnp.take_along_axis(search.ended, parents, axis=1) | (token == end),
            state=constraint.advance(state, token.reshape(-1)),
            carry=reorder(carry, from_beam),
        )

    # All beams of a row begin alike, so only the first one counts at first.
    alone = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    found = jax.lax.while_loop(
        unfinished,
        step_on,
        _Search(
            step=jnp.zeros((), jnp.int32),
            tokens=jnp.full((rows, beams, steps), end, jnp.int32),
            scores=jnp.broadcast_to(alone, (rows, beams)),
            ended=jnp.zeros((rows, beams), bool),
            state=constraint.initial(rows * beams),
            carry=carry,
        ),
    )
    return Found(found.tokens[:, 0], found.scores[:, 0])


START = 0  # The token before a plan's first one; it fills up targets, too.


class CodeState(NamedTuple):
    """Where each sequence stands: its node [R] of the trie, and its plan of whole codes so far."""

    node: jax.Array
    plan: PlanState


class PlanConstraint(NamedTuple):
    """A ``Constraint`` to the codes of plans that obey the rules; its trie's root is node 0."""

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
    codes: Sequence[Sequence[int]], mask: PlanMask, *, vocabulary: int, end: int, room: int = 0
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


class PlanT5(Protocol):
    """A T5 whose decoder writes plans; what its encoder reads is the arm's own."""

    t5: T5

    def encode(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """The encoder's output [B, S, D], and which of its positions are no padding [B, S]."""
        ...


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
