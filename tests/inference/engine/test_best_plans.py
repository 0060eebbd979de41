"""The N best plans against every plan there is, and against greedy decoding."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.best_plans import Beginning, BestPlans, SearchRow, best_plans
from gplan_jax.inference.engine.continuous import ContinuousDecoder
from gplan_jax.inference.engine.programs import Programs
from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar
from gplan_jax.models import Qwen3
from gplan_jax.synthesis.world.simulation import simulate_rows
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


@dataclasses.dataclass
class Case:
    """A model under the small library, and everything that it can answer."""

    model: Qwen3
    encoder: ChatEncoder
    grammar: PlanGrammar
    programs: Programs
    forward: planners.Forward
    plans: list[tuple[int, ...]]

    def decoder(self, drafter: DraftModel | None = None) -> ContinuousDecoder:
        return planners.decoder(
            None,  # type: ignore[arg-type]
            self.encoder,
            ROW,
            self.grammar,
            drafter,
            programs=self.programs,
        )

    def scores(self, prompt: Sequence[int]) -> dict[tuple[int, ...], float]:
        """log p of every plan there is, each by a whole forward pass."""

        def of(tokens: tuple[int, ...]) -> float:
            logits_TxV = self.forward([*prompt, *tokens])[len(prompt) - 1 :]
            return score(
                self.grammar,
                tokens,
                lambda before, state: logits_TxV[
                    len(before), [edge.token for edge in self.grammar.edges(state)]
                ],
            )

        return {tokens: of(tokens) for tokens in self.plans}


ROW = next(iter(simulate_rows(1, seed=1)))


@pytest.fixture(scope="module", params=["plan", "latent"])
def case(request: pytest.FixtureRequest, tiny_model_dir: Path, encoder: ChatEncoder) -> Case:
    model = planners.random_model(tiny_model_dir, 4)
    grammar = PlanGrammar.compile(FOUR, encoder, request.param)
    programs = planners.decoder(model, encoder, ROW, grammar).programs
    forward = planners.forward_of(model, 200)
    return Case(model, encoder, grammar, programs, forward, all_plans(grammar))


@pytest.mark.parametrize("contexts", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_a_model_s_best_plans_are_those_of_whole_forward_passes(case: Case, contexts: int) -> None:
    rows = list(simulate_rows(contexts, seed=11))
    prompts = [
        dataclasses.replace(prompt, best=1 + number % 6, least_first=1e-9)
        for number, prompt in enumerate(planners.prompts(case.encoder, rows))
    ]
    decoder = case.decoder()
    found = planners.decode(decoder, prompts)
    assert sum(row.passes for row in found) > decoder.counts.passes > contexts
    for prompt, row in zip(prompts, found, strict=True):
        assert isinstance(row, SearchRow) and row.found is not None and row.found.exact
        scores = case.scores(prompt.ids)
        assert np.logaddexp.reduce(list(scores.values())) == pytest.approx(0, abs=1e-5)
        best = sorted(scores.values(), reverse=True)[: prompt.best]
        assert [plan.score for plan in row.found.plans] == pytest.approx(best, abs=3e-4)
        for plan in row.found.plans:
            assert plan.score == pytest.approx(scores[plan.tokens], abs=3e-4)
        assert (row.response, row.passes > 1) == ([*row.found.plans[0].tokens], True)
        first = dict.fromkeys(range(len(INTENTS)), 0.0)
        for tokens, log in scores.items():
            taken = functools.reduce(case.grammar.advance, tokens, case.grammar.start).taken
            first[taken[0]] += float(np.exp(log))
        assert row.found.first == pytest.approx(first, abs=1e-4)


def test_a_search_and_the_plans_beside_it_do_not_see_one_another(
    case: Case, world_rows: list[Sample]
) -> None:
    prompts = planners.prompts(case.encoder, world_rows[:6])
    wanted = [dataclasses.replace(prompt, best=3) for prompt in prompts]
    decoder = case.decoder(DraftModel(case.grammar, IntentCounts()))
    alone = [planners.decode(decoder, [prompt])[0] for prompt in [*prompts, *wanted]]
    mixed = [one for pair in zip(prompts, wanted, strict=True) for one in pair]
    beside = planners.decode(case.decoder(), mixed)
    for number, (plain, searched) in enumerate(zip(beside[::2], beside[1::2], strict=True)):
        assert plain.response == alone[number].response
        theirs = alone[number + len(prompts)]
        assert isinstance(searched, SearchRow) and isinstance(theirs, SearchRow)
        assert tokens_of(searched) == tokens_of(theirs) and searched.passes == theirs.passes


def test_a_tree_of_one_token_takes_more_passes_to_the_same_plans(
    case: Case, world_rows: list[Sample]
) -> None:
    [prompt] = planners.prompts(case.encoder, world_rows[:1])
    wanted = [dataclasses.replace(prompt, best=3)]
    [wide] = planners.decode(case.decoder(), wanted)
    narrow = Programs(
        case.model,
        planners.prompter(case.encoder).system_ids(world_rows[0]),
        dataclasses.replace(planners.SHAPES, nodes={1: 1}, queries=1, tail=0),
        vocabulary=case.encoder.vocabulary_size,
        grammar=case.grammar,
        pages=False,
        ahead=False,
    )
    [single] = planners.decode(dataclasses.replace(case, programs=narrow).decoder(), wanted)
    assert isinstance(wide, SearchRow) and isinstance(single, SearchRow)
    assert tokens_of(single) == tokens_of(wide) and single.passes > wide.passes


def tokens_of(row: SearchRow) -> list[tuple[int, ...]]:
    assert row.found is not None
    return [plan.tokens for plan in row.found.plans]


def test_logits_that_are_not_finite_are_no_plan(grammar: PlanGrammar) -> None:
    with pytest.raises(NotFinite, match="NaN or infinite"):
        search(grammar, lambda _, state: np.full(len(grammar.edges(state)), np.nan), 2)
