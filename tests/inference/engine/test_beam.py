"""Beam search against greedy decoding and against every plan there is."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, check_plan
from gplan_jax.inference.engine.beam import beam_search
from gplan_jax.inference.engine.programs import Programs, Shapes
from gplan_jax.inference.engine.requests import NotFinite
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.models import Qwen3
from tests.inference import planners

SHAPES = Shapes(buckets=(128,), nodes={1: 64}, queries=1, places=1700)
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


def programs_of(
    model: Qwen3, encoder: ChatEncoder, grammar: PlanGrammar, row: Sample
) -> tuple[Programs, int]:
    system = planners.prompter(encoder).system_ids(row)
    size = encoder.vocabulary_size
    programs = Programs(
        model, system, SHAPES, vocabulary=size, grammar=grammar, pages=False, ahead=False
    )
    return programs, len(system)


def test_one_beam_is_greedy_and_more_are_no_less_probable(
    model: Qwen3, encoder: ChatEncoder, world_rows: list[Sample]
) -> None:
    grammar = PlanGrammar.compile(planners.LIBRARY, encoder, "latent")
    programs, system = programs_of(model, encoder, grammar, world_rows[0])
    greedy = planners.decoder(model, encoder, world_rows[0], grammar)
    prompts = planners.prompts(encoder, world_rows[:3])
    for prompt, row in zip(prompts, planners.decode(greedy, prompts), strict=True):
        scores = []
        for beams in (1, 4):
            best = beam_search(programs, grammar, prompt.ids[system:], beams=beams)
            assert check_plan(encoder.decode(best.tokens), planners.LIBRARY) == []
            assert beams > 1 or list(best.tokens) == row.response
            scores.append(best.score)
        assert scores[0] <= scores[1] + 1e-4


def test_a_beam_of_all_plans_finds_the_most_probable_one(
    model: Qwen3, encoder: ChatEncoder, world_rows: list[Sample]
) -> None:
    grammar = PlanGrammar.compile(FOUR, encoder, "plan")
    programs, system = programs_of(model, encoder, grammar, world_rows[0])
    forward = planners.forward_of(model, 200)
    plans = [p for n in (1, 2) for p in itertools.product(INTENTS, repeat=n)]
    plans = [plan for plan in plans if not check_plan(canonical_plan(plan, FOUR), FOUR)]
    for prompt in planners.prompts(encoder, world_rows[:3]):
        scores = {}
        for plan in plans:
            tokens = planners.tokens_of(grammar, plan)
            logits = forward([*prompt.ids, *tokens]).astype(np.float64)
            score, state = 0.0, grammar.start
            for index, token in enumerate(tokens, start=len(prompt.ids) - 1):
                allowed = [edge.token for edge in grammar.edges(state)]
                score += logits[index, token] - np.logaddexp.reduce(logits[index, allowed])
                state = grammar.advance(state, token)
            scores[tokens] = score
        assert np.logaddexp.reduce(list(scores.values())) == pytest.approx(0, abs=1e-9)
        best = beam_search(programs, grammar, prompt.ids[system:], beams=len(plans))
        assert best.tokens == max(scores, key=scores.__getitem__)
        assert best.score == pytest.approx(scores[best.tokens], abs=1e-4)


def test_refusals(model: Qwen3, encoder: ChatEncoder, world_rows: list[Sample]) -> None:
    grammar = PlanGrammar.compile(FOUR, encoder, "plan")
    programs, system = programs_of(model, encoder, grammar, world_rows[0])
    [prompt] = planners.prompts(encoder, world_rows[:1])
    with pytest.raises(GplanError, match="beams is 0"):
        beam_search(programs, grammar, prompt.ids[system:], beams=0)


def test_logits_that_are_not_finite_are_no_plan(
    model: Qwen3, encoder: ChatEncoder, world_rows: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = PlanGrammar.compile(FOUR, encoder, "plan")
    programs, system = programs_of(model, encoder, grammar, world_rows[0])
    [prompt] = planners.prompts(encoder, world_rows[:1])
    verify = programs.verify
    monkeypatch.setattr(programs, "verify", lambda *given: verify(*given) * np.nan)
    with pytest.raises(NotFinite, match="NaN or infinite"):
        beam_search(programs, grammar, prompt.ids[system:], beams=2)
