"""Multiplication in the format of implicit chain of thought: the lowest digit first, in full width.

The source is Deng et al., "Implicit Chain of Thought Reasoning via Knowledge Distillation" (2023)
and "From Explicit CoT to Implicit CoT" (2024). Their line for 123 * 456 would be

    3 2 1 * 6 5 4||8 3 7 0 + 0 5 1 6 0 ( 8 8 8 6 0 ) + 0 0 2 9 4 0 #### 8 8 0 6 5 0

Each partial product is a block here: P1, then S2 .. with the running sum in parentheses, then the
last, Pn, whose running sum is the answer. The texts joined by spaces are the published reasoning.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from zlib import crc32

from gplan_jax.tasks.rows import Row, draw_questions, task_row


def multiplication_rows(split: str, rows: int, seed: int, *, digits: int) -> Iterator[Row]:
    """Yields products of two numbers of ``digits`` digits; a pair has one split and one order."""
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
