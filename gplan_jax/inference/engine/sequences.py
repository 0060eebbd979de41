"""One response while it is decoded, on the host: what is known of it and where it goes on.

A row's slot holds the tokens that passes have seen; its ``chain`` is what is known beyond them: the
token chosen last and whatever the grammar forces after it. A pass runs the chain and drafts behind
it as a tree; ``accept_tree`` then walks down from the chain's end, choosing one edge of the grammar
at a node, for as long as the chosen token was drafted. What is chosen depends on logits alone, and
these on the tokens before them, so drafts change how many passes a response takes and nothing else.

Letters: T nodes of a tree, Q queries of a prefill, E edges of a grammar node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.grammar.drafts import DraftTree, Start
from gplan_jax.inference.grammar.plan_grammar import Edge, GrammarState, PlanGrammar


@dataclass
class SequenceState:
    """A response in the making."""

    slot: int  # its slot of the cache
    held: int  # tokens that the slot holds, the system prompt's not counted
    state: GrammarState | None  # the grammar after all of ``response``; None in plain decoding
    context: tuple[str, ...] = ()  # what the drafts know of the request
    # see ``PlanRequest``
    temperature: float = 0.0
    seed: int = 0
    base: int = 0  # ``held`` before the last pass, where its tree was written
    # the nodes of the last tree that are held, not yet closed up in the cache
    path: tuple[int, ...] = ()
    chain: tuple[int, ...] = ()  # the last tokens of ``response``, which no pass has seen
    response: list[int] = field(default_factory=list)  # the tokens so far
    # place in the response -> log p of what was decided there, among the edges that were open; of
    # forced tokens and of plain decoding there is none
    logs: dict[int, float] = field(default_factory=dict)
    finished: bool = False  # whether the response is whole, cut, or given up for ``fault``
    cut: bool = False  # whether a free response has become too long
    fault: NotFinite | None = None
    # see ``PlanAnswer``
    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def log_probability(self) -> float:
        """log p of all decisions so far."""
        return sum(self.logs.values())


def longest_response(grammar: PlanGrammar) -> int:
    """Tokens that no response exceeds."""
    pieces = grammar.pieces
    intents = zip(pieces.bodies, pieces.joints, pieces.ends, strict=True)
    longest = max(len(body) + max(len(joint), len(end)) for body, joint, end in intents)
    return longest_prefix(grammar) + grammar.rules.maximum * longest


def longest_prefix(grammar: PlanGrammar) -> int:
    """Tokens in front of the first intent that no response exceeds."""
    close = grammar.latent.close if grammar.latent else ()
    return len(grammar.prefix()[0]) + len(close)


def accept_start(
    row: SequenceState, grammar: PlanGrammar, start: Start, logits_QxE: np.ndarray
) -> None:
    """Reads what a prefill has decided at ``start.decisions``; the tokens of ``start`` that stay
    are held from now on. Until now ``row.held`` counts the prompt, ``row.state`` is in front.
    """
    asked = {state: index for index, (_, state) in enumerate(start.decisions)}
    kept, state = 0, row.state
    assert state is not None
    while edges := grammar.edges(state):
        if len(edges) > 1:
            edge = choose(row, edges, logits_QxE[asked[state]])
        else:
            [edge] = edges
        state = grammar.advance(state, edge.token)
        row.response.append(edge.token)
        if kept == len(start.tokens) or start.tokens[kept] != edge.token:
            break
        kept += 1
    row.held += kept
    row.base = row.held
    certain = start.decisions[0][0] if start.decisions else len(start.tokens)
    row.drafted += len(start.tokens) - certain
    row.accepted += max(0, kept - certain)
    _append_forced(row, grammar, state)


def accept_tree(
    row: SequenceState, grammar: PlanGrammar, tree: DraftTree, logits_TxE: np.ndarray
) -> None:
    """Takes over from a pass what turned out right, and chooses the token after it."""
    row.passes += 1
    row.drafted += len(tree.tokens) - tree.chain
    row.base = row.held
    if tree.chain < len(row.chain):
        row.path = tuple(range(tree.chain))
        row.held += tree.chain
        row.chain = row.chain[tree.chain :]
        return
    children = {pair: node for node, pair in enumerate(zip(tree.parents, tree.tokens, strict=True))}
    node: int | None = tree.chain - 1
    path = list(range(tree.chain))
    state = row.state
    assert state is not None
    while node is not None and not grammar.finished(state):
        edge = choose(row, grammar.edges(state), logits_TxE[node])
        state = grammar.advance(state, edge.token)
        row.response.append(edge.token)
        node = children.get((node, edge.token))
        if node is not None:
            path.append(node)
    row.path = tuple(path)
    row.held += len(path)
    row.accepted += len(path) - tree.chain
    _append_forced(row, grammar, state)


def choose(row: SequenceState, edges: Sequence[Edge], logits_E: np.ndarray) -> Edge:
    """The likeliest open edge, the first of equals; drawn where the row has a temperature.

    A draw adds Gumbel noise to logits / temperature. The noise hangs on the seed and on the place
    in the response, so that drafts don't change what is drawn. The row's log-probability is that of
    temperature 1 all the same. NotFinite where nothing is likely.
    """
    if len(edges) == 1:
        return edges[0]
    logits = scores = logits_E[[edge.number for edge in edges]]
    if not np.isfinite(scores).all():
        raise NotFinite
    if row.temperature > 0:
        generator = np.random.default_rng((row.seed, len(row.response)))
        scores = scores / row.temperature + generator.gumbel(size=len(edges))
    chosen = int(np.argmax(scores))
    row.logs[len(row.response)] = float(log_softmax(logits)[chosen])
    return edges[chosen]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64 log probabilities of the open edges of a state: logits - log sum exp(logits)."""
    logits = logits.astype(np.float64)
    return logits - np.logaddexp.reduce(logits)


def _append_forced(row: SequenceState, grammar: PlanGrammar, state: GrammarState) -> None:
    """Takes in what is forced after the token chosen last."""
    run, state = grammar.forced_run(state)
    row.chain = (row.response[-1], *run)
    row.response.extend(run)
    row.state = state
    row.finished = grammar.finished(state)
