"""The plan grammar: every token sequence that writes an admissible plan, and no other.

Compiled from an intent library and a tokenizer. A node of its automaton says where in the text a
response stands; which of a node's edges are open also hangs on what the plan holds already: no
intent twice, one intent of each exclusive group, a reference to the previous place only after an
intent that yields one, the plan's length, and in latent form as many intents as steps. All of that
is a bitset that each edge's bits are held against, so the device needs one AND an edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, canonical_plan
from gplan_jax.gsisr.plan_rules import PlanRules, admissible_intents, plan_rules
from gplan_jax.inference.grammar.automaton import (
    Automaton,
    Edge,
    GrammarTable,
    PlanBits,
    bit_words,
    build_automaton,
)
from gplan_jax.inference.grammar.tokens import (
    LatentPieces,
    PlanPieces,
    Tokens,
    latent_pieces,
    plan_pieces,
)

ResponseForm = Literal["plan", "latent"]


class GrammarState(NamedTuple):
    """Where a response stands."""

    node: int  # of the automaton
    closed: int  # bit i set: intent i may not occur any more (taken itself, or its group is used)
    place: bool  # whether an earlier intent yields a place
    # the intents that are complete, in order. An intent is taken with the first token that closes
    # it.
    taken: tuple[int, ...]
    steps: int  # plan length that the latent prefix announces so far, 0 in plan form


@dataclass(frozen=True)
class PrefixDecision:
    """A plan length that a latent prefix may announce: closed there, or one more step."""

    steps: int  # the plan length if it is closed
    index: int  # of the token after which that is decided
    state: GrammarState  # after that token


class ResponsePrefix(NamedTuple):
    """What is known of every response before it is written."""

    # in plan form what every plan begins with; in latent form ``<THOUGHT>``, the context blocks
    # and the most steps that a plan may have (where all plans have one length, also what every
    # plan begins with)
    tokens: Tokens
    # in latent form one for every plan length but the longest, ascending
    decisions: tuple[PrefixDecision, ...]
    state: GrammarState  # after all of ``tokens``


@dataclass(frozen=True, eq=False)
class PlanGrammar:
    """A compiled grammar; ``compile`` makes it."""

    library: IntentLibrary  # whose plans it admits
    # "plan" where a response is the plan alone, "latent" where latent tokens come first
    form: ResponseForm
    # all A admissible intents in canonical writing; an intent's index is its bit
    intents: tuple[Intent, ...]
    plan_bits: PlanBits  # numbers of the four bits of decisions, behind those of the intents
    # int32 [R] ascending; all that it can ever allow, each a token of the tokenizer
    token_ids: np.ndarray
    table: GrammarTable  # the automaton for the device
    start: GrammarState  # the state of an empty response
    pieces: PlanPieces
    latent: LatentPieces | None
    automaton: Automaton
    rules: PlanRules

    @classmethod
    def compile(
        cls, library: IntentLibrary, encoder: ChatEncoder, form: ResponseForm
    ) -> PlanGrammar:
        """The grammar of a library's plans in the tokens of a model.

        Raises:
            GplanError: the library takes free text, or its rules leave a plan without a way to
                end; the tokenizer lacks latent tokens, or writes an intent in different tokens
                beside another one.
        """
        intents = admissible_intents(library)
        latents = encoder.latents if form == "latent" else None
        rules = plan_rules(library, intents, most_steps=latents.max_steps if latents else None)
        pieces = plan_pieces(intents, library, encoder)
        latent = latent_pieces(intents, pieces, library, encoder) if latents else None
        bits = PlanBits(*range(len(intents), len(intents) + 4))
        automaton = build_automaton(intents, pieces, latent, (rules.minimum, rules.maximum), bits)
        token_ids = np.asarray(sorted({t for node in automaton.by_token for t in node}), np.int32)
        table = automaton.table(token_ids, -(-(len(intents) + len(bits)) // 32))
        start = GrammarState(automaton.start, 0, False, (), 0)
        return cls(
            library,
            form,
            intents,
            bits,
            token_ids,
            table,
            start,
            pieces,
            latent,
            automaton,
            rules,
        )

    def open_bits(self, state: GrammarState) -> int:
        """The bitset of what is open: an edge is where ``edge.bits & open_bits`` is not 0."""
        if forced := self.automaton.forced_bits[state.node]:
            return forced
        rules = self.rules
        available = (rules.all if state.place else rules.free) & ~state.closed
        intent = self.automaton.completes[state.node]
        if intent < 0 or not available >> intent & 1:
            return available
        count = len(state.taken) + 1
        least, most = (state.steps, state.steps) if state.steps else (rules.minimum, rules.maximum)
        if count >= least:
            available |= 1 << self.plan_bits.END
        if count < most:
            known = rules.all if state.place or rules.yields >> intent & 1 else rules.free
            if known & ~(state.closed | rules.closes[intent]):
                available |= 1 << self.plan_bits.MORE
        return available

    def words(self, open_bits: int) -> np.ndarray:
        """A bitset as the device takes it: uint32 [W]."""
        return bit_words(open_bits, self.table.edge_bits.shape[2])

    def edges(self, state: GrammarState) -> tuple[Edge, ...]:
        """The open edges, ascending by number; none where the plan is finished."""
        edges = self.automaton.edges[state.node]
        if not edges:
            return edges
        bits = self.open_bits(state)
        return tuple([edge for edge in edges if edge.bits & bits])

    def advance(self, state: GrammarState, token: int) -> GrammarState:
        """The state after one more token; GplanError says what the grammar allows instead."""
        edge = self.automaton.by_token[state.node].get(token)
        if edge is None or not edge.bits & self.open_bits(state):
            allowed = ", ".join(str(edge.token) for edge in self.edges(state)) or "none"
            raise GplanError(
                f"Token {token} can't follow after {len(state.taken)} complete intents at node "
                f"{state.node} of the plan grammar; allowed tokens: {allowed}."
            )
        return self.follow(state, edge)

    def follow(self, state: GrammarState, edge: Edge) -> GrammarState:
        """The state behind an open edge of ``state``; as ``advance``, but unchecked."""
        node, closed, place, taken, steps = state
        intent = self.automaton.completes[node]
        if intent >= 0 and edge.bits >> self.plan_bits.END:
            closed |= self.rules.closes[intent]
            place = place or bool(self.rules.yields >> intent & 1)
            taken = (*taken, intent)
        target = edge.target
        return GrammarState(target, closed, place, taken, self.automaton.steps[target] or steps)

    def forced_run(self, state: GrammarState) -> tuple[Tokens, GrammarState]:
        """The longest run in which exactly one edge is open, and the state behind it."""
        run: list[int] = []
        while True:
            node, closed, place, taken, steps = state
            tokens, target, announced = self.automaton.chains[node]
            if tokens:
                run += tokens
                state = GrammarState(target, closed, place, taken, announced or steps)
            edges = self.edges(state)
            if len(edges) != 1:
                return tuple(run), state
            run.append(edges[0].token)
            state = self.follow(state, edges[0])

    def finished(self, state: GrammarState) -> bool:
        """Whether the plan is closed."""
        return state.node == self.automaton.final

    def tokens_of(self, plan: Sequence[Intent]) -> Tokens:
        """A whole response in this form, without the end token; the rules are not checked."""
        indices = [self.index(intent) for intent in plan]
        if not indices:
            raise GplanError("A plan has at least one intent.")
        if self.latent is None:
            return (*self.pieces.start, *self.pieces.plan(indices))
        if len(plan) > len(self.latent.steps):
            raise GplanError(
                f"The plan has {len(plan)} intents but there are latent tokens for "
                f"{len(self.latent.steps)} steps."
            )
        steps = [token for block in self.latent.steps[: len(plan)] for token in block]
        return (*self.latent.head, *steps, *self.latent.close, *self.pieces.plan(indices))

    def index(self, intent: Intent) -> int:
        """An intent's place in ``intents``, whatever the order of its keys; GplanError where it has
        none.
        """
        found = self._indices.get(frozenset(intent.items()))
        if found is None:
            text = canonical_plan([intent], self.library)[1:-1]
            raise GplanError(f"{text} is no intent of the library {self.library.name}.")
        return found

    def decisions_of_prefix(self) -> ResponsePrefix:
        """What every response begins with, and where in it the plan length is decided."""
        tokens, state = self.forced_run(self.start)
        if self.latent is None:
            return ResponsePrefix(tokens, (), state)
        decisions = []
        for steps in range(self.rules.minimum, self.rules.maximum):
            decisions.append(PrefixDecision(steps, len(tokens) - 1, state))
            for token in self.latent.steps[steps]:
                tokens, state = (*tokens, token), self.advance(state, token)
        return ResponsePrefix(tokens, tuple(decisions), state)

    @cached_property
    def _indices(self) -> dict[frozenset[tuple[str, str]], int]:
        return {frozenset(intent.items()): i for i, intent in enumerate(self.intents)}
