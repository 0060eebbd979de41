from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.reasoning_tasks.questions import (
    SETS,
    Row,
    draw_questions,
    multiplication_rows,
    parity_rows,
    prosqa_rows,
    shuffled,
    spaced,
)


@given(st.integers(1, 120), st.text(max_size=5))
def test_a_shuffle_holds_every_number_once(size: int, key: str) -> None:
    assert sorted(shuffled(n, size, key) for n in range(size)) == list(range(size))


def test_a_shuffle_of_more_numbers_than_memory_holds() -> None:
    size = 3 * 2**300
    drawn = [shuffled(n, size, "key") for n in range(50)]
    assert len(set(drawn)) == 50 and all(0 <= n < size for n in drawn)
    assert max(drawn) > size // 2 > min(drawn)


@given(st.integers(10, 120), st.tuples(st.integers(), st.integers(), st.integers()))
def test_splits_share_nothing_whatever_their_seeds(size: int, seeds: tuple[int, int, int]) -> None:
    tenths = [size // 10, size * 2 // 10 - size // 10, size - size * 2 // 10]
    drawn = [
        list(draw_questions("task", size, split, rows, seed))
        for split, rows, seed in zip(("validation", "test", "train"), tenths, seeds, strict=True)
    ]
    assert sorted(n for split in drawn for n in split) == list(range(size))
    with pytest.raises(GplanError, match=f"task has {tenths[1]} test questions"):
        list(draw_questions("task", size, "test", tenths[1] + 1, 0))


def test_a_seed_orders_its_split() -> None:
    one, two = (list(draw_questions("task", 1000, "test", 100, seed)) for seed in (1, 2))
    assert one != two and sorted(one) == sorted(two)
    assert one[:10] == list(draw_questions("task", 1000, "test", 10, 1))


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


FORM = re.compile(r"\d+ \d+( \| \d+ \d+)* \[Q\] \d+ \d+ \[R\] \d+")


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Row]]:
    sizes = {split: 5 if split == "hops8" else 40 for split in SETS}
    return {split: list(prosqa_rows(split, rows, 0)) for split, rows in sizes.items()}


def graph(row: Row) -> tuple[list[tuple[int, int]], tuple[int, int], int]:
    assert FORM.fullmatch(row["prompt"])
    *ends, one, two, root = map(int, re.findall(r"\d+", row["prompt"]))
    return list(zip(ends[::2], ends[1::2], strict=True)), (one, two), root


def layers(row: Row) -> list[set[int]]:
    """The nodes by their distance from the root, breadth first."""
    edges, _, root = graph(row)
    found = [{root}]
    while front := {child for parent, child in edges if parent in found[-1]} - set.union(*found):
        found.append(front)
    return found


@pytest.mark.parametrize("split", SETS)
def test_the_steps_are_a_shortest_path_to_the_only_candidate_in_reach(
    sets: dict[str, list[Row]], split: str
) -> None:
    assert len({row["prompt"] for row in sets[split]}) == len(sets[split])
    for row in sets[split]:
        edges, candidates, root = graph(row)
        distance = {v: d for d, layer in enumerate(layers(row)) for v in layer}
        target = int(row["answer"])
        assert [v for v in candidates if v in distance] == [target]
        assert not {parent for parent, _ in edges} & set(candidates)
        assert [block["name"] for block in row["blocks"]] == [
            f"H{i}" for i in range(1, distance[target] + 1)
        ]
        path = [root, *(int(block["text"]) for block in row["blocks"])]
        assert path[-1] == target and set(pairwise(path)) <= set(edges)
        assert distance[target] in SETS[split].hops


def test_graphs_have_the_published_figures(sets: dict[str, list[Row]]) -> None:
    # Hao et al., table 2: 23.0 nodes, 36.0 edges, 3.8 hops.
    edges = [graph(row)[0] for row in sets["train"]]
    assert 22 < mean(len({v for edge in graph for v in edge}) for graph in edges) < 24.5
    assert 33.5 < mean(map(len, edges)) < 38.5
    assert 3.4 < mean(len(row["blocks"]) for row in sets["train"]) < 4.2


def test_sets_outside_the_distribution(sets: dict[str, list[Row]]) -> None:
    edges = {split: [graph(row)[0] for row in rows] for split, rows in sets.items()}
    count = {split: mean(map(len, graphs)) for split, graphs in edges.items()}
    children = {
        split: mean(len(graph) / len({parent for parent, _ in graph}) for graph in graphs)
        for split, graphs in edges.items()
    }
    assert count["dense"] > 1.6 * count["train"]
    assert children["fanout"] > 1.3 * children["train"]
    assert 0.8 < count["fanout"] / count["train"] < 1.2


def test_names_and_places_tell_nothing(sets: dict[str, list[Row]]) -> None:
    rows = sets["train"] + sets["test"] + sets["validation"] + sets["fanout"] + sets["dense"]
    first = mean(graph(row)[1][0] == int(row["answer"]) for row in rows)
    higher = mean(int(row["answer"]) == max(graph(row)[1]) for row in rows)
    roots = {graph(row)[2] for row in rows}
    assert 0.4 < first < 0.6 and 0.4 < higher < 0.6 and len(roots) > 20


def test_splits_follow_from_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same random graphs for both: without the rule, each would be in training and in the test.
    class Same(random.Random):
        def __init__(self, _: str) -> None:
            super().__init__(7)

    monkeypatch.setattr("gplan_jax.reasoning_tasks.questions.Random", Same)
    train, test = (
        {(frozenset(graph(row)[0]), graph(row)[2]) for row in prosqa_rows(split, rows, 0)}
        for split, rows in (("train", 200), ("test", 20))
    )
    assert len(train) == 200 and len(test) == 20 and not train & test


def test_a_seed_makes_the_same_rows() -> None:
    one, again, other = (list(prosqa_rows("train", 5, seed)) for seed in (1, 1, 2))
    assert one == again and not {r["prompt"] for r in one} & {r["prompt"] for r in other}
