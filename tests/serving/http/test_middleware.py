"""When requests are let in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from fake_engine import FakeEngine

from gplan_jax.gsisr import Sample
from gplan_jax.inference.engine.requests import EngineSnapshot, PlanRequest
from gplan_jax.serving.http.bodies import ApiError
from gplan_jax.serving.http.middleware import Gate


class Waiting(FakeEngine):
    """An engine that says how long a new request would wait."""

    wait_s = 0.0

    def snapshot(self) -> EngineSnapshot:
        return dataclasses.replace(super().snapshot(), expected_wait_s=self.wait_s)


@pytest.fixture
def engine() -> Iterator[Waiting]:
    engine = Waiting(delay_s=60, slots=1, queue=1)
    yield engine
    engine.close()


def test_a_full_queue_lets_nobody_in(engine: Waiting) -> None:
    gate = Gate(engine)
    for _ in range(2):
        gate.check_room(1.0)
        engine.submit(PlanRequest(Sample.from_context({})))
    with pytest.raises(ApiError) as refusal:
        gate.check_room(1.0)
    assert (refusal.value.status, refusal.value.code) == (503, "overloaded")
    gate.check()  # Others than plans still pass.


def test_requests_whose_bodies_are_still_read_take_up_room(engine: Waiting) -> None:
    gate = Gate(engine)
    gate.inside = 2
    with pytest.raises(ApiError, match="queue is full"):
        gate.check_room(1.0)
    gate.inside = 1
    gate.check_room(1.0)


def test_a_wait_beyond_the_deadline_lets_nobody_in_and_says_when_to_come_back(
    engine: Waiting,
) -> None:
    gate = Gate(engine)
    engine.wait_s = 4.2
    gate.check_room(5.0)
    with pytest.raises(ApiError) as refusal:
        gate.check_room(4.0)
    assert refusal.value.response().headers["Retry-After"] == "5"
