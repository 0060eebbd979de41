"""The load generator: Poisson arrivals, and latencies that hide nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import COLUMNS, Sample
from gplan_jax.serving.latency.load_generator import (
    Exchange,
    Reply,
    Send,
    exchange_row,
    plan_bodies,
    poisson_schedule,
    send_on_schedule,
)
from tests.serving.virtual_time import VirtualTimeLoop, run_virtually

ANSWER = json.dumps(
    {
        "timings_ms": {"queue": 1.0, "prefill": 2.0, "decode": 3.0, "total": 6.5},
        "usage": {"passes": 9, "response_tokens": 105},
        "passed": True,
    }
).encode()


class TestPoissonSchedule:
    @given(
        qps=st.floats(0.1, 500.0),
        duration_s=st.floats(0.01, 20.0),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_times_ascend_within_the_run_and_depend_on_the_seed_alone(
        self, qps: float, duration_s: float, seed: int
    ) -> None:
        times = poisson_schedule(qps, duration_s, seed)
        assert np.all(np.diff(times) > 0)
        assert np.all((times >= 0) & (times < duration_s))
        np.testing.assert_array_equal(times, poisson_schedule(qps, duration_s, seed))

    @given(share=st.floats(0.05, 1.0), seed=st.integers(0, 1000))
    def test_a_longer_schedule_begins_with_a_shorter_one(self, share: float, seed: int) -> None:
        long = poisson_schedule(20.0, 10.0, seed)
        short = poisson_schedule(20.0, 10.0 * share, seed)
        np.testing.assert_allclose(short, long[long < 10.0 * share], rtol=1e-12)

    def test_gaps_are_exponential_and_counts_poisson(self) -> None:
        # 200,000 arrivals: sampling errors are below 1%, the tolerances three of them or more.
        times = poisson_schedule(100.0, 2000.0, seed=3)
        gaps = np.diff(times)
        assert gaps.mean() == pytest.approx(1 / 100, rel=0.01)
        assert gaps.std() == pytest.approx(1 / 100, rel=0.015)
        for level in (0.1, 0.5, 0.9, 0.99):
            assert np.quantile(gaps, level) == pytest.approx(-np.log1p(-level) / 100, rel=0.03)
        assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.01
        counts = np.bincount(times.astype(int), minlength=2000)
        assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)

    @pytest.mark.parametrize(("qps", "duration_s"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
    def test_an_impossible_load_is_refused(self, qps: float, duration_s: float) -> None:
        with pytest.raises(GplanError, match="must be positive"):
            poisson_schedule(qps, duration_s, seed=0)


def delayed(*delays_s: float, reply: Reply | None = None) -> Send:
    """A server that takes each of these times in turn, as many requests at once as come."""
    turns = itertools.cycle(delays_s)

    async def send(body: bytes) -> Reply:
        await asyncio.sleep(next(turns))
        return reply or Reply(200, ANSWER)

    return send


def one_at_a_time(seconds: float) -> Send:
    """A server with one slot."""
    slot = asyncio.Lock()

    async def send(body: bytes) -> Reply:
        async with slot:
            await asyncio.sleep(seconds)
        return Reply(200, ANSWER)

    return send


class TestSendOnSchedule:
    def test_requests_leave_on_time_however_slow_the_answers_are(self) -> None:
        intended = [0.0, 0.1, 0.2, 0.3]
        exchanges = run_virtually(send_on_schedule(delayed(5.0), [b"x"], intended))
        assert [e.intended_s for e in exchanges] == intended
        np.testing.assert_allclose([e.lag_ms for e in exchanges], 0.0, atol=1e-6)
        np.testing.assert_allclose([e.latency_ms for e in exchanges], 5000.0)

    def test_a_queue_in_the_server_shows_up_in_the_latencies(self) -> None:
        # 100 requests, one every 10 ms, and each takes 30 ms alone: the n-th waits 20 n ms.
        intended = np.arange(100) * 0.01
        exchanges = run_virtually(send_on_schedule(one_at_a_time(0.03), [b"x"], intended))
        expected = 30.0 + 20.0 * np.arange(100)
        np.testing.assert_allclose([e.latency_ms for e in exchanges], expected)

    def test_a_slow_generator_shows_its_lag_and_latencies_count_it(self) -> None:
        async def busy(body: bytes) -> Reply:
            cast(VirtualTimeLoop, asyncio.get_running_loop()).now += 0.05  # the loop is blocked
            return Reply(200, ANSWER)

        intended = [0.0, 0.01, 0.02]
        exchanges = run_virtually(send_on_schedule(busy, [b"x"], intended))
        np.testing.assert_allclose([e.lag_ms for e in exchanges], [0.0, 40.0, 80.0], atol=1e-6)
        np.testing.assert_allclose([e.latency_ms for e in exchanges], [50.0, 90.0, 130.0])
        np.testing.assert_allclose([e.service_ms for e in exchanges], 50.0)

    def test_bodies_are_taken_in_turn_and_over_again(self) -> None:
        seen = []

        async def send(body: bytes) -> Reply:
            seen.append(body)
            return Reply(200, ANSWER)

        ended: list[Exchange] = []
        exchanges = run_virtually(
            send_on_schedule(send, [b"a", b"b"], [0.0, 0.1, 0.2], ended=ended.append)
        )
        assert seen == [b"a", b"b", b"a"]
        assert ended == exchanges

    def test_what_the_server_says_is_kept(self) -> None:
        [exchange] = run_virtually(send_on_schedule(delayed(0.01), [b"x"], [0.0]))
        assert exchange.answered and exchange.passed
        assert exchange.usage == {"passes": 9, "response_tokens": 105}
        assert exchange.timings_ms["decode"] == 3.0
        row = exchange_row(exchange)
        assert json.loads(json.dumps(row)) == row
        assert row["latency_ms"] == pytest.approx(10.0)

    @pytest.mark.parametrize(
        ("reply", "status", "problem"),
        [
            (Reply(503, b'{"error": {"code": "overloaded", "message": ""}}'), 503, "overloaded"),
            (Reply(0, problem="ConnectError"), 0, "ConnectError"),
            (Reply(502, b"<html>bad gateway</html>"), 502, "no error code"),
            (Reply(500, b""), 500, "no error code"),
            (Reply(500, b"[1]"), 500, "no error code"),
            (Reply(200, b"hello"), 200, "no plan"),
            (Reply(200, b'{"plan": []}'), 200, "no plan"),
        ],
    )
    def test_failures_are_told_apart(self, reply: Reply, status: int, problem: str) -> None:
        send = delayed(0.01, reply=reply)
        [exchange] = run_virtually(send_on_schedule(send, [b"x"], [0.0]))
        assert (exchange.status, exchange.problem) == (status, problem)
        assert not exchange.answered


def test_bodies_hold_the_context_without_its_label(world_rows: list[Sample]) -> None:
    plain, hasty = plan_bodies(world_rows[:1]), plan_bodies(world_rows[:1], deadline_ms=250.4)
    content = json.loads(plain[0])
    assert content.keys() == {"context"}
    assert set(content["context"]) == set(COLUMNS) - {"raw_labels"}
    assert Sample.from_context(content["context"]) == world_rows[0].with_label("")
    assert json.loads(hasty[0]) == content | {"deadline_ms": 250}
