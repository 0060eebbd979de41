from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.tasks.parity import parity_rows


@given(st.integers(1, 256), st.integers(), st.data())
def test_steps_are_the_parities_of_the_listed_bits(
    bits: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, bits))
    (row,) = parity_rows("train", 1, seed, bits=bits, k=k)
    listed, counted = row["prompt"].split(" ? ")
    x = {int(i): int(bit) for i, bit in (pair.split(":") for pair in listed.split())}
    chosen = [int(i) for i in counted.split()]
    assert list(x) == list(range(1, bits + 1)) and sorted(set(chosen)) == chosen
    assert len(chosen) == k and set(chosen) <= x.keys()
    sums = [sum(x[i] for i in chosen[:n]) % 2 for n in range(1, k + 1)]
    steps = [{"name": f"X{n}", "text": str(parity)} for n, parity in enumerate(sums, 1)]
    assert row["blocks"] == steps and row["answer"] == str(sums[-1])


def test_all_questions_are_made_once() -> None:
    # 2^4 words and C(4, 2) = 6 pairs of positions: 96 questions, half of them even.
    rows = [
        row
        for split, count in {"train": 77, "validation": 9, "test": 10}.items()
        for row in parity_rows(split, count, 5, bits=4, k=2)
    ]
    assert len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 96
    assert Counter(row["answer"] for row in rows) == {"0": 48, "1": 48}
    counted = Counter(row["prompt"].split(" ? ")[1] for row in rows)
    assert counted == dict.fromkeys(("1 2", "1 3", "1 4", "2 3", "2 4", "3 4"), 16)


def test_a_split_of_64_bits_is_random() -> None:
    rows = list(parity_rows("train", 400, 0, bits=64, k=8))
    ones = sum(row["prompt"].count(":1") for row in rows)
    places = Counter(i for row in rows for i in row["prompt"].split(" ? ")[1].split())
    assert abs(ones / 400 - 32) < 1  # the mean's standard deviation is 4 / 20
    assert min(places.values()) > 20 and max(places.values()) < 90  # 50 expected, deviation 6.6
