"""A task's row, and splits that share no question whatever the seeds."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from gplan_jax.foundation.errors import GplanError

Row = dict[str, Any]  # texts id, prompt and answer, and blocks: a list of {"name", "text"}


def task_row(id: str, prompt: str, steps: dict[str, str], answer: str) -> Row:
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
