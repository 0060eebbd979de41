"""The engine under its users: deadlines, cancellation, refusals, drains, and no late compiling."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path

import jax
import numpy as np
import pytest

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample, check_plan, latent_valid
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.continuous import ContinuousDecoder
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.programs import Programs
from gplan_jax.inference.engine.requests import (
    BadOption,
    DeadlineExceeded,
    Draining,
    EngineConfig,
    NotFinite,
    Overloaded,
    PlanAnswer,
    PlanRequest,
)
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from tests.inference import planners

SLOTS = 2


@dataclasses.dataclass
class Parts:
    encoder: ChatEncoder
    grammar: PlanGrammar
    programs: Programs
    row: Sample

    def decoder(self) -> ContinuousDecoder:
        return planners.decoder(
            None,  # type: ignore[arg-type]
            self.encoder,
            self.row,
            self.grammar,
            DraftModel(self.grammar, IntentCounts()),
            programs=self.programs,
        )

    def engine(self, decoder: ContinuousDecoder | None = None, queue: int = 4) -> PlanEngine:
        prompter = planners.prompter(self.encoder)
        return PlanEngine("tiny", decoder or self.decoder(), prompter, queue=queue, slots=SLOTS)


@pytest.fixture(scope="module")
def parts(tiny_model_dir: Path, world_rows: list[Sample]) -> Parts:
    encoder = ChatEncoder.load(tiny_model_dir)
    grammar = PlanGrammar.compile(planners.LIBRARY, encoder, "latent")
    model = planners.random_model(tiny_model_dir, 1)
    programs = planners.decoder(model, encoder, world_rows[0], grammar).programs
    return Parts(encoder, grammar, programs, world_rows[0])


class Held(ContinuousDecoder):
    """A decoder whose passes wait until they are let go."""

    def __init__(self, inner: ContinuousDecoder) -> None:
        self.__dict__.update(inner.__dict__)
        self.go = threading.Event()
        self.stepping = threading.Event()

    def step(self) -> list:
        if self.rows:
            self.stepping.set()
            assert self.go.wait(30)
        return super().step()


@pytest.fixture
def engine(parts: Parts) -> Iterator[PlanEngine]:
    engine = parts.engine(queue=100)
    yield engine
    engine.close()


@pytest.fixture
def held(parts: Parts) -> Iterator[tuple[PlanEngine, Held]]:
    decoder = Held(parts.decoder())
    engine = parts.engine(decoder)
    yield engine, decoder
    decoder.go.set()
    engine.close()


def test_answers_are_plans_and_say_what_they_cost(
    engine: PlanEngine, world_rows: list[Sample]
) -> None:
    futures = [engine.submit(PlanRequest(row)) for row in world_rows]
    answers = [future.result(60) for future in futures]
    for answer in answers:
        assert check_plan(answer.text, engine.library) == [] and latent_valid(answer.text)
        assert answer.tokens == len(engine.encoder.response(answer.text).ids) - 1
        assert 1 <= answer.passes < answer.tokens / 3
        assert len(answer.pass_ms) == answer.passes - 1 and min(answer.pass_ms, default=1) > 0
        assert sum(answer.pass_ms) <= answer.decode_ms + 1e-6
        assert 0 < answer.cached_tokens < answer.prompt_tokens
        assert min(answer.queue_ms, answer.prefill_ms, answer.decode_ms) >= 0
    alone = [engine.submit(PlanRequest(row)).result(60) for row in world_rows[:5]]
    assert [answer.text for answer in alone] == [answer.text for answer in answers[:5]]
    snapshot = engine.snapshot()
    assert (snapshot.answered, snapshot.active, snapshot.queued) == (len(world_rows) + 5, 0, 0)
    assert sum(snapshot.rows_of_passes.values()) + snapshot.answered == snapshot.passes
    assert set(snapshot.rows_of_passes) <= {1, SLOTS}


def test_a_search_answers_beside_plans_and_compiles_nothing(
    engine: PlanEngine, parts: Parts, world_rows: list[Sample]
) -> None:
    before = engine.snapshot()
    rows = world_rows[:6]
    futures = [engine.submit(PlanRequest(row, best=n % 2 * 3)) for n, row in enumerate(rows)]
    answers = [future.result(60) for future in futures]
    alone = engine.submit(PlanRequest(world_rows[0])).result(60)
    assert answers[0].text == alone.text and answers[0].found is None
    for answer in answers[1::2]:
        assert answer.found is not None and answer.found.exact
        logs = [plan.log_probability for plan in answer.found.plans]
        assert len(logs) == 3 and logs == sorted(logs, reverse=True)
        assert answer.found.plans[0].text == answer.text
        for plan in answer.found.plans:
            assert check_plan(plan.text, engine.library) == []
        likeliest, *others = [probability for _, probability in answer.found.first]
        assert 0.95 < likeliest + sum(others) <= 1 + 1e-5 and likeliest >= max(others)
    after = engine.snapshot()
    assert after.compilations == before.compilations
    taken = sum(answer.passes for answer in [*answers, alone])
    assert max(a.passes for a in answers) < after.passes - before.passes < taken
    with pytest.raises(BadOption, match="temperature is for draws"):
        engine.submit(PlanRequest(parts.row, best=2, temperature=1.0))


def test_nothing_is_compiled_once_it_runs(
    engine: PlanEngine, world_rows: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def listen(event: str, _duration: float, **_: object) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        before = engine.snapshot().compilations
        for row in world_rows[:6]:
            engine.submit(PlanRequest(row, temperature=0.5)).result(60)
        assert compiled == [] and engine.snapshot().compilations == before
        jax.jit(lambda x: x + 1.25)(1.0)
        assert compiled  # The listener does hear what is compiled.
    finally:
        jax.monitoring.clear_event_listeners()


def test_a_full_queue_refuses_at_once(held: tuple[PlanEngine, Held], parts: Parts) -> None:
    engine, decoder = held
    accepted = [engine.submit(PlanRequest(parts.row)) for _ in range(SLOTS)]
    assert decoder.stepping.wait(30)
    accepted += fill(engine, parts.row)
    started = time.monotonic()
    with pytest.raises(Overloaded, match="waiting already") as refusal:
        engine.submit(PlanRequest(parts.row))
    assert time.monotonic() - started < 5
    assert refusal.value.retry_after_s >= 1
    assert engine.snapshot().refused >= 1
    decoder.go.set()
    texts = {future.result(60).text for future in accepted}
    assert len(texts) == 1


def test_what_would_wait_beyond_its_deadline_is_refused(
    held: tuple[PlanEngine, Held], parts: Parts
) -> None:
    engine, decoder = held
    assert engine.snapshot().expected_wait_s == 0
    slow = threading.Timer(0.2, decoder.go.set)
    slow.start()
    answered = [engine.submit(PlanRequest(parts.row)) for _ in range(SLOTS + 2)]
    assert all(future.result(60).tokens for future in answered)
    decoder.go.clear()
    waiting = [engine.submit(PlanRequest(parts.row)) for _ in range(SLOTS + 2)]
    assert decoder.stepping.wait(30)
    wait_s = engine.snapshot().expected_wait_s
    assert wait_s > 0
    with pytest.raises(Overloaded, match="are waiting already, for about"):
        engine.submit(PlanRequest(parts.row, deadline_s=wait_s / 2))
    waiting.append(engine.submit(PlanRequest(parts.row, deadline_s=60 + 2 * wait_s)))
    decoder.go.set()
    assert all(future.result(60).tokens for future in waiting)


def fill(engine: PlanEngine, row: Sample) -> list[Future[PlanAnswer]]:
    """Submits until the engine refuses."""
    futures = []
    try:
        for _ in range(50):
            futures.append(engine.submit(PlanRequest(row)))
    except Overloaded:
        return futures
    raise AssertionError("the queue never became full")


def test_cancelled_requests_free_their_slots(held: tuple[PlanEngine, Held], parts: Parts) -> None:
    engine, decoder = held
    active = [engine.submit(PlanRequest(parts.row)) for _ in range(SLOTS)]
    assert decoder.stepping.wait(30)
    queued = engine.submit(PlanRequest(parts.row))
    assert all(future.cancel() for future in [*active, queued])
    decoder.go.set()
    assert engine.submit(PlanRequest(parts.row)).result(60).tokens
    with pytest.raises(CancelledError):
        active[0].result()
    snapshot = engine.snapshot()
    assert (snapshot.active, snapshot.queued, snapshot.cancelled) == (0, 0, SLOTS + 1)
    assert decoder.free_slots == SLOTS


def test_what_is_too_late_ends_and_frees_its_slot(
    held: tuple[PlanEngine, Held], parts: Parts
) -> None:
    engine, decoder = held
    late = [engine.submit(PlanRequest(parts.row, deadline_s=0.05)) for _ in range(SLOTS + 2)]
    on_time = engine.submit(PlanRequest(parts.row, deadline_s=60))
    time.sleep(0.1)
    decoder.go.set()
    for future in late:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            future.result(60)
    assert on_time.result(60).tokens
    assert engine.snapshot().expired == len(late)
    assert decoder.free_slots == SLOTS


def test_closing_finishes_what_was_accepted(parts: Parts) -> None:
    engine = parts.engine()
    futures = [engine.submit(PlanRequest(parts.row)) for _ in range(3)]
    engine.close(drain_s=60)
    assert all(future.result(0).tokens for future in futures)
    assert not engine.snapshot().ready
    with pytest.raises(Draining):
        engine.submit(PlanRequest(parts.row))
    engine.close()


def test_closing_without_patience_ends_what_is_left(parts: Parts) -> None:
    decoder = Held(parts.decoder())
    engine = parts.engine(decoder)
    futures = [engine.submit(PlanRequest(parts.row)) for _ in range(4)]
    assert decoder.stepping.wait(30)
    closing = threading.Thread(target=engine.close)
    closing.start()
    time.sleep(0.1)
    decoder.go.set()
    closing.join(30)
    assert not closing.is_alive()
    done, pending = wait(futures, timeout=0)
    assert not pending
    assert any(isinstance(future.exception(), Draining) for future in done)


def test_a_fault_of_the_device_reaches_everybody(parts: Parts) -> None:
    class Broken(Held):
        def step(self) -> list:
            if self.rows:
                assert self.go.wait(30)
                raise RuntimeError("out of memory")
            return []

    decoder = Broken(parts.decoder())
    engine = parts.engine(decoder)
    futures = [engine.submit(PlanRequest(parts.row)) for _ in range(3)]
    decoder.go.set()
    for future in futures:
        with pytest.raises(RuntimeError, match="out of memory"):
            future.result(30)
    assert not engine.snapshot().ready
    with pytest.raises(GplanError, match=r"must be restarted: out of memory"):
        engine.submit(PlanRequest(parts.row))


def test_a_context_without_a_time_is_refused_when_submitted(
    engine: PlanEngine, parts: Parts
) -> None:
    with pytest.raises(GplanError, match="currenttime"):
        engine.submit(PlanRequest(dataclasses.replace(parts.row, currenttime="soon")))


def test_load_wants_to_know_the_form_of_responses(tiny_model_dir: Path) -> None:
    with pytest.raises(GplanError, match=r"--response plan.*--mode unconstrained"):
        PlanEngine.load(tiny_model_dir, EngineConfig(), template="compact_zh")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["constrained", "drafted", "unconstrained"])
def test_load_and_answer(tiny_model_dir: Path, world_rows: list[Sample], mode: str) -> None:
    pytest.importorskip("qwix")
    config = EngineConfig(
        mode=mode,  # type: ignore[arg-type]
        slots=3,
        response="plan",
        weights="int8",
        max_new_tokens=20,
        prefix_cache_mib=1,
    )
    engine = PlanEngine.load(tiny_model_dir, config, template="compact_zh", prompt_length=160)
    answers = [
        future.result(120)
        for future in [engine.submit(PlanRequest(row)) for row in world_rows[:10]]
    ]
    if mode == "unconstrained":
        with pytest.raises(BadOption, match="best works under the grammar alone"):
            engine.submit(PlanRequest(world_rows[0], best=2))
    engine.close()
    assert engine.name == tiny_model_dir.name
    for answer in answers:
        assert answer.tokens <= 20 or mode != "unconstrained"
        assert mode == "unconstrained" or check_plan(answer.text, engine.library) == []


@pytest.mark.parametrize("broken", ["prefill", "verify"])
def test_logits_that_are_not_finite_fail_one_request_alone(
    broken: str, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass of that kind gives NaN; the engine and its later requests are well."""
    engine, whole = parts.engine(), getattr(parts.programs, broken)
    once = iter([np.nan])
    monkeypatch.setattr(parts.programs, broken, lambda *given: whole(*given) * next(once, 1.0))
    try:
        with pytest.raises(NotFinite, match="NaN or infinite"):
            engine.submit(PlanRequest(parts.row)).result(60)
        answer = engine.submit(PlanRequest(parts.row)).result(60)
        assert check_plan(answer.text, engine.library) == []
        state = engine.snapshot()
        assert (state.ready, state.failed, state.answered, state.active) == (True, 1, 1, 0)
    finally:
        engine.close()
