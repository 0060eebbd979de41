"""Drafts: a tree of tokens that a plan probably goes on with, for one pass to verify.

Whole intents are drafted: counts of training plans (``gsisr.intent_counts``) give every intent a
probability, given the context and the intents before, and an edge of the grammar that of the
intents it leads to, of those still open. The tree grows best first: the end with the greatest
product of probabilities on its path is next, together with the tokens that are forced behind it.
So the sum of the nodes' probabilities, which is the number of drafted tokens that the pass is
expected to accept, is as large as the counts can make it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np

from gplan_jax.gsisr.intent_counts import (
    END,
    ContextKey,
    IntentCounts,
    NearPlans,
    intent_texts,
)
from gplan_jax.inference.grammar.plan_grammar import Edge, GrammarState, PlanGrammar

CONTEXTS_KEPT, HISTORIES_KEPT, DECISIONS_KEPT = 256, 256, 4096
# A server adds what it answers: a context's likely plans are gathered anew after so many additions.
STALE_AFTER = 32
# Appended tokens cost the prefill little, but more of them cost more than the pass they may save.
LEAST_LIKELY = 0.3
PSEUDO_LENGTH = 0.1


class DraftTree(NamedTuple):
    """Tokens to verify in one pass."""

    tokens: tuple[int, ...]  # one of each node; parents come before their children
    # the node that a node follows on, -1 for what follows on the tokens held already
    parents: tuple[int, ...]
    # the grammar after each node's token; for the nodes of the chain, where nothing is decided,
    # the state after the whole chain
    states: tuple[GrammarState, ...]
    chain: int  # the first ``chain`` nodes are certain, a path


class Start(NamedTuple):
    """What is appended to a prompt: tokens that its response certainly or probably begins with."""

    tokens: tuple[int, ...]  # a response that goes another way keeps those before it does
    # grammar states at which something is to be decided on the way, and the tokens in front of
    # each. Where the last token leaves a choice, that is the last of them.
    decisions: tuple[tuple[int, GrammarState], ...]


class Branch(NamedTuple):
    """An open edge with all that is forced behind it: tokens, and the state after each."""

    tokens: tuple[int, ...]
    states: tuple[GrammarState, ...]


class _Below(NamedTuple):
    """The intents below each edge of a node, one edge's after the other; where each begins."""

    intents: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class _Decision:
    """What may follow a state."""

    edges: tuple[Edge, ...]  # the open ones
    branches: list[Branch | None]  # that of each edge, worked out where it was drafted
    places: np.ndarray  # int [number of open edges], their places among all edges of the node
    open_A: np.ndarray  # bool [A], the intents that are still available
    # the intent that is complete if the plan ends or goes on here; -1 where neither is open, or
    # only one of them
    completed: int = -1
    # the places of these edges
    end: int = 0
    more: int = 0
    left_A: np.ndarray | None = None  # bool [A], intents that may still follow ``completed``


@dataclass
class _Context:
    """What is known of one context: its plans, and what follows which intents."""

    near: NearPlans
    version: int
    following: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)


class DraftModel:
    """Drafts trees of a grammar by counts; what it has worked out it remembers, within bounds.

    One thread at a time may use it. ``counts`` may gain plans between two calls.
    """

    def __init__(self, grammar: PlanGrammar, counts: IntentCounts) -> None:
        self.grammar, self.counts = grammar, counts
        self._texts = intent_texts(grammar.intents, grammar.library)
        self._numbers = np.asarray([*(counts.number(text) for text in self._texts), END])
        nodes = range(len(grammar.automaton.edges))
        self._below = [self._below_each(node) for node in nodes]
        self._decisions: dict[GrammarState, _Decision] = {}
        self._contexts: OrderedDict[tuple[ContextKey, int], _Context] = OrderedDict()

    def tree(
        self, state: GrammarState, chain: tuple[int, ...], context: ContextKey, budget: int
    ) -> DraftTree:
        """The tree of at most ``budget`` nodes with the most probable tokens behind a chain, which
        is known but that no pass has seen; a longer chain is cut and nothing drafted. ``state`` is
        after it.
        """
        certain = min(len(chain), budget)
        tokens, parents = list(chain[:certain]), list(range(-1, certain - 1))
        states = [state] * certain
        if certain == len(chain) and certain < budget:
            self._grow(state, self._found(state, context), budget, tokens, parents, states)
        return DraftTree(tuple(tokens), tuple(parents), tuple(states), certain)

    def start(self, state: GrammarState, context: ContextKey, budget: int, most: int) -> Start:
        """The likeliest beginning of a response, at most ``budget`` tokens and ``most`` decisions;
        ``state`` is in front of it.

        It goes on from decision to decision by the likelier way, while the product of their
        probabilities is at least LEAST_LIKELY. Where nothing is known of plan lengths it takes in
        every step there may be.
        """
        tokens: list[int] = []
        decisions: list[tuple[int, GrammarState]] = []
        probability = 1.0
        while edges := self.grammar.edges(state):
            onward = edges[0]
            if len(edges) > 1:
                decisions.append((len(tokens), state))
                shares = self._shares(state, self._decision(state), self._found(state, context))
                likeliest = int(np.argmax(shares))
                onward = edges[likeliest]
                if not self._is_length(edges):  # A plan length costs little to be wrong about.
                    probability *= shares[likeliest]
            if len(tokens) == budget or len(decisions) == most or probability < LEAST_LIKELY:
                break
            tokens.append(onward.token)
            state = self.grammar.follow(state, onward)
        return Start(tuple(tokens), tuple(decisions))

    def learn(self, context: ContextKey, taken: tuple[int, ...]) -> None:
        """Counts a finished plan, so that plans like it are drafted: ``state.taken`` at its end."""
        self.counts.add(context, [self._texts[intent] for intent in taken])

    def _grow(
        self,
        state: GrammarState,
        context: _Context,
        budget: int,
        tokens: list[int],
        parents: list[int],
        states: list[GrammarState],
    ) -> None:
        """Adds drafted nodes behind the last one until there are ``budget``."""
        ends: list[tuple[float, int, int, int, GrammarState]] = []
        pushed, parent, probability = 0, len(tokens) - 1, 1.0
        while True:
            decision = self._decision(state)
            for number, share in enumerate(self._shares(state, decision, context)):
                heappush(ends, (-probability * share, pushed, number, parent, state))
                pushed += 1
            if not ends:
                return
            negative, _, number, parent, state = heappop(ends)
            branch = self._branch(state, number)
            first, room = len(tokens), budget - len(tokens)
            tokens += branch.tokens[:room]
            states += branch.states[:room]
            parents.append(parent)
            parents += range(first, len(tokens) - 1)
            if len(tokens) == budget:
                return
            parent, probability, state = len(tokens) - 1, -negative, states[-1]

    def _shares(self, state: GrammarState, decision: _Decision, context: _Context) -> list[float]:
        """The probability of each open edge, in their order; they add to 1."""
        count = len(decision.edges)
        if count < 2:
            return [1.0] * count
        if self._is_length(decision.edges):
            # A prefix of so many steps closes, or takes another one.
            near = context.near
            lengths_P = (near.plans_PxL > END).sum(axis=1)
            here = near.weights_P[lengths_P == state.steps].sum() + PSEUDO_LENGTH
            longer = near.weights_P[lengths_P > state.steps].sum() + PSEUDO_LENGTH
            close = float(here / (here + longer))
            closes = self.grammar.plan_bits.CLOSE
            # Ties go on: with nothing known, all steps are taken in.
            return [close - 1e-9 if e.bits >> closes & 1 else 1 - close for e in decision.edges]
        following, below = self._following(context, state.taken), self._below[state.node]
        open_A = following[:-1] * decision.open_A
        masses = np.add.reduceat(open_A[below.intents], below.starts)
        if decision.left_A is not None:
            after = self._following(context, (*state.taken, decision.completed))
            end = after[-1] / (after[-1] + after[:-1] @ decision.left_A)
            masses[decision.end] *= end
            masses[decision.more] *= 1 - end
        masses = masses[decision.places]
        shares: list[float] = (masses / masses.sum()).tolist()
        return shares

    def _is_length(self, edges: tuple[Edge, ...]) -> bool:
        """Whether a decision is one of the plan's length: to close the prefix, or another step."""
        return bool(edges[0].bits >> self.grammar.plan_bits.STEP)

    def _found(self, state: GrammarState, key: ContextKey) -> _Context:
        """The plans that count in a context, of as many intents as the response announces."""
        edges = self.grammar.edges(state)
        # A length that is still open conditions nothing.
        steps = 0 if len(edges) > 1 and self._is_length(edges) else state.steps
        counts, contexts = self.counts, self._contexts
        found = contexts.get((key, steps))
        if found is None or counts.version >= found.version + STALE_AFTER:
            found = _Context(counts.near(key, length=steps), counts.version)
            contexts[(key, steps)] = found
            if len(contexts) > CONTEXTS_KEPT:
                contexts.popitem(last=False)
        contexts.move_to_end((key, steps))
        return found

    def _following(self, context: _Context, taken: tuple[int, ...]) -> np.ndarray:
        """float64 [A + 1]: the probability of each intent after ``taken``, that of the end last."""
        found = context.following.get(taken)
        if found is None:
            if len(context.following) >= HISTORIES_KEPT:
                context.following.clear()
            numbers = [int(self._numbers[intent]) for intent in taken]
            found = self.counts.probabilities(context.near, numbers)[self._numbers]
            context.following[taken] = found
        return found

    def _decision(self, state: GrammarState) -> _Decision:
        if state in self._decisions:
            return self._decisions[state]
        grammar = self.grammar
        edges = grammar.edges(state)
        places = np.asarray([edge.number for edge in edges], np.intp)
        open_A = self._as_bools(grammar.open_bits(state))
        decision = _Decision(edges, [None] * len(edges), places, open_A)
        deciding = [edge for edge in edges if edge.bits >> grammar.plan_bits.END]
        completed = grammar.automaton.completes[state.node]
        if completed >= 0 and len(deciding) > 1:  # an intent is complete: the plan ends or goes on
            end, more = sorted(deciding, key=lambda edge: edge.bits)
            rules = grammar.rules
            known = state.place or rules.yields >> completed & 1
            left = (rules.all if known else rules.free) & ~(state.closed | rules.closes[completed])
            decision = replace(
                decision,
                completed=completed,
                end=end.number,
                more=more.number,
                left_A=self._as_bools(left),
            )
        if len(self._decisions) >= DECISIONS_KEPT:
            self._decisions.clear()
        self._decisions[state] = decision
        return decision

    def _below_each(self, node: int) -> _Below:
        """The intents that speak for each edge of a node: those it leads to, or that it closes."""
        automaton, end = self.grammar.automaton, self.grammar.plan_bits.END
        groups = [
            np.asarray([automaton.completes[node]])
            if edge.bits >> end
            else np.flatnonzero(self._as_bools(edge.bits))
            for edge in automaton.edges[node]
        ]
        starts = np.cumsum([0, *map(len, groups[:-1])])
        return _Below(np.concatenate([np.zeros(0, np.intp), *groups]), starts)

    def _branch(self, state: GrammarState, number: int) -> Branch:
        """The branch of an open edge, by its number among them."""
        decision = self._decision(state)
        found = decision.branches[number]
        if found is None:
            edge, follow = decision.edges[number], self.grammar.follow
            tokens, states = [edge.token], [follow(state, edge)]
            while len(edges := self.grammar.edges(states[-1])) == 1:
                tokens.append(edges[0].token)
                states.append(follow(states[-1], edges[0]))
            found = decision.branches[number] = Branch(tuple(tokens), tuple(states))
        return found

    def _as_bools(self, bits: int) -> np.ndarray:
        """bool [A]: the bits of the intents."""
        size = len(self.grammar.intents)
        raw = (bits & (1 << size) - 1).to_bytes(-(-size // 8), "little")
        return np.unpackbits(np.frombuffer(raw, np.uint8), count=size, bitorder="little") > 0
