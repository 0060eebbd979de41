from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.tasks.multiplication import multiplication_rows, spaced


def read(text: str) -> int:
    return int("".join(text.split())[::-1])


@given(st.sampled_from(["train", "validation", "test"]), st.integers(2, 12), st.integers())
def test_products_and_running_sums(split: str, digits: int, seed: int) -> None:
    for row in multiplication_rows(split, 3, seed, digits=digits):
        a, b = map(read, row["prompt"].split(" * "))
        assert 10 ** (digits - 1) <= min(a, b) and max(a, b) < 10**digits
        assert len(row["prompt"]) == 4 * digits + 1
        assert read(row["answer"]) == a * b and len(row["answer"].split()) == 2 * digits
        total = 0
        for i, block in enumerate(row["blocks"]):
            words = block["text"].removeprefix("+ ").split()
            partial, running = words[: digits + 1 + i], words[digits + 1 + i :]
            total += read(" ".join(partial))
            assert block["text"].startswith("+ ") == (i > 0)
            if 0 < i < digits - 1:
                assert block["name"] == f"S{i + 1}" and running[0] + running[-1] == "()"
                assert read(" ".join(running[1:-1])) == total and len(running[1:-1]) == len(partial)
            else:
                assert block["name"] == f"P{i + 1}" and not running
            assert read(" ".join(partial)) == a * int(str(b)[-1 - i]) * 10**i
        assert total == a * b


def test_pairs_occur_once_in_one_split_and_order() -> None:
    # 90 * 91 / 2 = 4,095 pairs of two-digit numbers.
    counts = {"train": 3276, "validation": 409, "test": 410}
    pairs = [
        tuple(map(read, row["prompt"].split(" * ")))
        for seed, (split, count) in enumerate(counts.items())
        for row in multiplication_rows(split, count, seed, digits=2)
    ]
    assert len({tuple(sorted(pair)) for pair in pairs}) == len(pairs) == 4095
    assert 0.45 < sum(a < b for a, b in pairs) / 4095 < 0.55


@pytest.mark.parametrize(
    ("number", "width", "text"), [(48, 3, "8 4 0"), (0, 2, "0 0"), (7, 1, "7")]
)
def test_digits_stand_apart_lowest_first(number: int, width: int, text: str) -> None:
    assert spaced(number, width) == text
