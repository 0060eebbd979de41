"""k-parity with the positions in the prompt: ``1:0 2:1 3:1 4:0 ? 2 3``, steps 1 and 0, answer 0.

The source is Kim and Suzuki, "Transformers Provably Solve Parity Efficiently with Chain of Thought"
(2024): 100,000 samples of 64 bits, k = 8, 16, 32. As there, a bit stands with its position. There,
the k positions are unknown and the same for all questions; here each prompt lists its own. There,
steps combine values in a binary tree; here step i is the parity of the first i bits that count.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

from gplan_jax.tasks.rows import Row, draw_questions, task_row


def parity_rows(split: str, rows: int, seed: int, *, bits: int, k: int) -> Iterator[Row]:
    """Yields questions about ``k`` of ``bits`` bits; there are 2^bits * C(bits, k) of them."""
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
