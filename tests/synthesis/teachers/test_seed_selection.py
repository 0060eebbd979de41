from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import IntentLibrary, Plan, RowPlace, Sample, canonical_plan
from gplan_jax.synthesis.teachers.seed_selection import Seed, SeedPool, read_seed, spread
from gplan_jax.synthesis.world.simulation import simulate_rows

TOOLS = ("tool_3", "tool_6", "tool_8", "tool_9", "tool_10")


@pytest.fixture(scope="module")
def seeds(library: IntentLibrary) -> list[Seed]:
    rows = simulate_rows(300, seed=5)
    return [read_seed(row, library, RowPlace("rows", n)) for n, row in enumerate(rows, start=1)]


def keys(seeds: Sequence[Seed]) -> list[str]:
    return [f"{seed.sample.id} {seed.sample.currenttime}" for seed in seeds]


def plan_of(tools: Sequence[str]) -> Plan:
    return [{"工具名称": tool} for tool in tools]


def test_examples_are_of_the_stratum_where_it_has_enough(seeds: list[Seed]) -> None:
    pool = SeedPool(seeds)
    strata = [seed.stratum for seed in seeds]
    for seed, stratum in zip(seeds[:50], strata, strict=False):
        numbered = zip(seeds, strata, strict=True)
        others = [s for s, its in numbered if its == stratum and s.sample.id != seed.sample.id]
        chosen = pool.examples(seed.sample, 4)
        assert len(chosen) == 4
        of_stratum = [s for s in chosen if s.stratum == stratum]
        assert len(of_stratum) == min(4, len(others))
        assert chosen[: len(of_stratum)] == tuple(of_stratum)


def test_all_samples_of_a_stratum_get_the_same_examples(seeds: list[Seed]) -> None:
    pool = SeedPool(seeds)
    by_stratum: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for row in simulate_rows(200, seed=77, first_id=9_000_001):
        chosen = pool.examples(row, 5)
        by_stratum.setdefault(Seed(row, [], seeds[0].trace).stratum, set()).add(tuple(keys(chosen)))
    assert len(by_stratum) > 5
    assert all(len(choices) == 1 for choices in by_stratum.values())


def test_a_sample_never_sees_a_seed_of_its_own_id(seeds: list[Seed]) -> None:
    pool = SeedPool(seeds)
    for seed in seeds[:80]:
        stranger = dataclasses.replace(seed.sample, id="nobody")
        theirs = [s for s in pool.examples(stranger, 300) if s.sample.id != seed.sample.id]
        assert pool.examples(seed.sample, 5) == tuple(theirs[:5])


def test_the_order_of_the_seed_file_does_not_matter(seeds: list[Seed]) -> None:
    shuffled = list(seeds)
    random.Random(1).shuffle(shuffled)
    row = seeds[0].sample
    first, second = (SeedPool(s).examples(row, 40) for s in (seeds, shuffled))
    assert keys(first) == keys(second)


def test_fewer_examples_are_the_first_of_more(seeds: list[Seed]) -> None:
    pool, row = SeedPool(seeds), seeds[0].sample
    everything = pool.examples(row, 1000)
    assert (
        len(everything)
        == len([s for s in seeds if s.sample.id != row.id])
        == len(set(keys(everything)))
    )
    assert all(pool.examples(row, n) == everything[:n] for n in (0, 1, 7, 30))


def test_a_stratum_without_seeds_falls_back_to_its_trigger_and_then_to_all(
    seeds: list[Seed],
) -> None:
    trigger, place = seeds[0].stratum
    like = [s for s in seeds if s.stratum[0] == trigger and s.stratum[1] != place][:3]
    others = [s for s in seeds if s.stratum[0] != trigger][:20]
    row = dataclasses.replace(seeds[0].sample, id="nobody")
    chosen = SeedPool([*others, *like]).examples(row, 5)
    assert sorted(keys(chosen[:3])) == sorted(keys(like))
    assert all(seed.stratum[0] != trigger for seed in chosen[3:]) and len(chosen) == 5
    assert SeedPool([]).examples(row, 5) == ()


def test_examples_have_different_plans_while_the_stratum_has_any(seeds: list[Seed]) -> None:
    pool = SeedPool(seeds)
    strata = [seed.stratum for seed in seeds]
    for seed, stratum in zip(seeds[:40], strata, strict=False):
        plans = {
            canonical_plan(s.plan)
            for s, its in zip(seeds, strata, strict=True)
            if its == stratum and s.sample.id != seed.sample.id
        }
        chosen = pool.examples(dataclasses.replace(seed.sample, id="nobody"), min(5, len(plans)))
        assert len({canonical_plan(s.plan) for s in chosen}) == len(chosen)


def test_the_first_of_a_spread_stands_for_most_of_the_plans() -> None:
    plans = [plan_of(t) for t in (("tool_3",), ("tool_8", "tool_9"), ("tool_8", "tool_9"))]
    assert spread(plans) == [1, 0, 2]


plans_of_tools = st.lists(st.sampled_from(TOOLS), min_size=1, max_size=4, unique=True).map(plan_of)


@given(st.lists(plans_of_tools, max_size=9))
def test_a_spread_is_greedy_facility_location(plans: list[Plan]) -> None:
    """Against the plain definition, on sets, with each plan counted as often as it occurs."""

    def features(plan: Plan) -> set[str]:
        tools = [intent["工具名称"] for intent in plan]
        return {*tools, *map("-".join, zip(["", *tools], tools, strict=False))}

    def alike(a: int, b: int) -> float:
        first, second = features(plans[a]), features(plans[b])
        return len(first & second) / len(first | second)

    def covered(chosen: list[int]) -> float:
        return sum(max((alike(i, j) for j in chosen), default=0) for i in range(len(plans)))

    order = spread(plans)
    assert sorted(order) == list(range(len(plans)))
    for position, choice in enumerate(order):
        before = order[:position]
        best = max(covered([*before, j]) for j in range(len(plans)) if j not in before)
        assert covered([*before, choice]) == pytest.approx(best)


def test_unreadable_times_are_named(seeds: list[Seed]) -> None:
    row: Sample = dataclasses.replace(seeds[0].sample, currenttime="noon")
    with pytest.raises(Exception, match="currenttime"):
        SeedPool(seeds).examples(row, 1)
