"""The N most probable plans of a prompt, exactly: best-first search over the plan grammar.

log p(plan) = sum over decisions of log softmax(logits of the open edges)[edge chosen], so going on
only ever makes a beginning less probable. Once N plans are found, only beginnings that are more
probable than the least of them can lead to a better one; when there is none left, these N are the N
most probable of all plans. Before, the search dives: it goes on from what it has just found, as a
beam does, so that there soon are N plans to measure the others by.

Where a model is sure of little, there are more such beginnings than anybody wants to wait for:
after ``most`` of them the search ends, and says that its plans may not be the best ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from gplan_jax.inference.engine.programs import Programs, Shapes, empty_trees, set_tree, shapes_of
from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.engine.sequences import log_softmax, longest_response
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar

# Beginnings that a pass goes on from, and that a search goes on from in all.
AT_ONCE, MOST = 4, 1000
_LEAST_NODES = 64


class Beginning(NamedTuple):
    """The beginning of a response: its log-probability, its tokens and the grammar behind them."""

    score: float
    tokens: tuple[int, ...]
    state: GrammarState


class BestPlans(NamedTuple):
    """What a search has found."""

    plans: list[Beginning]  # the likeliest first; fewer than wanted where there are no more
    exact: bool  # whether no other plan is likelier than the last of them


Search = Generator[list[Beginning], Sequence[np.ndarray], BestPlans]


def best_plans(
    grammar: PlanGrammar, count: int, *, at_once: int = AT_ONCE, most: int = MOST
) -> Search:
    """The ``count`` most probable plans of one prompt, as a coroutine.

    It yields up to ``at_once`` beginnings at a time and wants to be sent the logits of the open
    edges behind each of them; who computes them may do so for many searches in one pass. NotFinite
    where they aren't finite.
    """
    run, state = grammar.forced_run(grammar.start)
    grown, plans = [Beginning(0.0, run, state)], list[Beginning]()
    waiting: list[tuple[float, int, Beginning]] = []
    pushed = expanded = 0
    while True:
        plans += [child for child in grown if grammar.finished(child.state)]
        plans = sorted(plans, key=lambda plan: -plan.score)[:count]
        bound = plans[-1].score if len(plans) == count else -np.inf
        fresh = [b for b in grown if not grammar.finished(b.state) and b.score > bound]
        fresh.sort(key=lambda beginning: -beginning.score)
        # While plans lack, the search dives; then it goes on from whatever is likeliest.
        dives = bool(fresh) and len(plans) < count
        taken = fresh[:at_once] if dives else []
        for beginning in fresh[len(taken) :]:
            pushed += 1
            heappush(waiting, (-beginning.score, pushed, beginning))
        while not dives and len(taken) < at_once and waiting and -waiting[0][0] > bound:
            taken.append(heappop(waiting)[2])
        if not taken or (expanded >= most and len(plans) == count):
            return BestPlans(plans, exact=not taken)
        expanded += len(taken)
        logits = yield taken
        grown = []
        for beginning, logits_E in zip(taken, logits, strict=True):
            if not np.isfinite(logits_E).all():
                raise NotFinite
            edges = grammar.edges(beginning.state)
            for edge, log in zip(edges, log_softmax(logits_E), strict=True):
                run, state = grammar.forced_run(grammar.follow(beginning.state, edge))
                tokens = (*beginning.tokens, edge.token, *run)
                grown.append(Beginning(beginning.score + float(log), tokens, state))


def search_shapes(grammar: PlanGrammar, *, prompt: int, slots: int) -> Shapes:
    """The shapes of ``search_all`` for prompts of so many tokens behind the system prompt."""
    response = 2 * AT_ONCE * longest_response(grammar)  # trees go up to a power of two
    return shapes_of(prompt=prompt, tail=0, response=response, slots=slots, nodes=1, queries=1)


def search_all(
    programs: Programs,
    grammar: PlanGrammar,
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    on_row: Callable[[], None],
) -> list[BestPlans]:
    """``best_plans`` of each prompt, given as its tokens behind the system prompt; as many prompts
    at a time as the programs have slots.

    The beginnings that a search asks for are the paths of one tree behind its prompt, which each
    pass runs anew.
    """
    found: list[BestPlans | None] = [None] * len(prompts)
    upcoming = iter(range(len(prompts)))
    free = list(range(max(programs.shapes.nodes)))
    searches: dict[int, tuple[int, Search]] = {}
    asked: dict[int, list[Beginning]] = {}
    while True:
        while free and (number := next(upcoming, None)) is not None:
            slot, search = free.pop(), best_plans(grammar, count)
            nothing = programs.no_edges(programs.shapes.queries)
            programs.prefill(slot, prompts[number], 0, [], nothing)
            searches[slot], asked[slot] = (number, search), next(search)
        if not asked:
            return [plans for plans in found if plans is not None]
        of_slots = {slot: prompts[number] for slot, (number, _) in searches.items()}
        for slot, logits in _edge_logits(programs, grammar, of_slots, asked).items():
            number, search = searches[slot]
            try:
                asked[slot] = search.send(logits)
            except StopIteration as end:
                found[number] = end.value
                del searches[slot], asked[slot]
                free.append(slot)
                on_row()


def _edge_logits(
    programs: Programs,
    grammar: PlanGrammar,
    prompts: Mapping[int, Sequence[int]],
    asked: Mapping[int, Sequence[Beginning]],
) -> dict[int, list[np.ndarray]]:
    """Slot -> logits of the open edges behind each beginning there, from one pass for all slots."""
    # What a slot holds ends with the prompt; its last token runs again, at the root of the tree.
    trees_of = {
        slot: _tree(int(prompts[slot][-1]), [beginning.tokens for beginning in beginnings])
        for slot, beginnings in asked.items()
    }
    rows, nodes = max(programs.shapes.nodes), _LEAST_NODES
    while nodes < max(len(tokens) for tokens, _, _ in trees_of.values()):
        nodes *= 2
    trees = empty_trees(rows, nodes, programs.shapes.window)
    allowed = programs.no_edges(rows, nodes)
    assert allowed is not None
    for slot, (tokens, parents, ends) in trees_of.items():
        trees.lengths_b[slot] = trees.base_b[slot] = len(prompts[slot]) - 1
        set_tree(trees, slot, tokens, parents)
        for end, beginning in zip(ends, asked[slot], strict=True):
            allowed.node[slot, end] = beginning.state.node
            allowed.open_bits[slot, end] = grammar.words(grammar.open_bits(beginning.state))
    logits_bxTxE = programs.verify(trees, allowed)
    return {
        slot: [
            logits_bxTxE[slot, end, [edge.number for edge in grammar.edges(beginning.state)]]
            for end, beginning in zip(ends, asked[slot], strict=True)
        ]
        for slot, (_, _, ends) in trees_of.items()
    }


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
