"""The plan grammar: every token sequence that writes an admissible plan, and no other.

Compiled from an intent library and a tokenizer into an automaton, nodes and their edges:

    start -> ... -> root -> trie of the intents' bodies -> joint -> root
                                                        `-> end -> final

In latent form the start leads through ``<THOUGHT>``, the context blocks and the steps instead;
from the smallest to the largest plan length, each step's node goes on to the next or closes.

A node says where in the text a response stands; which of its edges are open also hangs on what the
plan holds already: no intent twice, one intent of each exclusive group, a reference to the previous
place only after an intent that yields one, the plan's length, and in latent form as many intents as
steps. All of that is a bitset that each edge's bits are held against, so the device needs one AND
an edge.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary
from gplan_jax.gsisr.filter import PlanRules, admissible_intents, plan_rules
from gplan_jax.inference.grammar.tokens import (
    LatentPieces,
    PlanPieces,
    Tokens,
    latent_pieces,
    merged,
    plan_pieces,
)


class Edge(NamedTuple):
    """A token that may follow at a node."""

    number: int  # its place at its node, 0 .. E - 1; ascending with the token
    token: int  # vocabulary id
    target: int  # the node behind it
    bits: int  # bitset of what opens it: the intents that it leads to, or a decision


class PlanBits(NamedTuple):
    """Numbers of the bits of the decisions, behind those of the A intents."""

    END: int
    MORE: int
    STEP: int
    CLOSE: int


class GrammarTable(NamedTuple):
    """The automaton as arrays, NumPy's or JAX's: N nodes, at most E edges each, M edges in all and
    one that is none, W words of 32 bits.

    Few nodes have many edges: bits by node would take some forty times the memory of bits by edge.
    """

    edge_NxE: Any  # int32; a node's edges, 0 where there are no more
    row_M: Any  # int32; index of an edge's token in the grammar's ``token_ids``
    bits_MxW: Any  # uint32; an edge's bits, bit i in word i // 32; those of edge 0 are all 0


@dataclass
class Automaton:
    """Nodes by number, in the order in which they were made."""

    # nodes where a response begins, an intent's body begins, a plan ends
    start: int
    root: int
    final: int
    # each node's edges, ascending by token
    edges: list[tuple[Edge, ...]] = field(default_factory=list)
    by_token: list[dict[int, Edge]] = field(default_factory=list)  # the same by token
    # the intent whose body ends at a node, -1 where none does
    completes: list[int] = field(default_factory=list)
    # the plan length that a node of the latent prefix announces, 0 elsewhere
    steps: list[int] = field(default_factory=list)
    # what is open at nodes whose edges are open always, 0 at nodes of the trie
    forced_bits: list[int] = field(default_factory=list)
    # tokens that can only follow at a node, the node behind them and the plan length they
    # announce (0 for none); up to a node with several edges or that completes an intent
    chains: list[tuple[Tokens, int, int]] = field(default_factory=list)

    def table(self, token_ids: np.ndarray, words: int) -> GrammarTable:
        """The arrays for the device; ``token_ids`` [R] are the grammar's tokens, ascending."""
        edges = [edge for node in self.edges for edge in node]
        table = GrammarTable(
            np.zeros((len(self.edges), max(map(len, self.edges))), np.int32),
            np.zeros(1 + len(edges), np.int32),
            np.zeros((1 + len(edges), words), np.uint32),
        )
        nodes = np.repeat(np.arange(len(self.edges)), [len(node) for node in self.edges])
        table.edge_NxE[nodes, [edge.number for edge in edges]] = np.arange(1, 1 + len(edges))
        table.row_M[1:] = np.searchsorted(token_ids, [edge.token for edge in edges])
        for index, edge in enumerate(edges, start=1):
            table.bits_MxW[index] = bit_words(edge.bits, words)
        return table


def bit_words(bits: int, words: int) -> np.ndarray:
    """A bitset as uint32 [words], bit i in word i // 32."""
    return np.frombuffer(bits.to_bytes(4 * words, "little"), "<u4").astype(np.uint32, copy=False)


class _Nodes:
    """Nodes in the making: token -> (target, bits)."""

    def __init__(self) -> None:
        self.edges: list[dict[int, tuple[int, int]]] = []
        self.completes: list[int] = []
        self.steps: list[int] = []
        self._tails: dict[tuple[Tokens, int, int], int] = {}

    def new(self, steps: int = 0) -> int:
        self.edges.append({})
        self.completes.append(-1)
        self.steps.append(steps)
        return len(self.edges) - 1

    def walk(self, node: int, tokens: Tokens, bit: int, steps: int = 0) -> int:
        """Follows or makes the path of ``tokens``, each edge with the bit, and returns its end."""
        for token in tokens:
            target, bits = self.edges[node].get(token) or (self.new(steps), 0)
            self.edges[node][token] = (target, bits | 1 << bit)
            node = target
        return node

    def join(self, node: int, tokens: Tokens, bit: int, target: int) -> None:
        """Adds a path from ``node`` to ``target``; paths that end alike share their nodes."""
        first, rest = tokens[0], tokens[1:]
        self.edges[node][first] = (self._tail(rest, bit, target), 1 << bit)

    def _tail(self, tokens: Tokens, bit: int, target: int) -> int:
        if not tokens:
            return target
        key = (tokens, bit, target)
        if key not in self._tails:
            node = self._tails[key] = self.new()
            self.edges[node][tokens[0]] = (self._tail(tokens[1:], bit, target), 1 << bit)
        return self._tails[key]


def build_automaton(
    intents: Sequence[Intent],
    pieces: PlanPieces,
    latent: LatentPieces | None,
    step_bounds: tuple[int, int],
    bits: PlanBits,
) -> Automaton:
    """The automaton of all plans of ``intents``, behind a latent prefix of so many steps where
    there is one; GplanError names two intents whose tokens can't be told apart in time.
    """
    nodes = _Nodes()
    start, root, final = nodes.new(), nodes.new(), nodes.new()

    # From the start to the root: a plan's first tokens, or the latent prefix, which may close
    # behind each step from the fewest on.
    if latent is None:
        nodes.join(start, pieces.start, bits.MORE, root)
    else:
        fewest, most = step_bounds
        node = nodes.walk(start, latent.head, bits.STEP)
        for steps, block in enumerate(latent.steps[:most], start=1):
            node = nodes.walk(node, block, bits.STEP, steps)
            if steps >= fewest:
                nodes.join(node, latent.close, bits.CLOSE, root)
    prefix = {*range(len(nodes.edges))} - {root, final}

    # The trie of the intents' bodies.
    for intent, body in enumerate(pieces.bodies):
        node = nodes.walk(root, body, intent)
        if nodes.completes[node] >= 0:
            raise merged(intents[nodes.completes[node]], intents[intent])
        nodes.completes[node] = intent
    trie = {*range(len(nodes.edges))} - prefix - {final}

    # Behind a complete intent: a joint back to the root, or the end.
    for node in sorted(trie):
        if (intent := nodes.completes[node]) < 0:
            continue
        ways = ((pieces.joints[intent], bits.MORE, root), (pieces.ends[intent], bits.END, final))
        for tokens, bit, target in ways:
            if not tokens or tokens[0] in nodes.edges[node]:
                _, others = nodes.edges[node].get(tokens[0], (0, 1)) if tokens else (0, 1)
                raise merged(intents[intent], intents[others.bit_length() - 1])
            nodes.join(node, tokens, bit, target)

    # Edges get their numbers. Outside the trie whatever there is is open.
    automaton = Automaton(start, root, final, completes=nodes.completes, steps=nodes.steps)
    for node, by_token in enumerate(nodes.edges):
        edges = tuple(
            Edge(number, token, *by_token[token]) for number, token in enumerate(sorted(by_token))
        )
        automaton.edges.append(edges)
        automaton.by_token.append({edge.token: edge for edge in edges})
        forced = 0
        for edge in edges if node not in trie else ():
            forced |= edge.bits
        automaton.forced_bits.append(forced)

    # The chain of each node: what can only follow.
    for node in range(len(nodes.edges)):
        chain, end, announced = [], node, 0
        while len(automaton.edges[end]) == 1 and automaton.completes[end] < 0:
            [edge] = automaton.edges[end]
            chain.append(edge.token)
            end = edge.target
            announced = automaton.steps[end] or announced
        automaton.chains.append((tuple(chain), end, announced))
    return automaton


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
    most: int  # intents that the plan may have
    ahead: tuple[int, ...] = ()  # the intents that come next, whatever the model thinks of them


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
    seconds: float  # that compiling took

    def __str__(self) -> str:
        """Its size: 5,508 intents, 25,608 nodes, 29.8 MiB of tables, compiled in 3.3 s."""
        mib = sum(part.nbytes for part in self.table) / 2**20
        return (
            f"{len(self.intents):,} intents, {len(self.automaton.edges):,} nodes, "
            f"{mib:,.1f} MiB of tables, compiled in {self.seconds:.1f} s"
        )

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
        started = time.monotonic()
        intents = admissible_intents(library)
        latents = encoder.latents if form == "latent" else None
        rules = plan_rules(library, intents, most_steps=latents.max_steps if latents else None)
        pieces = plan_pieces(intents, library, encoder)
        latent = latent_pieces(intents, pieces, library, encoder) if latents else None
        bits = PlanBits(*range(len(intents), len(intents) + 4))
        automaton = build_automaton(intents, pieces, latent, (rules.minimum, rules.maximum), bits)
        token_ids = np.asarray(sorted({t for node in automaton.by_token for t in node}), np.int32)
        table = automaton.table(token_ids, -(-(len(intents) + len(bits)) // 32))
        start = GrammarState(automaton.start, 0, False, (), 0, rules.maximum)
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
            time.monotonic() - started,
        )

    @cached_property
    def numbers(self) -> dict[frozenset[tuple[str, str]], int]:
        """The number of each intent, by its keys and values."""
        return {frozenset(intent.items()): i for i, intent in enumerate(self.intents)}

    def open_bits(self, state: GrammarState) -> int:
        """The bitset of what is open: an edge is where ``edge.bits & open_bits`` is not 0."""
        rules, bits = self.rules, self.plan_bits
        if forced := self.automaton.forced_bits[state.node]:
            length = 1 << bits.STEP | 1 << bits.CLOSE
            if forced & length != length or len(state.ahead) <= state.steps < state.most:
                return forced
            return 1 << (bits.STEP if state.steps < state.most else bits.CLOSE)
        available = (rules.all if state.place else rules.free) & ~state.closed
        if state.ahead:
            available &= 1 << state.ahead[0]
        intent = self.automaton.completes[state.node]
        if intent < 0 or not available >> intent & 1:
            return available
        count = len(state.taken) + 1
        least, most = (state.steps, state.steps) if state.steps else (rules.minimum, state.most)
        if count >= least and len(state.ahead) < 2:
            available |= 1 << bits.END
        if count < most:
            known = rules.all if state.place or rules.yields >> intent & 1 else rules.free
            if known & ~(state.closed | rules.closes[intent]):
                available |= 1 << bits.MORE
        return available

    def words(self, open_bits: int) -> np.ndarray:
        """A bitset as the device takes it: uint32 [W]."""
        return bit_words(open_bits, self.table.bits_MxW.shape[1])

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
        node, closed, place, taken, steps, most, ahead = state
        intent = self.automaton.completes[node]
        if intent >= 0 and edge.bits >> self.plan_bits.END:
            closed |= self.rules.closes[intent]
            place = place or bool(self.rules.yields >> intent & 1)
            taken, ahead = (*taken, intent), ahead[1:]
        target = edge.target
        steps = self.automaton.steps[target] or steps
        return GrammarState(target, closed, place, taken, steps, most, ahead)

    def forced_run(self, state: GrammarState) -> tuple[Tokens, GrammarState]:
        """The longest run in which exactly one edge is open, and the state behind it."""
        run: list[int] = []
        while True:
            tokens, target, announced = self.automaton.chains[state.node]
            if tokens:
                run += tokens
                state = state._replace(node=target, steps=announced or state.steps)
            edges = self.edges(state)
            if len(edges) != 1:
                return tuple(run), state
            run.append(edges[0].token)
            state = self.follow(state, edges[0])

    def finished(self, state: GrammarState) -> bool:
        """Whether the plan is closed."""
        return state.node == self.automaton.final

    def prefix(self) -> tuple[Tokens, GrammarState]:
        """What every response begins with, as far as the longest plan does, and the state there."""
        tokens, state = self.forced_run(self.start)
        if self.latent is not None:
            for token in itertools.chain(
                *self.latent.steps[self.rules.minimum : self.rules.maximum]
            ):
                tokens, state = (*tokens, token), self.advance(state, token)
        return tokens, state
