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

from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.engine.sequences import SequenceState, log_softmax
from gplan_jax.inference.grammar.drafts import DraftTree
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar
from gplan_jax.inference.grammar.tokens import common_prefix

# Beginnings that a search dives from at a time, and that it goes on from in all.
AT_ONCE, MOST = 4, 1000


class Beginning(NamedTuple):
    """The beginning of a response: its log-probability, its tokens and the grammar behind them."""

    score: float
    tokens: tuple[int, ...]
    state: GrammarState


class BestPlans(NamedTuple):
    """What a search has found."""

    plans: list[Beginning]  # the likeliest first; fewer than wanted where there are no more
    exact: bool  # whether no other plan is likelier than the last of them
    # number of an intent -> the probability that the plan begins with it, behind the intents that
    # are no decision; what lacks to 1 lies behind beginnings that nobody went on from
    first: dict[int, float]


Search = Generator[list[Beginning], Sequence[np.ndarray], BestPlans]


def best_plans(
    grammar: PlanGrammar,
    count: int,
    *,
    start: GrammarState | None = None,
    least_first: float = 1.0,
    at_once: int = AT_ONCE,
    most: int = MOST,
) -> Search:
    """The ``count`` most probable plans of one prompt, as a coroutine.

    It yields beginnings in the order of their tokens, ``at_once`` at a time while it dives and then
    up to four times as many, and wants to be sent the logits of the open edges behind each of them.
    NotFinite where they aren't finite.

    Args:
        start: where the plans begin; None for the grammar's start.
        least_first: beginnings of the first intent that are more probable are gone on from even
            where they can't lead to one of the plans, so that ``BestPlans.first`` knows it.
    """
    start = start or grammar.start
    fixed = len(start.ahead)  # intents that are no decision
    run, state = grammar.forced_run(start)
    grown, plans = [Beginning(0.0, run, state)], list[Beginning]()
    waiting: list[tuple[float, int, Beginning]] = []
    first: defaultdict[int, float] = defaultdict(float)
    least_score = float(np.log(least_first))
    pushed = expanded = 0
    while True:
        plans += [child for child in grown if grammar.finished(child.state)]
        plans = sorted(plans, key=lambda plan: -plan.score)[:count]
        bound = plans[-1].score if len(plans) == count else -np.inf
        fresh = [b for b in grown if not grammar.finished(b.state)]
        fresh.sort(key=lambda beginning: -beginning.score)
        # While plans lack, the search dives; then it goes on from whatever is likeliest.
        dives = bool(fresh) and len(plans) < count
        taken = fresh[:at_once] if dives else []
        for beginning in fresh[len(taken) :]:
            pushed += 1
            heappush(waiting, (-beginning.score, pushed, beginning))
        exact = True
        while not dives and len(taken) < 4 * at_once and waiting:
            beginning = heappop(waiting)[2]
            if beginning.score > bound:
                exact = False
            elif len(beginning.state.taken) > fixed or beginning.score <= least_score:
                continue
            taken.append(beginning)
        if not taken or (expanded >= most and len(plans) == count):
            return BestPlans(plans, exact and not dives, first)
        expanded += len(taken)
        taken.sort(key=lambda beginning: beginning.tokens)
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
                if len(state.taken) > fixed >= len(beginning.state.taken):
                    first[state.taken[fixed]] += float(np.exp(grown[-1].score))


@dataclass(kw_only=True)
class SearchRow(SequenceState):
    """A search in a slot, which is decoded beside other rows and ends as its likeliest plan.

    The slot holds one beginning at a time, behind all tokens of the prompt but the last one, which
    runs again at the root. A pass takes in as many of those asked for as have room in its tree, and
    goes on from what they have in common with the one that is held; a beginning that is longer than
    the tree takes several passes.
    """

    search: Search
    root: int  # the prompt's last token
    before: int  # tokens of the slot in front of it
    spine: list[int] = field(init=False)  # the root and the tokens that are held behind it
    asked: list[Beginning] = field(default_factory=list)  # what the search waits for
    logits: list[np.ndarray] = field(default_factory=list)  # of the first of them
    ends: list[int] = field(default_factory=list)  # nodes of the tree where the next of them end
    found: BestPlans | None = None

    def __post_init__(self) -> None:
        self.spine = [self.root]

    def tree(self, budget: int) -> tuple[DraftTree, dict[int, GrammarState]]:
        """The next pass: at most ``budget`` nodes, and those where logits are wanted."""
        left = self.asked[len(self.logits) :]
        sequences = [(self.root, *beginning.tokens) for beginning in left]
        # As many as fit, behind what they all have in common with the spine; being sorted, each
        # one adds what it lacks of the one before. A last token runs in any case, for its logits.
        first = last = sequences[0]
        keep, size, count = min(common_prefix(self.spine, first), len(first) - 1), len(first), 1
        for sequence in sequences[1:]:
            size += len(sequence) - common_prefix(last, sequence)
            shared = min(keep, common_prefix(first, sequence), len(sequence) - 1)
            if size - shared > budget:
                break
            keep, count, last = shared, count + 1, sequence
        self.held = self.before + keep
        tokens, parents, children = list[int](), list[int](), dict[tuple[int, int], int]()
        self.ends = []
        for sequence in sequences[:count]:
            node = -1
            for token in sequence[keep : keep + budget]:
                if (node, token) not in children:
                    children[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = children[node, token]
            if len(sequence) <= keep + budget:
                self.ends.append(node)
        states = {end: beginning.state for end, beginning in zip(self.ends, left, strict=False)}
        return DraftTree(tuple(tokens), tuple(parents), (), 1), states

    def accept(self, grammar: PlanGrammar, tree: DraftTree, logits_TxE: np.ndarray) -> None:
        """Takes over from a pass the logits that were wanted, and goes on searching."""
        self.passes += 1
        # The last beginning stays: the next one was sorted behind it.
        path, node = list[int](), self.ends[-1] if self.ends else len(tree.tokens) - 1
        while node >= 0:
            path.append(node)
            node = tree.parents[node]
        self.path = tuple(reversed(path))
        self.spine[self.held - self.before :] = [tree.tokens[node] for node in self.path]
        self.base, self.held = self.held, self.held + len(path)
        for end in self.ends:
            edges = grammar.edges(self.asked[len(self.logits)].state)
            self.logits.append(logits_TxE[end, [edge.number for edge in edges]])
        if len(self.logits) == len(self.asked):
            self.go_on()

    def go_on(self) -> None:
        """Sends the search what it has asked for."""
        try:
            self.asked = self.search.send(self.logits) if self.asked else next(self.search)
            self.logits = []
        except StopIteration as end:
            self.found = end.value
            best = end.value.plans[0]
            self.response, self.state, self.finished = list(best.tokens), best.state, True
