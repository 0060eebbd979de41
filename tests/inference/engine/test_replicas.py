"""Several engines as one: who is asked, what a failed one costs, and equal answers on devices."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Hashable
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from gplan_jax.gsisr import Sample, Service
from gplan_jax.inference.engine.replicas import Replicas, user_of
from gplan_jax.inference.engine.requests import (
    BadOption,
    EngineSnapshot,
    Overloaded,
    PlanAnswer,
    PlanRequest,
)

ANSWER = PlanAnswer("[]", 1, 1, 0, 1, 0, 0, 0.0, 0.0, 0.0)


class Engine:
    """Holds what it is given until ``answer`` or ``fail``."""

    def __init__(self, slots: int = 2, queue: int = 2) -> None:
        self.slots, self.queue, self.ready = slots, queue, True
        self.held: list[tuple[PlanRequest, Future[PlanAnswer]]] = []
        self.answered, self.lock = 0, threading.RLock()

    def submit(self, request: PlanRequest) -> Future[PlanAnswer]:
        if request.best > 9:
            raise BadOption("best", "is too large")
        with self.lock:
            self.sweep()
            if len(self.held) >= self.slots + self.queue:
                raise Overloaded("full", 1.0)
            future = Future[PlanAnswer]()
            self.held.append((request, future))
            return future

    def sweep(self) -> None:
        with self.lock:
            self.held = [(request, left) for request, left in self.held if not left.cancelled()]

    def snapshot(self) -> EngineSnapshot:
        self.sweep()
        held = len(self.held)
        active = min(held, self.slots)
        return EngineSnapshot(
            self.ready, held - active, active, self.slots, self.queue, answered=self.answered
        )

    def answer(self) -> None:
        with self.lock:
            _, future = self.held.pop(0)
            self.answered += 1
        future.set_result(ANSWER)

    def fail(self) -> None:
        self.ready, left = False, self.held
        self.held = []
        for _, future in left:
            future.set_exception(RuntimeError("the device is lost"))

    def close(self, *, drain_s: float = 0.0) -> None:
        self.ready = False


def request_of(row: Sample, user: int, moment: int = 0, **options: object) -> PlanRequest:
    changed = dataclasses.replace(row, profile_feat_1=f"user {user}", trigger_1=f"{moment}")
    return PlanRequest(changed, **options)  # type: ignore[arg-type]


@pytest.fixture
def row(world_rows: list[Sample]) -> Sample:
    return world_rows[0]


def test_a_user_stays_where_the_prompt_is_cached_while_there_is_a_slot(row: Sample) -> None:
    engines = Engine(), Engine()
    replicas = Replicas(engines)
    for user in range(4):
        replicas.submit(request_of(row, user))
    assert [len(engine.held) for engine in engines] == [2, 2]  # the fewest requests first
    for engine in engines:
        engine.answer()
    replicas.submit(request_of(row, 1, moment=7))  # user 1 was the second engine's
    assert [len(engine.held) for engine in engines] == [1, 2]
    replicas.submit(request_of(row, 1, moment=8))  # and has no free slot any more
    assert [len(engine.held) for engine in engines] == [2, 2]


def test_a_user_is_told_by_profile_and_history_alone() -> None:
    form = Service.load("city_guide").form
    texts = {"user_id": "u1", "age_group": "30s", "time": "2026-05-04 18:16", "weather": "rain"}

    def user(**changes: str) -> Hashable:
        return user_of(PlanRequest(Sample.from_context(texts | changes, form)))

    for changes in ({"weather": "sunny"}, {"time": "2026-05-05 09:00"}, {"booking": "hotel"}):
        assert user(**changes) == user()
    assert user(user_id="u2") == user()  # who sends no id has a cached prompt, too
    for changes in ({"age_group": "40s"}, {"habits": "visited cafe at Copper Kettle 12 times"}):
        assert user(**changes) != user()


def test_all_are_full_before_one_request_is_refused(row: Sample) -> None:
    replicas = Replicas((Engine(), Engine()))
    futures = [replicas.submit(request_of(row, 0)) for _ in range(8)]
    with pytest.raises(Overloaded):
        replicas.submit(request_of(row, 0))
    assert not any(future.done() for future in futures)


def test_what_is_wrong_with_a_request_is_said_at_once(row: Sample) -> None:
    with pytest.raises(BadOption):
        Replicas((Engine(), Engine())).submit(request_of(row, 0, best=10))


def test_a_failed_engine_s_requests_are_answered_by_another(row: Sample) -> None:
    engines = Engine(), Engine()
    replicas = Replicas(engines)
    futures = [replicas.submit(request_of(row, user, deadline_s=5.0)) for user in range(4)]
    time.sleep(0.01)
    engines[0].fail()
    assert replicas.snapshot().replicas == {"0": False, "1": True} and replicas.snapshot().ready
    assert [request.deadline_s for request, _ in engines[1].held] == pytest.approx([5.0] * 4, abs=1)
    assert all(request.deadline_s < 5.0 for request, _ in engines[1].held)
    while engines[1].held:
        engines[1].answer()
    assert [future.result(timeout=1) for future in futures] == [ANSWER] * 4
    engines[1].fail()
    assert not replicas.snapshot().ready
    assert replicas.snapshot().answered == 4  # counts outlive the engines


def test_a_client_that_goes_away_frees_the_slot(row: Sample) -> None:
    engine = Engine()
    future = Replicas((engine,)).submit(request_of(row, 0))
    assert engine.snapshot().active == 1 and future.cancel()
    assert engine.snapshot().active == 0
    with pytest.raises(CancelledError):
        future.result(timeout=1)


def test_requests_from_many_threads_are_each_answered_once(row: Sample) -> None:
    engines = [Engine(slots=4, queue=100) for _ in range(3)]
    replicas, answers = Replicas(engines), list[PlanAnswer]()

    def ask(first: int) -> None:
        futures = [replicas.submit(request_of(row, user)) for user in range(first, first + 25)]
        answers.extend(future.result(timeout=10) for future in futures)

    threads = [threading.Thread(target=ask, args=(25 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for engine in engines:
            if engine.held:
                engine.answer()
    assert len(answers) == 100 == replicas.snapshot().answered


def main() -> None:
    """In a process with two devices: plans of one engine and of two replicas, as JSON."""
    import jax

    from gplan_jax.gsisr import read_samples
    from gplan_jax.inference.engine.engine import PlanEngine
    from gplan_jax.inference.engine.replicas import load_replicas
    from gplan_jax.inference.engine.requests import EngineConfig

    model, data = sys.argv[1:]
    rows, config = (
        list(read_samples(data))[:6],
        EngineConfig(slots=1, response="latent", prefix_cache_mib=0, draft_tokens=16),
    )
    found: list[list[str]] = []

    def load() -> PlanEngine:  # prompts so short that few programs are compiled
        return PlanEngine.load(model, config, template="compact_zh", prompt_length=128)

    for count in (1, 2):
        engine = load_replicas(load, count)
        futures = [engine.submit(PlanRequest(row)) for row in rows]
        found.append([future.result(timeout=120).text for future in futures])
        used = [e.snapshot().answered for e in getattr(engine, "engines", (engine,))]
        engine.close()
    devices = len(jax.local_devices())
    print(json.dumps({"equal": found[0] == found[1], "answered": used, "devices": devices}))


def test_replicas_on_devices_of_their_own_give_the_plans_of_one(
    tiny_model_dir: Path, world_file: Path
) -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, __file__, tiny_model_dir, world_file],
        env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["equal"] and report["devices"] == 2
    assert sum(report["answered"]) == 6 and all(report["answered"])


if __name__ == "__main__":
    main()
