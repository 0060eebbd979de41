"""Drafted, constrained and slow decoding give the same tokens; rows don't see one another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, check_plan, latent_valid
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.continuous import ContinuousDecoder, Prompted
from gplan_jax.inference.engine.programs import Programs
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar, ResponseForm
from gplan_jax.models import Qwen3
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.inference import planners

FORMS: tuple[ResponseForm, ...] = ("plan", "latent")


@dataclasses.dataclass
class Case:
    form: ResponseForm
    model: Qwen3
    encoder: ChatEncoder
    grammar: PlanGrammar
    prompts: list[Prompted]
    programs: Programs
    rows: list[Sample]

    def decoder(self, drafter: object = None, **options: int) -> ContinuousDecoder:
        return planners.decoder(
            self.model,
            self.encoder,
            self.rows[0],
            self.grammar,
            drafter,  # type: ignore[arg-type]
            programs=None if options.keys() & {"prefix_cache_bytes", "shapes"} else self.programs,
            **options,
        )


@pytest.fixture(scope="module", params=FORMS)
def case(request: pytest.FixtureRequest, tiny_model_dir: Path, world_rows: list[Sample]) -> Case:
    return make_case(request.param, tiny_model_dir, world_rows[:8], seed=3)


def make_case(form: ResponseForm, model_dir: Path, rows: list[Sample], seed: int) -> Case:
    encoder = ChatEncoder.load(model_dir)
    model = planners.random_model(model_dir, seed)
    grammar = PlanGrammar.compile(planners.LIBRARY, encoder, form)
    prompts = planners.prompts(encoder, rows)
    programs = planners.decoder(model, encoder, rows[0], grammar).programs
    return Case(form, model, encoder, grammar, prompts, programs, rows)


@pytest.fixture(scope="module")
def constrained(case: Case) -> list[list[int]]:
    return [row.response for row in planners.decode(case.decoder(), case.prompts)]


def test_plans_differ_from_context_to_context(constrained: list[list[int]]) -> None:
    assert len({tuple(response) for response in constrained}) > len(constrained) / 2


def test_constrained_decoding_is_the_slow_greedy_loop(
    case: Case, constrained: list[list[int]]
) -> None:
    forward = planners.forward_of(case.model, planners.TASK.prompt_length + 300)
    for prompt, response in list(zip(case.prompts, constrained, strict=True))[:3]:
        assert planners.slow_greedy(case.grammar, forward, prompt.ids) == response


def test_drafts_change_the_passes_and_not_the_tokens(
    case: Case, constrained: list[list[int]]
) -> None:
    drafter = DraftModel(case.grammar, IntentCounts())
    rows = planners.decode(case.decoder(drafter), case.prompts)
    assert [row.response for row in rows] == constrained
    for row in rows:
        assert row.passes < len(row.response) / 3
        assert 0 <= row.accepted <= row.drafted
        assert row.held >= len(row.response) - len(row.chain)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_drafted_the_tokens_stay(
    case: Case, constrained: list[list[int]], seed: int
) -> None:
    drafter = planners.RandomDrafts(case.grammar, seed)
    rows = planners.decode(case.decoder(drafter), case.prompts)
    assert [row.response for row in rows] == constrained


def test_a_draft_that_knows_the_plan_needs_few_passes(
    case: Case, constrained: list[list[int]]
) -> None:
    counts = IntentCounts()
    texts = case.encoder.decode(constrained[0]).split("</THOUGHT>")[-1]
    plan = planners.plan_texts(texts)
    for _ in range(50):
        counts.add(case.prompts[0].context, plan)
    [row] = planners.decode(case.decoder(DraftModel(case.grammar, counts)), case.prompts[:1])
    assert row.response == constrained[0]
    rest = len(row.response) - planners.SHAPES.tail
    assert row.passes <= 2 + max(0, -(-rest // (planners.SHAPES.window - 1)))


def test_plans_are_valid(case: Case, constrained: list[list[int]]) -> None:
    for response in constrained:
        text = case.encoder.decode(response)
        assert check_plan(text, planners.LIBRARY) == []
        assert case.form == "plan" or latent_valid(text)
        assert max(response) < case.encoder.vocabulary_size


@pytest.mark.parametrize("cached_bytes", [0, 2**24])
def test_prompts_in_parts_between_the_passes_of_others_change_no_token(
    case: Case, constrained: list[list[int]], cached_bytes: int
) -> None:
    options = {"prefix_cache_bytes": cached_bytes}
    shapes = dataclasses.replace(planners.SHAPES, buckets=(64, 128, 192), chunk=64, places=600)
    drafter = DraftModel(case.grammar, IntentCounts())
    decoder = case.decoder(drafter, shapes=shapes, **options)  # type: ignore[arg-type]
    compiled = decoder.programs.count
    other, _ = decoder.admit(case.prompts[-1])
    parts = []
    for prompt, response in zip(case.prompts, constrained, strict=True):
        admission, pauses = decoder.admission(prompt), 0
        try:
            while True:
                next(admission)
                decoder.step()
                pauses += 1
        except StopIteration as ended:
            row, found = ended.value
        parts.append(pauses)
        assert row.passes == pauses + 1 and found >= 0
        while not row.finished:
            decoder.step()
        assert row.response == response
        decoder.release(row)
    assert max(parts) >= 2 and other.response == constrained[-1]
    assert decoder.programs.count == compiled
    begun = decoder.admission(case.prompts[0])
    next(begun)
    assert decoder.free_slots == 0
    begun.close()
    assert decoder.free_slots == 1


def test_rows_that_come_and_go_decode_as_if_alone(case: Case, constrained: list[list[int]]) -> None:
    decoder = case.decoder(DraftModel(case.grammar, IntentCounts()))
    for prompt, response in zip(case.prompts, constrained, strict=True):
        given_up, _ = decoder.admit(case.prompts[0])
        decoder.step()
        row, _ = decoder.admit(prompt)
        while not row.finished:
            decoder.step()
        assert row.response == response
        decoder.release(row)
        decoder.release(given_up)
    assert decoder.free_slots == 2 and not decoder.rows


def test_cached_user_prefixes_change_nothing(case: Case, constrained: list[list[int]]) -> None:
    decoder = case.decoder(DraftModel(case.grammar, IntentCounts()), prefix_cache_bytes=1 << 22)
    shared = [dataclasses.replace(p, shared=len(p.ids) - 1) for p in case.prompts]
    system = len(planners.prompter(case.encoder).system_ids(case.rows[0]))
    for hits, (prompt, response) in enumerate(zip(shared, constrained, strict=True), start=1):
        for cached in (False, True):
            row, tokens = decoder.admit(prompt)
            while not row.finished:
                decoder.step()
            decoder.release(row)
            assert row.response == response
            assert cached == (tokens > system)
        assert decoder.pages.hits == hits
    assert 0 < decoder.pages.bytes <= 1 << 22


def test_draws_hang_on_the_seed_and_not_on_drafts(case: Case) -> None:
    prompts = [
        dataclasses.replace(prompt, temperature=1.5, seed=seed)
        for prompt in case.prompts[:2]
        for seed in range(3)
    ]
    plain = [row.response for row in planners.decode(case.decoder(), prompts)]
    drafter = DraftModel(case.grammar, IntentCounts())
    drafted = [row.response for row in planners.decode(case.decoder(drafter), prompts)]
    assert drafted == plain
    assert len({tuple(response) for response in plain[:3]}) == 3
    for response in plain:
        assert check_plan(case.encoder.decode(response), planners.LIBRARY) == []


def test_free_decoding_is_plain_greedy_decoding(
    tiny_model_dir: Path, world_rows: list[Sample]
) -> None:
    encoder = ChatEncoder.load(tiny_model_dir)
    model = planners.random_model(tiny_model_dir, 5)
    prompts = planners.prompts(encoder, world_rows[:4])
    forward = planners.forward_of(model, planners.TASK.prompt_length + 40)
    rows = planners.decode(planners.decoder(model, encoder, world_rows[0], None), prompts)
    for prompt, row in zip(prompts, rows, strict=True):
        logits = forward([*prompt.ids, *row.response])[len(prompt.ids) - 1 :]
        # A row of the embedding that no token has never wins.
        likeliest = logits[:, : encoder.vocabulary_size].argmax(axis=-1)
        assert likeliest[: len(row.response)].tolist() == row.response
        assert len(row.response) == 40 or likeliest[len(row.response)] == encoder.end_id


def test_refusals(case: Case) -> None:
    decoder = case.decoder()
    with pytest.raises(GplanError, match=r"takes 1 to \d+.*prompt_length"):
        decoder.admit(Prompted([*case.prompts[0].ids, *[5] * 200]))
    assert decoder.free_slots == 2
    for _ in range(2):
        decoder.admit(case.prompts[0])
    with pytest.raises(GplanError, match="No slot is free"):
        decoder.admit(case.prompts[0])


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_contexts(tiny_model_dir: Path, form: ResponseForm, seed: int) -> None:
    """125 contexts of each form and model: 1,000 in all.

    The slow loop is checked at once for all tokens of a response: each is the likeliest after those
    before it, so by induction the loop writes just these. Two logits that float32 can't tell apart
    are a tie that the order of sums decides; at most one choice in a thousand may be one.
    """
    rows = list(simulate_rows(125, seed=seed))
    case = make_case(form, tiny_model_dir, rows, seed)
    counts = IntentCounts()
    drafters = (None, DraftModel(case.grammar, counts), planners.RandomDrafts(case.grammar, seed))
    results = [planners.decode(case.decoder(drafter), case.prompts) for drafter in drafters]
    forward = planners.forward_of(case.model, planners.TASK.prompt_length + 300)
    ties, tokens = 0, 0
    for prompt, plain, *others in zip(case.prompts, *results, strict=True):
        assert all(row.response == plain.response for row in others)
        text = case.encoder.decode(plain.response)
        assert check_plan(text, planners.LIBRARY) == []
        assert form == "plan" or latent_valid(text)
        logits = forward([*prompt.ids, *plain.response])
        state = case.grammar.start
        for index, token in enumerate(plain.response, start=len(prompt.ids) - 1):
            best = planners.likeliest(case.grammar, state, logits[index])
            assert logits[index, best] - logits[index, token] <= 2e-6
            ties, tokens = ties + (best != token), tokens + 1
            state = case.grammar.advance(state, token)
        assert case.grammar.finished(state)
    assert ties <= tokens / 1000
    assert np.mean([row.passes for row in results[1]]) < np.mean([r.passes for r in results[0]]) / 4
