"""ProsQA as a symbolic graph: which of two nodes can be reached from the root?

    4 7 | 0 4 | 7 2 | 5 1 | 0 3 [Q] 1 2 [R] 0        steps 4, 7, 2        answer 2

Graphs grow as in Hao et al., "Training Large Language Models to Reason in a Continuous Latent
Space" (2024), appendix A.2; the symbols (edges, candidates, root, a node a step) are those of Zhu
et al., "Reasoning by Superposition" (2025). docs/tasks.md compares with the published figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from random import Random
from typing import NamedTuple
from zlib import crc32

from gplan_jax.tasks.rows import Row, task_row


class GraphSet(NamedTuple):
    """How the graphs of a set grow, and which tenths of all questions are its own."""

    tenths: range
    hops: range = range(3, 7)
    parents: float = 1.5  # a node's mean number of parents
    depth: float = 2.0  # the power of a parent's weight 1 + 1.5 depth; 1 as printed
    fan: float = 0.0  # the higher, the rather nodes with children become parents


SETS = {
    "train": GraphSet(range(2, 10)),
    "validation": GraphSet(range(1)),
    "test": GraphSet(range(1, 2)),
    "hops7": GraphSet(range(10), range(7, 8), depth=4.0),
    "hops8": GraphSet(range(10), range(8, 9), depth=4.0),
    "dense": GraphSet(range(1, 2), parents=3.0),
    "fanout": GraphSet(range(1, 2), fan=2.0),
}
NODES = 27  # some stay without an edge, and so out of the prompt


def prosqa_rows(split: str, rows: int, seed: int) -> Iterator[Row]:
    """Yields questions of a set, where one candidate can be reached and both are leaves.

    A hash of a question decides which sets may hold it, whatever the seed and order of its edges.
    """
    graphs, seen = SETS[split], set[int]()
    rng = Random(f"prosqa {split} {seed}")
    while len(seen) < rows:
        parents, family, hops = _grow(rng, graphs)
        leaves = sorted(set(range(NODES)).difference(*parents))
        near = [v for v in leaves if family[v] == 1 and hops[v] in graphs.hops]
        others = [v for v in leaves if family[v] == 2 and parents[v]]
        if not near or not others:
            continue
        target, other = max(near, key=hops.__getitem__), rng.choice(others)
        path = [target]
        while path[-1] != 0:
            path.append(rng.choice([p for p in parents[path[-1]] if hops[p] == hops[path[-1]] - 1]))
        # Nodes were numbered as they were added; new names hide who came first.
        name = rng.sample(range(NODES), NODES)
        edges = [(name[parent], name[v]) for v in range(NODES) for parent in parents[v]]
        rng.shuffle(edges)
        one, two = rng.sample([name[target], name[other]], 2)
        question = crc32(f"{sorted(edges)} {sorted((one, two))} {name[0]}".encode())
        if question % 10 in graphs.tenths and question not in seen:
            listed = " | ".join(f"{parent} {child}" for parent, child in edges)
            prompt = f"{listed} [Q] {one} {two} [R] {name[0]}"
            steps = {f"H{i}": str(name[v]) for i, v in enumerate(path[-2::-1], 1)}
            yield task_row(f"prosqa-{split}-{seed}-{len(seen)}", prompt, steps, str(name[target]))
            seen.add(question)


def _grow(rng: Random, graphs: GraphSet) -> tuple[list[list[int]], list[int], list[float]]:
    """Each node's parents, family (1 below node 0, 2 below node 1, 3 both) and hops from node 0."""
    parents: list[list[int]] = [[], []]
    hops: list[float] = [0, inf]
    family, depth, children = [1, 2], [0, 0], [0] * NODES
    for _ in range(2, NODES):
        draw = rng.random()
        barred = 2 if draw <= 0.35 else 1 if draw <= 0.7 else 0
        count, time = 0, rng.expovariate(graphs.parents)
        while time < 1:  # arrivals in a unit of time are Poisson
            count, time = count + 1, time + rng.expovariate(graphs.parents)
        keys = {}  # the largest of random keys u^(1/w) are a draw by weight without replacement
        for v in range(len(parents)):
            if not family[v] & barred:
                w = (1 + 1.5 * depth[v]) ** graphs.depth * (1 + children[v]) ** graphs.fan
                keys[v] = rng.random() ** (1 / w)
        chosen = sorted(keys, key=keys.__getitem__, reverse=True)[:count]
        parents.append(chosen)
        hops.append(1 + min((hops[v] for v in chosen), default=inf))
        family.append(sum(side for side in (1, 2) if any(family[v] & side for v in chosen)))
        depth.append(1 + max((depth[v] for v in chosen), default=-1))
        children = [n + (v in chosen) for v, n in enumerate(children)]
    return parents, family, hops
