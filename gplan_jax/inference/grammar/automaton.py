"""The automaton behind a plan grammar: nodes, their edges, and what each edge is needed for.

    start -> ... -> root -> trie of the intents' bodies -> joint -> root
                                                        `-> end -> final

In latent form the start leads through ``<THOUGHT>``, the context blocks and the steps instead;
from the smallest to the largest plan length, each step's node goes on to the next or closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gplan_jax.gsisr import Intent
from gplan_jax.inference.grammar.tokens import LatentPieces, PlanPieces, Tokens, merged


class Edge(NamedTuple):
    """A token that may follow at a node."""

    number: int  # its place in the device table, 0 .. E - 1; ascending with the token.
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
    """The automaton as arrays: N nodes, at most E edges each, W words of 32 bits."""

    # int32 [N, E]; index of the edge's token in the grammar's ``token_ids``, 0 where there is no
    # edge
    edge_row: np.ndarray
    # uint32 [N, E, W]; the edge's bits, bit i in word i // 32, all 0 where there is no edge
    edge_bits: np.ndarray


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
        shape = (len(self.edges), max(map(len, self.edges)))
        table = GrammarTable(np.zeros(shape, np.int32), np.zeros((*shape, words), np.uint32))
        for node, edges in enumerate(self.edges):
            for edge in edges:
                table.edge_row[node, edge.number] = np.searchsorted(token_ids, edge.token)
                table.edge_bits[node, edge.number] = bit_words(edge.bits, words)
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
