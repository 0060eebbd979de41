"""Draft trees: their shape at any state, their order against all plans of a small library."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data import ChatEncoder
from gplan_jax.gsisr import (
    Intent,
    IntentLibrary,
    Plan,
    Sample,
    canonical_plan,
    check_plan,
    parse_plan,
)
from gplan_jax.gsisr.intent_counts import END, ContextKey, IntentCounts, context_key, intent_texts
from gplan_jax.inference.grammar import drafts
from gplan_jax.inference.grammar.drafts import STALE_AFTER, DraftModel, DraftTree
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar, ResponseForm
from tests.inference.planners import tokens_of

FORMS: tuple[ResponseForm, ...] = ("plan", "latent")
KEY: ContextKey = tuple("abcdefghi")
SMALL = IntentLibrary.model_validate(
    {
        "name": "small",
        "tool_key": "tool",
        "parameters": {"from": {"values": {"here": "", "there": ""}}},
        "tools": {
            "tool_1": {"optional": ["from"], "yields_place": True},
            "tool_10": {"parameters": ["from"]},
            "tool_2": {},
            "tool_3": {},
        },
        "previous_place": "there",
        "exclusive_groups": [["tool_1", "tool_3"]],
        "plan_length": {"minimum": 2, "maximum": 3},
    }
)


def edge_probabilities(model: DraftModel, state: GrammarState, context: ContextKey) -> list[float]:
    """How probable each open edge is by the counts, in their order."""
    return model._shares(state, model._decision(state), model._found(state, context))


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(tiny_model_dir)


@pytest.fixture(scope="module", params=FORMS)
def amap(request: pytest.FixtureRequest, tiny: ChatEncoder) -> PlanGrammar:
    return PlanGrammar.compile(IntentLibrary.load(), tiny, request.param)


@pytest.fixture(scope="module", params=FORMS)
def small(request: pytest.FixtureRequest, tiny: ChatEncoder) -> PlanGrammar:
    return PlanGrammar.compile(SMALL, tiny, request.param)


@pytest.fixture(scope="module")
def taught(amap: PlanGrammar, world_rows: list[Sample]) -> DraftModel:
    rows = [(row, parse_plan(row.raw_labels, amap.library)) for row in world_rows]
    return DraftModel(amap, IntentCounts.fit(rows, amap.library))


def after(grammar: PlanGrammar, tokens: Sequence[int]) -> GrammarState:
    return functools.reduce(grammar.advance, tokens, grammar.start)


def random_tokens(grammar: PlanGrammar, rng: random.Random) -> list[int]:
    """A random response."""
    state, tokens = grammar.start, []
    while not grammar.finished(state):
        tokens.append(rng.choice(grammar.edges(state)).token)
        state = grammar.advance(state, tokens[-1])
    return tokens


def paths_of(tree: DraftTree) -> list[tuple[int, ...]]:
    """The tokens that lead to each node, its own included."""
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), data=st.data())
def test_a_tree_is_well_formed_at_any_state(
    taught: DraftModel, world_rows: list[Sample], seed: int, share: float, data: st.DataObject
) -> None:
    grammar = taught.grammar
    tokens = random_tokens(grammar, random.Random(seed))
    written = round(share * len(tokens))
    chain = tuple(tokens[written - data.draw(st.integers(0, min(written, 30))) : written])
    state = after(grammar, tokens[:written])
    key = data.draw(st.sampled_from([(), *map(context_key, world_rows[:5])]))
    budget = data.draw(st.integers(1, 90))
    tree = taught.tree(state, chain, key, budget)

    assert len(tree.tokens) == len(tree.parents) == len(tree.states) <= budget
    assert tree.chain == min(len(chain), budget)
    assert tree.tokens[: tree.chain] == chain[: tree.chain]
    assert tree.parents[: tree.chain] == tuple(range(-1, tree.chain - 1))
    assert len(set(zip(tree.parents, tree.tokens, strict=True))) == len(tree.tokens)
    children: dict[int, set[int]] = {}
    for node in range(tree.chain, len(tree.tokens)):
        parent = tree.parents[node]
        assert tree.chain - 1 <= parent < node
        before = state if parent == tree.chain - 1 else tree.states[parent]
        assert tree.states[node] == grammar.advance(before, tree.tokens[node])
        children.setdefault(parent, set()).add(tree.tokens[node])
    if len(chain) >= budget:
        assert len(tree.tokens) == tree.chain
    elif len(tree.tokens) < budget:  # Then there is nothing left to draft.
        for node in range(tree.chain - 1, len(tree.tokens)):
            here = state if node == tree.chain - 1 else tree.states[node]
            assert children.get(node, set()) == {edge.token for edge in grammar.edges(here)}


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_the_edges_of_a_state_are_probable_and_add_to_one(
    taught: DraftModel, world_rows: list[Sample], seed: int, share: float
) -> None:
    grammar = taught.grammar
    tokens = random_tokens(grammar, random.Random(seed))
    state = after(grammar, tokens[: round(share * len(tokens))])
    found = edge_probabilities(taught, state, context_key(world_rows[seed % 40]))
    assert len(found) == len(grammar.edges(state))
    if found:
        assert min(found) > 0 and sum(found) == pytest.approx(1)


def all_plans() -> list[Plan]:
    """Every plan of the small library that passes, by trying all."""
    tools: list[Intent] = [
        *({"tool": "tool_1"} | place for place in ({}, {"from": "here"}, {"from": "there"})),
        *({"tool": "tool_10", "from": place} for place in ("here", "there")),
        {"tool": "tool_2"},
        {"tool": "tool_3"},
    ]
    plans = (list(p) for n in (2, 3) for p in itertools.product(tools, repeat=n))
    return [plan for plan in plans if not check_plan(canonical_plan(plan, SMALL), SMALL)]


def plan_probability(
    plan: Sequence[str], known: set[tuple[str, ...]], counts: IntentCounts, length: int
) -> float:
    """What the counts say of a plan, of intents that may follow only. ``known`` are all plans."""
    near = counts.near(KEY, length=length)
    probability = 1.0
    for position in range(len(plan) + 1):
        before = tuple(plan[:position])
        found = counts.probabilities(near, [counts.number(intent) for intent in before])
        open_next = {p[position] for p in known if p[:position] == before and len(p) > position}
        mass = sum(found[counts.number(intent)] for intent in open_next)
        if before in known and open_next:
            share = found[END] / (found[END] + mass)
            probability *= share if position == len(plan) else 1 - share
        if position < len(plan):
            probability *= found[counts.number(plan[position])] / mass
    return float(probability)


@pytest.mark.parametrize("budget", [1, 5, 20, 47, 120])
def test_the_tree_holds_the_most_probable_nodes_of_all(small: PlanGrammar, budget: int) -> None:
    """Each node's probability is that of all plans that begin so; best first takes the largest."""
    plans = {tuple(intent_texts(plan, SMALL)): plan for plan in all_plans()}
    rng = random.Random(budget)
    counts = IntentCounts()
    for plan in rng.sample(sorted(plans), 12):
        counts.add(KEY, plan)
    length = 3 if small.form == "latent" else 0
    known = {plan for plan in plans if len(plan) == (length or len(plan))}
    likely = {plan: plan_probability(plan, known, counts, length) for plan in known}
    assert sum(likely.values()) == pytest.approx(1)

    whole = {plan: tokens_of(small, plans[plan]) for plan in known}
    start = len(functools.reduce(common_start, whole.values()))
    mass: dict[tuple[int, ...], float] = {}
    for plan, tokens in whole.items():
        for end in range(start + 1, len(tokens) + 1):
            mass[tokens[start:end]] = mass.get(tokens[start:end], 0) + likely[plan]
    state = after(small, next(iter(whole.values()))[:start])
    tree = DraftModel(small, counts).tree(state, (), KEY, budget)
    inside = paths_of(tree)
    assert len(set(inside)) == len(tree.tokens) == min(budget, len(mass))
    least = min(mass.pop(path) for path in inside)
    assert least >= max(mass.values(), default=0) - 1e-12


def common_start(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    pairs = zip(one, other, strict=False)
    return one[: sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))]


def test_a_plan_that_is_sure_is_drafted_as_a_whole(small: PlanGrammar) -> None:
    plan: Plan = [
        {"tool": "tool_2"},
        {"tool": "tool_1", "from": "here"},
        {"tool": "tool_10", "from": "there"},
    ]
    counts = IntentCounts()
    for _ in range(1000):
        counts.add(KEY, intent_texts(plan, SMALL))
    tokens = tokens_of(small, plan)
    known = len(small.prefix()[0])
    if small.form == "latent":  # The most steps there may be are those of this plan.
        assert small.rules.maximum == len(plan)
    state, chain, rest = after(small, tokens[:known]), tokens[:known], tokens[known:]
    tree = DraftModel(small, counts).tree(state, chain, KEY, len(tokens))
    assert paths_of(tree)[-1] == tokens
    assert tree.chain == known and tree.tokens[known:] == rest


def passes(model: DraftModel, tokens: Sequence[int], key: ContextKey, budget: int) -> int:
    """Passes after the prefill until ``tokens`` are all verified; the chain alone at budget 0."""
    grammar, held, count = model.grammar, 0, 0
    run, _ = grammar.forced_run(grammar.start)
    end = len(run)
    while True:
        state, chain = after(grammar, tokens[:end]), tuple(tokens[held:end])
        tree = model.tree(state, chain, key, max(budget, len(chain)))
        paths = set(paths_of(tree))
        count += 1
        at = end
        while at < len(tokens) and tuple(tokens[held : at + 1]) in paths:
            at += 1
        if at == len(tokens):
            return count
        run, _ = grammar.forced_run(after(grammar, tokens[: at + 1]))
        held, end = at, at + 1 + len(run)


def test_trees_save_passes_with_counts_and_without(
    taught: DraftModel, world_rows: list[Sample]
) -> None:
    grammar = taught.grammar
    empty = DraftModel(grammar, IntentCounts())
    totals = np.zeros(3)
    for row in world_rows[:12]:
        tokens = tokens_of(grammar, parse_plan(row.raw_labels, grammar.library))
        key = context_key(row)
        totals += [
            passes(taught, tokens, key, 64),
            passes(empty, tokens, key, 64),
            passes(empty, tokens, key, 0),
        ]
    with_counts, without_counts, chains = totals / 12
    assert with_counts < 0.5 * without_counts and without_counts < 0.9 * chains


def test_what_is_remembered_is_bounded_and_changes_nothing(
    taught: DraftModel, world_rows: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("CONTEXTS_KEPT", "HISTORIES_KEPT", "DECISIONS_KEPT"):
        monkeypatch.setattr(drafts, bound, 3)
    forgetful = DraftModel(taught.grammar, taught.counts)
    tokens, state = taught.grammar.forced_run(taught.grammar.start)
    for row in [*world_rows[:6], *world_rows[:6]]:
        arguments = (state, tokens[-1:], context_key(row), 48)
        assert forgetful.tree(*arguments) == taught.tree(*arguments)
    assert len(forgetful._contexts) == 3 and len(forgetful._decisions) <= 3


def test_plans_that_are_added_are_drafted_soon(small: PlanGrammar) -> None:
    plans = [plan for plan in all_plans() if len(plan) == 3]
    start = functools.reduce(common_start, [tokens_of(small, plan) for plan in plans])
    state, counts = after(small, start), IntentCounts()
    model = DraftModel(small, counts)
    before = edge_probabilities(model, state, KEY)
    for plan in itertools.islice(itertools.cycle(plans), STALE_AFTER - 1):
        model.learn(KEY, after(small, tokens_of(small, plan)).taken)
        assert edge_probabilities(model, state, KEY) == before
    counts.add(KEY, intent_texts(plans[0], SMALL))
    assert len(counts) == STALE_AFTER
    again = IntentCounts()
    for plan in itertools.islice(itertools.cycle(plans), STALE_AFTER - 1):
        again.add(KEY, intent_texts(plan, SMALL))
    again.add(KEY, intent_texts(plans[0], SMALL))
    fresh = edge_probabilities(DraftModel(small, again), state, KEY)
    assert edge_probabilities(model, state, KEY) == fresh != before
