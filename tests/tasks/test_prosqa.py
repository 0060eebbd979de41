from __future__ import annotations

import random
import re
from itertools import pairwise
from statistics import mean

import pytest

from gplan_jax.tasks.prosqa import SETS, prosqa_rows
from gplan_jax.tasks.rows import Row

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

    monkeypatch.setattr("gplan_jax.tasks.prosqa.Random", Same)
    train, test = (
        {(frozenset(graph(row)[0]), graph(row)[2]) for row in prosqa_rows(split, rows, 0)}
        for split, rows in (("train", 200), ("test", 20))
    )
    assert len(train) == 200 and len(test) == 20 and not train & test


def test_a_seed_makes_the_same_rows() -> None:
    one, again, other = (list(prosqa_rows("train", 5, seed)) for seed in (1, 1, 2))
    assert one == again and not {r["prompt"] for r in one} & {r["prompt"] for r in other}
