"""The N best plans against every plan there is, and against greedy decoding."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan
from gplan_jax.inference.engine.best_plans import (
    Beginning,
    BestPlans,
    best_plans,
    search_all,
    search_shapes,
)
from gplan_jax.inference.engine.programs import Programs
from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar
from gplan_jax.models import Qwen3
from tests.inference import planners

FOUR = IntentLibrary.model_validate(
    {
        "name": "four",
        "tool_key": "工具名称",
        "parameters": {"tag": {"values": {"美食": "", "购物": ""}}},
        "tools": {"tool_3": {}, "tool_7": {"parameters": ["tag"]}, "tool_10": {}},
        "exclusive_groups": [["tool_3", "tool_10"]],
        "plan_length": {"minimum": 1, "maximum": 2},
    }
)
INTENTS = [
    {"工具名称": "tool_3"},
    {"工具名称": "tool_7", "tag": "美食"},
    {"工具名称": "tool_7", "tag": "购物"},
    {"工具名称": "tool_10"},
]


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(tiny_model_dir)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Qwen3:
    return planners.random_model(tiny_model_dir, 4)


@pytest.fixture(scope="module")
def grammar(encoder: ChatEncoder) -> PlanGrammar:
    return PlanGrammar.compile(FOUR, encoder, "plan")


def all_plans(grammar: PlanGrammar) -> list[tuple[int, ...]]:
    """The tokens of every plan there is, by the rule filter alone."""
    plans = [p for n in (1, 2) for p in itertools.product(INTENTS, repeat=n)]
    sound = [plan for plan in plans if not check_plan(canonical_plan(plan, FOUR), FOUR)]
    return [planners.tokens_of(grammar, plan) for plan in sound]


Logits = Callable[[Sequence[int], GrammarState], np.ndarray]


def score(grammar: PlanGrammar, tokens: Sequence[int], logits_of: Logits) -> float:
    """log p of a response, walked token by token."""
    total, state = 0.0, grammar.start
    for place, token in enumerate(tokens):
        edges = [edge.token for edge in grammar.edges(state)]
        logits = logits_of(tokens[:place], state).astype(np.float64)
        total += logits[edges.index(token)] - np.logaddexp.reduce(logits)
        state = grammar.advance(state, token)
    return float(total)


def search(grammar: PlanGrammar, logits_of: Logits, count: int, **options: int) -> BestPlans:
    coroutine = best_plans(grammar, count, **options)
    asked: list[Beginning] = next(coroutine)
    while True:
        try:
            asked = coroutine.send([logits_of(b.tokens, b.state) for b in asked])
        except StopIteration as end:
            found: BestPlans = end.value
            return found


@given(
    seed=st.integers(0, 2**32 - 1),
    sharpness=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
    count=st.integers(1, 20),
    at_once=st.integers(1, 5),
)
def test_any_model_s_best_plans_are_those_of_all_plans_sorted(
    grammar: PlanGrammar, seed: int, sharpness: float, count: int, at_once: int
) -> None:
    def logits_of(tokens: Sequence[int], state: GrammarState) -> np.ndarray:
        noise = np.random.default_rng((seed, *tokens)).normal(size=len(grammar.edges(state)))
        return (sharpness * noise).astype(np.float32)

    scores = {tokens: score(grammar, tokens, logits_of) for tokens in all_plans(grammar)}
    assert np.logaddexp.reduce(list(scores.values())) == pytest.approx(0, abs=1e-6)
    found = search(grammar, logits_of, count, at_once=at_once)
    assert found.exact and len(found.plans) == min(count, len(scores))
    assert len({plan.tokens for plan in found.plans}) == len(found.plans)
    best = sorted(scores.values(), reverse=True)
    for plan, expected in zip(found.plans, best, strict=False):
        assert plan.score == pytest.approx(expected, abs=1e-9)
        assert plan.score == pytest.approx(scores[plan.tokens], abs=1e-9)
    # Where the search ends early, its plans are plans all the same, and it says so.
    short = search(grammar, logits_of, count, at_once=at_once, most=1)
    assert short.exact or len(short.plans) == count
    assert all(plan.tokens in scores for plan in short.plans)


def test_a_model_s_best_plans_are_those_of_whole_forward_passes(
    model: Qwen3, encoder: ChatEncoder, grammar: PlanGrammar, world_rows: list[Sample]
) -> None:
    programs, prompts = searching(model, encoder, grammar, world_rows[:3])
    forward = planners.forward_of(model, 200)
    counted: list[None] = []
    found = search_all(programs, grammar, prompts, 3, on_row=lambda: counted.append(None))
    assert len(counted) == len(found) == 3
    whole = planners.prompts(encoder, world_rows[:3])

    def true_score(prompt: Sequence[int], tokens: Sequence[int]) -> float:
        logits_TxV = forward([*prompt, *tokens])[len(prompt) - 1 :]
        return score(
            grammar,
            tokens,
            lambda before, state: logits_TxV[len(before), [e.token for e in grammar.edges(state)]],
        )

    for prompt, (plans, exact) in zip(whole, found, strict=True):
        scores = {tokens: true_score(prompt.ids, tokens) for tokens in all_plans(grammar)}
        assert exact
        assert [plan.tokens for plan in plans] == sorted(scores, key=lambda t: -scores[t])[:3]
        for plan in plans:
            assert plan.score == pytest.approx(scores[plan.tokens], abs=1e-4)


def searching(
    model: Qwen3, encoder: ChatEncoder, grammar: PlanGrammar, rows: list[Sample]
) -> tuple[Programs, list[Sequence[int]]]:
    system = planners.prompter(encoder).system_ids(rows[0])
    programs = Programs(
        model,
        system,
        search_shapes(grammar, prompt=128, slots=2),
        vocabulary=encoder.vocabulary_size,
        grammar=grammar,
        pages=False,
        ahead=False,
    )
    return programs, [prompt.ids[len(system) :] for prompt in planners.prompts(encoder, rows)]


def test_logits_that_are_not_finite_are_no_plan(grammar: PlanGrammar) -> None:
    with pytest.raises(NotFinite, match="NaN or infinite"):
        search(grammar, lambda _, state: np.full(len(grammar.edges(state)), np.nan), 2)
