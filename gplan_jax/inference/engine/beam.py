"""Beam search over the plan grammar: the plan that is most probable as a whole, as far as it looks.

log p(plan) = sum over decisions of log softmax(logits of the open edges)[edge chosen]; what is
forced costs nothing. The W best beginnings are kept; the search ends when no beginning that is
left is as probable as the best plan there is, since going on can only make it less so.

All beginnings are the paths of one tree behind the prompt, which each pass runs anew: plain, and
meant for planning a file, not for a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine.programs import Programs, empty_trees, set_tree
from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar

_LEAST_NODES = 64


class Beginning(NamedTuple):
    """The beginning of a response: its log-probability, its tokens and the grammar behind them."""

    score: float
    tokens: tuple[int, ...]
    state: GrammarState


def beam_search(
    programs: Programs, grammar: PlanGrammar, prompt: Sequence[int], *, beams: int
) -> Beginning:
    """The most probable response that a beam of ``beams`` beginnings finds; 1: greedy decoding.
    NotFinite where the logits are.
    """
    if beams < 1:
        raise GplanError(f"beams is {beams}; a search keeps at least one beginning.")
    programs.prefill(0, prompt, 0, [], programs.no_edges(programs.shapes.queries))
    run, state = grammar.forced_run(grammar.start)
    # What is held ends with the prompt; its last token runs again, at the root of the tree.
    root, held = int(prompt[-1]), len(prompt) - 1
    best: Beginning | None = None
    live = [Beginning(0.0, run, state)]
    while live:
        grown = _grow(programs, grammar, held, root, live)
        kept = sorted(grown, key=lambda b: -b.score)[:beams]
        # A plan that ends outside the beam doesn't count, or one beam would not be greedy.
        finished = [b for b in kept if grammar.finished(b.state)]
        best = max([*finished, *([best] if best else [])], key=lambda b: b.score, default=None)
        live = [
            b
            for b in kept
            if not grammar.finished(b.state) and (best is None or b.score > best.score)
        ]
    assert best is not None
    return best


def _grow(
    programs: Programs,
    grammar: PlanGrammar,
    held: int,
    root: int,
    beginnings: Sequence[Beginning],
) -> list[Beginning]:
    """Every way to go on from any of the beginnings, up to its next decision."""
    tokens, parents, ends = _tree(root, [beginning.tokens for beginning in beginnings])
    nodes = _LEAST_NODES
    while nodes < len(tokens):
        nodes *= 2
    if held + nodes > programs.shapes.places:
        raise GplanError(
            f"{len(beginnings)} beams have {len(tokens)} tokens behind a prompt of {held + 1}, "
            f"more than the {programs.shapes.places} that there is room for; search with fewer."
        )
    trees = empty_trees(1, nodes, programs.shapes.window)
    allowed = programs.no_edges(1, nodes)
    assert allowed is not None
    trees.lengths_b[0] = trees.base_b[0] = held
    set_tree(trees, 0, tokens, parents)
    for end, beginning in zip(ends, beginnings, strict=True):
        allowed.node[0, end] = beginning.state.node
        allowed.open_bits[0, end] = grammar.words(grammar.open_bits(beginning.state))
    logits_TxE = programs.verify(trees, allowed)[0]
    grown = []
    for end, (score, written, state) in zip(ends, beginnings, strict=True):
        edges = grammar.edges(state)
        logits = logits_TxE[end, [edge.number for edge in edges]].astype(np.float64)
        if not np.isfinite(logits).all():
            raise NotFinite
        logs = logits - np.logaddexp.reduce(logits)
        for edge, log in zip(edges, logs, strict=True):
            run, behind = grammar.forced_run(grammar.follow(state, edge))
            grown.append(Beginning(score + float(log), (*written, edge.token, *run), behind))
    return grown


def _tree(root: int, sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """Sequences behind a root as one tree: its tokens and parents, and where each one ends."""
    tokens, parents, ends = [root], [-1], []
    children: dict[tuple[int, int], int] = {}
    for sequence in sequences:
        node = 0
        for token in sequence:
            below = children.get((node, token))
            if below is None:
                below = children[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
            node = below
        ends.append(node)
    return tokens, parents, ends
