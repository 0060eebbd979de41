"""Proves rows right by other means than those that made them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import RowError
from gplan_jax.reasoning_tasks.questions import SETS, Row, spaced, task_row

Solution = tuple[str, dict[str, str], str]  # the prompt written anew, the steps and the answer


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
