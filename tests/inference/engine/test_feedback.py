"""Plans that go on from what a user made of earlier ones, against all plans there are."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.gsisr import Intent, IntentLibrary, Plan, Sample, canonical_plan, check_plan
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.best_plans import SearchRow
from gplan_jax.inference.engine.continuous import ContinuousDecoder
from gplan_jax.inference.engine.decoder_setup import start_after
from gplan_jax.inference.engine.programs import Programs
from gplan_jax.inference.engine.requests import BadOption, PlanRequest
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.inference import planners

SIX = IntentLibrary.model_validate(
    {
        "name": "six",
        "tool_key": "工具名称",
        "parameters": {"tag": {"values": {"美食": "", "购物": ""}}},
        "tools": {
            "tool_3": {},
            "tool_7": {"parameters": ["tag"]},
            "tool_8": {},
            "tool_9": {},
            "tool_10": {},
        },
        "exclusive_groups": [["tool_3", "tool_10"]],
        "plan_length": {"minimum": 2, "maximum": 4},
    }
)
TOOLS = ("tool_3", "tool_8", "tool_9", "tool_10")
TAGS = ("美食", "购物")
INTENTS: list[Intent] = [{"工具名称": tool} for tool in TOOLS]
INTENTS += [{"工具名称": "tool_7", "tag": tag} for tag in TAGS]


@dataclasses.dataclass
class Case:
    """A model under a small library, and its tokens of every plan that the rule filter passes."""

    encoder: ChatEncoder
    grammar: PlanGrammar
    programs: Programs
    forward: planners.Forward
    plans: list[tuple[Plan, tuple[int, ...]]]

    def decoder(self, drafter: DraftModel | None = None) -> ContinuousDecoder:
        row = next(iter(simulate_rows(1, seed=1)))
        return planners.decoder(
            None,  # type: ignore[arg-type]
            self.encoder,
            row,
            self.grammar,
            drafter,
            programs=self.programs,
        )

    def left(self, request: PlanRequest) -> list[tuple[int, ...]]:
        """The tokens of the plans that feedback leaves."""
        accepted = [*request.accepted]
        return [
            tokens
            for plan, tokens in self.plans
            if plan[: len(accepted)] == accepted
            and not any(intent in request.dismissed for intent in plan)
        ]


@pytest.fixture(scope="module", params=["plan", "latent"])
def case(request: pytest.FixtureRequest, tiny_model_dir: Path) -> Case:
    encoder = ChatEncoder.load(tiny_model_dir)
    model = planners.random_model(tiny_model_dir, 5)
    grammar = PlanGrammar.compile(SIX, encoder, request.param)
    row = next(iter(simulate_rows(1, seed=1)))
    programs = planners.decoder(model, encoder, row, grammar).programs
    every = [list(p) for n in (2, 3, 4) for p in itertools.permutations(INTENTS, n)]
    sound = [plan for plan in every if not check_plan(canonical_plan(plan, SIX), SIX)]
    plans = [(plan, planners.tokens_of(grammar, plan)) for plan in sound]
    return Case(encoder, grammar, programs, planners.forward_of(model, 220), plans)


def reference(
    forward: planners.Forward, prompt: Sequence[int], plans: Sequence[tuple[int, ...]]
) -> list[int]:
    """The greedy response among ``plans``, by a whole forward pass for each token."""
    response: list[int] = []
    while [*response] not in (left := [[*p] for p in plans if [*p[: len(response)]] == response]):
        tokens = sorted({plan[len(response)] for plan in left})
        if len(tokens) > 1:
            logits_V = forward([*prompt, *response])[len(prompt) + len(response) - 1]
            tokens = [tokens[int(np.argmax(logits_V[tokens]))]]
        response += tokens
    return response


def some_feedback(seed: int) -> PlanRequest:
    """Intents drawn at random, which rules may forbid."""
    draw = random.Random(seed)
    mixed = draw.sample(INTENTS, len(INTENTS))
    ends = sorted(draw.choices(range(5), k=2))
    row = next(iter(simulate_rows(1, seed=seed)))
    accepted, dismissed = tuple(mixed[: ends[0]]), tuple(mixed[ends[0] : ends[1]])
    return PlanRequest(row, accepted=accepted, dismissed=dismissed)


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_plans_are_those_of_a_plain_loop_over_what_is_left(case: Case, count: int) -> None:
    prompts, wanted, lefts = [], [], []
    for request in map(some_feedback, range(count)):
        left = case.left(request)
        try:
            start = start_after(case.grammar, request)
        except BadOption:
            assert not left
            continue
        assert left
        [prompt] = planners.prompts(case.encoder, [request.sample])  # type: ignore[list-item]
        prompts.append(dataclasses.replace(prompt, start=start))
        wanted.append(reference(case.forward, prompt.ids, left))
        lefts.append(set(left))
    assert len(wanted) > count / 2
    drafter = DraftModel(case.grammar, IntentCounts())
    for drafts in (None, drafter, planners.RandomDrafts(case.grammar, 1)):
        rows = planners.decode(case.decoder(drafts), prompts)
        assert [row.response for row in rows] == wanted
    # Where all plans are asked for that are left, they come, and nothing else.
    searched = [dataclasses.replace(prompt, best=500, least_first=1e-9) for prompt in prompts[:2]]
    for row, left in zip(planners.decode(case.decoder(), searched), lefts, strict=False):
        assert isinstance(row, SearchRow) and row.found is not None and row.found.exact
        assert {plan.tokens for plan in row.found.plans} == left
        assert sum(np.exp(plan.score) for plan in row.found.plans) == pytest.approx(1, abs=1e-4)


def test_an_intent_that_needs_a_place_may_follow_what_was_accepted(
    tiny_model_dir: Path, world_rows: list[Sample]
) -> None:
    grammar = PlanGrammar.compile(planners.LIBRARY, ChatEncoder.load(tiny_model_dir), "plan")
    library, rules = planners.LIBRARY, grammar.rules
    every = range(len(grammar.intents))
    yields = next(i for i in every if rules.yields >> i & rules.free >> i & 1)
    refers = next(i for i in every if not (rules.free | rules.closes[yields]) >> i & 1)
    place, needs = grammar.intents[yields], grammar.intents[refers]
    state = start_after(grammar, PlanRequest(world_rows[0], accepted=(place, needs)))
    text = ChatEncoder.load(tiny_model_dir).decode(grammar.forced_run(state)[0])
    assert text.startswith(canonical_plan([place, needs], library)[:-1])
    with pytest.raises(BadOption, match=r"accepted\.0 needs the place of an intent before it"):
        start_after(grammar, PlanRequest(world_rows[0], accepted=(needs,)))


TOOL_3, TOOL_8, TOOL_9, TOOL_10, FOOD, _ = INTENTS


@pytest.mark.parametrize(
    ("feedback", "fault"),
    [
        ({"accepted": (TOOL_8, {"工具名称": "tool_7"})}, r"accepted\.1 is no intent of the"),
        ({"dismissed": ({"工具名称": "tool_77"},)}, r"dismissed\.0 is no intent"),
        ({"shown": ({},)}, r"shown\.0 is no intent"),
        ({"accepted": (TOOL_8, TOOL_8)}, r"accepted\.1 is in accepted already"),
        ({"accepted": (TOOL_3, TOOL_8), "dismissed": (FOOD, TOOL_8)}, r"accepted\.1 .*\.1"),
        ({"accepted": (TOOL_3, TOOL_10)}, r"accepted\.1 can't follow"),
        ({"accepted": (TOOL_3, *INTENTS[1:3], *INTENTS[4:])}, "accepted holds more than the 4"),
        ({"dismissed": tuple(INTENTS[1:])}, "dismissed leaves 1 of the library's intents"),
        ({"shown": (TOOL_8,), "dismissed": (TOOL_9,)}, r"dismissed\.0 is not among"),
    ],
)  # fmt: skip
def test_feedback_that_contradicts_itself_or_the_rules_is_named(
    case: Case, feedback: dict[str, Any], fault: str, world_rows: list[Sample]
) -> None:
    with pytest.raises(BadOption, match=fault) as error:
        start_after(case.grammar, PlanRequest(world_rows[0], **feedback))
    assert error.value.path == str(error.value).split()[0]


def test_what_was_shown_changes_nothing(case: Case, world_rows: list[Sample]) -> None:
    plain = PlanRequest(world_rows[0], accepted=(TOOL_8,), dismissed=(TOOL_9,))
    shown = dataclasses.replace(plain, shown=(TOOL_9, TOOL_8, FOOD))
    assert start_after(case.grammar, shown) == start_after(case.grammar, plain)
    assert start_after(case.grammar, PlanRequest(world_rows[0])) == case.grammar.start
