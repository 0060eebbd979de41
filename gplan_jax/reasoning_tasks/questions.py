"""Questions of public reasoning tasks with steps and answers; no two splits share one.

Rows are proved right by other means than those that made them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from hashlib import blake2b
from itertools import pairwise
from math import comb, inf, isqrt
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from zlib import crc32

from gplan_jax.foundation.errors import GplanError, RowError

Row = dict[str, Any]  # texts id, prompt and answer, and blocks: a list of {"name", "text"}
Solution = tuple[str, dict[str, str], str]  # the prompt written anew, the steps and the answer


def task_row(id: str, prompt: str, steps: dict[str, str], answer: str) -> Row:
    """A row whose blocks are the names and texts of ``steps``."""
    blocks = [{"name": name, "text": text} for name, text in steps.items()]
    return {"id": id, "prompt": prompt, "blocks": blocks, "answer": answer}


def draw_questions(task: str, size: int, split: str, rows: int, seed: int) -> Iterator[int]:
    """Draws ``rows`` different questions of a split; GplanError where it has fewer.

    ``size`` questions, numbered from 0, stand in one order that no seed changes: its first tenth
    is for validation, the second for tests, the rest for training. The seed orders each split.
    """
    start, end = {"validation": (0, 1), "test": (1, 2), "train": (2, 10)}[split]
    first, count = size * start // 10, size * end // 10 - size * start // 10
    if rows > count:
        raise GplanError(f"{task} has {count:,} {split} questions, fewer than --rows {rows:,}.")
    for row in range(rows):
        yield shuffled(first + shuffled(row, count, f"{task} {split} {seed}"), size, task)


def shuffled(number: int, size: int, key: str) -> int:
    """Where ``number`` stands in a random order of ``range(size)``, which ``key`` fixes."""
    # A Feistel network over 2b bits, a bijection, is applied until it ends within the range.
    b = max((size - 1).bit_length() + 1, 2) // 2
    while True:
        left, right = number >> b, number & ((1 << b) - 1)
        for turn in range(4):
            digest = blake2b(f"{key} {turn} {right}".encode()).digest()  # 512 bits
            left, right = right, left ^ (int.from_bytes(digest) & ((1 << b) - 1))
        number = left << b | right
        if number < size:
            return number


def parity_rows(split: str, rows: int, seed: int, *, bits: int, k: int) -> Iterator[Row]:
    """k-parity, positions in the prompt: ``1:0 2:1 3:1 4:0 ? 2 3``, steps 1 and 0, answer 0.

    There are 2^bits * C(bits, k) questions. The source is Kim and Suzuki, "Transformers Provably
    Solve Parity Efficiently with Chain of Thought" (2024): 100,000 samples of 64 bits, k = 8, 16,
    32. As there, a bit stands with its position. There, the k positions are unknown and the same
    for all questions, and steps combine values in a binary tree; here each prompt lists its own,
    and step i is the parity of the first i bits that count.
    """
    task = f"parity-{bits}-{k}"
    for row, number in enumerate(draw_questions(task, comb(bits, k) << bits, split, rows, seed)):
        rank, word = divmod(number, 1 << bits)
        listed, chosen, steps, parity = [], list[str](), dict[str, str](), 0
        for i in range(1, bits + 1):
            bit = word >> i - 1 & 1
            listed.append(f"{i}:{bit}")
            # Subsets are ranked: of those that agree so far, the ones without i come first.
            without = comb(bits - i, k - len(chosen))
            if rank >= without:
                rank, parity = rank - without, parity ^ bit
                chosen.append(str(i))
                steps[f"X{len(chosen)}"] = str(parity)
        prompt = f"{' '.join(listed)} ? {' '.join(chosen)}"
        yield task_row(f"{task}-{split}-{seed}-{row}", prompt, steps, str(parity))


def multiplication_rows(split: str, rows: int, seed: int, *, digits: int) -> Iterator[Row]:
    """Multiplication in the format of implicit chain of thought: lowest digit first, full width.

    A pair of numbers has one split and one order. The source is Deng et al., "Implicit Chain of
    Thought Reasoning via Knowledge Distillation" (2023) and "From Explicit CoT to Implicit CoT"
    (2024). Their line for 123 * 456 would be

        3 2 1 * 6 5 4||8 3 7 0 + 0 5 1 6 0 ( 8 8 8 6 0 ) + 0 0 2 9 4 0 #### 8 8 0 6 5 0

    Each partial product is a block here: P1, then S2 .. with the running sum in parentheses, then
    the last, Pn, whose running sum is the answer. The texts joined by spaces are the published
    reasoning.
    """
    task = f"multiplication-{digits}"
    least = 10 ** (digits - 1)
    size = 9 * least * (9 * least + 1) // 2
    for row, number in enumerate(draw_questions(task, size, split, rows, seed)):
        # Pairs (low, high), low <= high, are numbered along the rows of a triangle.
        high = (isqrt(8 * number + 1) - 1) // 2
        a, b = least + number - high * (high + 1) // 2, least + high
        if crc32(f"{a} {b}".encode()) & 1:
            a, b = b, a
        total, steps = 0, {}
        for i, digit in enumerate(reversed(str(b)), 1):
            partial = a * int(digit) * 10 ** (i - 1)
            total += partial
            text = ("+ " if i > 1 else "") + spaced(partial, digits + i)
            running = f" ( {spaced(total, digits + i)} )" if 1 < i < digits else ""
            steps[f"S{i}" if running else f"P{i}"] = text + running
        prompt = f"{spaced(a, digits)} * {spaced(b, digits)}"
        yield task_row(f"{task}-{split}-{seed}-{row}", prompt, steps, spaced(total, 2 * digits))


def spaced(number: int, width: int) -> str:
    """``width`` digits, the lowest first: 48 in three digits is ``8 4 0``."""
    return " ".join(f"{number:0{width}}"[::-1])


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
    """ProsQA as a symbolic graph: which of two nodes, both leaves, can be reached from the root?

        4 7 | 0 4 | 7 2 | 5 1 | 0 3 [Q] 1 2 [R] 0        steps 4, 7, 2        answer 2

    Graphs grow as in Hao et al., "Training Large Language Models to Reason in a Continuous Latent
    Space" (2024), appendix A.2; the symbols (edges, candidates, root, a node a step) are those of
    Zhu et al., "Reasoning by Superposition" (2025). docs/tasks.md compares with the published
    figures. A hash of a question, whatever the order of its edges, says which sets may hold it.
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


def check_rows(path: str | Path, rows: Iterable[Any], seen: set[str]) -> Iterator[Row]:
    """Yields the rows of the file ``path``; adds their ids and prompts to ``seen``.

    Raises RowError where a row is of no task, is wrong, or has an id or prompt of ``seen``.
    """
    for number, row in enumerate(rows, start=1):
        try:
            id, prompt = row["id"], row["prompt"]
            solve = {"parity": _parity, "multiplication": _product, "prosqa": _prosqa}
            right = task_row(id, *solve[id.split("-")[0]](row))
            wrong = [
                f"{key} is {row[key]}, not {it}" for key, it in right.items() if row[key] != it
            ]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            wrong = [f"this can't be read or is no question of a task ({error!r})"]
        else:
            wrong += [f"{text} occurs a second time" for text in seen & {id, prompt}]
        if wrong:
            raise RowError(path, number, None, wrong[0], "Write the file with gplan tasks.")
        seen |= {id, prompt}
        yield row


def _parity(row: Row) -> Solution:
    """By population counts of the whole word under ever longer masks."""
    bits, chosen = (part.split() for part in row["prompt"].split(" ? "))
    word = sum(int(bit[-1]) << i for i, bit in enumerate(bits, 1))
    mask, steps = 0, {}
    for step, i in enumerate(chosen, 1):
        mask |= 1 << int(i)
        steps[f"X{step}"] = str((word & mask).bit_count() % 2)
    places = range(1, len(bits) + 1)
    prompt = " ".join(f"{i}:{word >> i & 1}" for i in places) + " ? "
    prompt += " ".join(str(i) for i in places if mask >> i & 1)
    return prompt, steps, str((word & mask).bit_count() % 2)


def _product(row: Row) -> Solution:
    """By products with the lowest digits of b, whose differences are the partial products."""
    a, b = (int(text[::-2]) for text in row["prompt"].split(" * "))
    n = len(str(a))
    sums = [a * (b % 10**i) for i in range(n + 1)]
    steps = {"P1": spaced(sums[1], n + 1)}
    for i in range(2, n):
        partial, total = spaced(sums[i] - sums[i - 1], n + i), spaced(sums[i], n + i)
        steps[f"S{i}"] = f"+ {partial} ( {total} )"
    steps[f"P{n}"] = f"+ {spaced(sums[n] - sums[n - 1], 2 * n)}"
    return f"{spaced(a, n)} * {spaced(b, n)}", steps, spaced(a * b, 2 * n)


def _prosqa(row: Row) -> Solution:
    """By distances along a topological order; of several shortest paths, any is right."""
    *ends, one, two, root = map(int, re.findall(r"\d+", row["prompt"]))
    edges = list(zip(ends[::2], ends[1::2], strict=True))
    parents = {v: [parent for parent, child in edges if child == v] for v in ends}
    distance: dict[int, float] = {}
    for v in TopologicalSorter(parents).static_order():  # a CycleError is a ValueError
        distance[v] = 0 if v == root else 1 + min((distance[p] for p in parents[v]), default=inf)
    reached = [v for v in (one, two) if distance[v] < inf]
    if len(reached) != 1 or len(set(edges)) < len(edges) or {one, two} & set(ends[::2]):
        raise ValueError("not one candidate is reached, one isn't a leaf, or an edge occurs twice")
    path = [root, *(int(block["text"]) for block in row["blocks"])]
    hops, target = len(path) - 1, reached[0]
    if path[-1] != target or hops != distance[target] or not set(edges).issuperset(pairwise(path)):
        raise ValueError(f"{path} is no path of {distance[target]} hops to {target}")
    if hops not in SETS[row["id"].split("-")[1]].hops:
        raise ValueError(f"the set of {row['id']} has no questions of {hops} hops")
    listed = " | ".join(f"{parent} {child}" for parent, child in edges)
    steps = {f"H{i}": str(v) for i, v in enumerate(path) if i}
    return f"{listed} [Q] {one} {two} [R] {root}", steps, str(target)
