"""The load figures' verdicts: what counts as flat, recovered, sustained; and a run of all parts."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.serving.latency.load_generator import Exchange, Reply
from tests.serving.virtual_time import run_virtually

TESTS = Path(__file__).resolve().parents[1]
SCRIPTS = TESTS.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def exchange(intended_s: float, latency_ms: float, status: int = 200) -> Exchange:
    problem = "" if status == 200 else "overloaded"
    return Exchange(intended_s, intended_s, intended_s + latency_ms / 1e3, status, problem)


class TestFlatness:
    def test_buffers_that_grow_at_first_are_no_leak(self) -> None:
        from bench_serve_verdicts import flatness

        found = flatness([(float(i), 200.0 + min(i, 10) * 10) for i in range(60)])
        assert (found["first_mib"], found["last_mib"]) == (200.0, 300.0)
        assert found["growth_mib"] == 0.0 and found["flat"] is True

    def test_a_leak_is_not_flat(self) -> None:
        from bench_serve_verdicts import flatness

        # 1 MiB a sample: the middles of the second and the last quarter are 30 samples apart.
        found = flatness([(float(i), 200.0 + i) for i in range(60)])
        assert found["growth_mib"] == 30.0 and found["flat"] is False
        large = flatness([(float(i), 20_000.0 + i) for i in range(60)])
        assert large["flat"] is True  # 2% of 20 GB

    def test_too_few_samples_say_nothing(self) -> None:
        from bench_serve_verdicts import flatness

        assert flatness([(0.0, 1.0)])["flat"] is None


class TestRecovery:
    def test_it_is_the_first_second_like_any_other(self) -> None:
        from bench_serve_verdicts import recovery_seconds

        after = [
            exchange(60.1, 5, status=503),
            exchange(60.5, 3000),
            exchange(61.2, 900),
            exchange(61.9, 800),
            exchange(62.3, 90),
            exchange(62.4, 500),
            exchange(62.6, 80),
        ]
        assert recovery_seconds(after, since_s=60.0, normal_ms=100.0) == 2.0
        assert recovery_seconds(after, since_s=60.0, normal_ms=60.0) is None


def summary(errors: dict[str, int], *, share: float = 1.0, answered: int = 100) -> dict[str, Any]:
    refused = {"p50": 3.0} if "503 overloaded" in errors else None
    return {
        "errors": errors,
        "goodput": {"share": share},
        "answered": answered,
        "refused_ms": refused,
        "lag_ms": {"p99": 8.0},
    }


def test_a_rate_is_sustained_without_refusals_and_within_the_deadline() -> None:
    from bench_serve_verdicts import sustains

    assert sustains(summary({}))
    assert not sustains(summary({"503 overloaded": 1}))
    assert not sustains(summary({}, share=0.98))


def figures() -> dict[str, Any]:
    return {
        "steady": summary({}),
        "overload": {
            "flood": summary({"503 overloaded": 900}),
            "late_by_service_time": 0,
            "recovery_s": 1.0,
            "memory": {"flat": True},
            "alive": True,
        },
        "hang_up": {"held_after": 0, "later": summary({}), "alive": True},
        "replica": {
            **summary({}),
            "held": 3,
            "readyz_after_s": {"2 of 2": 0.0, "1 of 2": 0.4},
            "healthz": 200,
            "up": [1.0, 0.0],
        },
    }


def test_every_fault_has_a_verdict_of_its_own() -> None:
    from bench_serve_verdicts import verdicts

    assert all(verdicts(figures(), exit_code=0).values())
    faults: dict[str, tuple[tuple[str, ...], Any]] = {
        "steady_without_an_error": (("steady", "errors"), {"ReadTimeout": 1}),
        "overload_was_sent": (("overload", "flood", "lag_ms"), {"p99": 2000.0}),
        "overload_no_crash": (("overload", "alive"), False),
        "overload_only_refusals": (
            ("overload", "flood", "errors"),
            {"503 overloaded": 9, "500 internal": 1},
        ),
        "overload_refused_at_once": (("overload", "flood", "refused_ms"), {"p50": 700.0}),
        "overload_accepted_in_time": (("overload", "late_by_service_time"), 2),
        "overload_memory_flat": (("overload", "memory"), {"flat": False}),
        "overload_back_to_normal": (("overload", "recovery_s"), None),
        "hang_up_no_slot_leaked": (("hang_up", "held_after"), 1),
        "hang_up_later_answered": (("hang_up", "later", "errors"), {"504 deadline": 1}),
        "hang_up_no_crash": (("hang_up", "alive"), False),
        "replica_without_an_error": (("replica", "errors"), {"500 internal": 1}),
        "replica_was_at_work": (("replica", "held"), 0),
        "replica_one_is_lost": (("replica", "up"), [1.0, 1.0]),
        "replica_told_soon": (("replica", "readyz_after_s"), {"2 of 2": 0.0, "1 of 2": 9.0}),
        "replica_server_goes_on": (("replica", "healthz"), 503),
    }
    for verdict, (path, value) in faults.items():
        broken = figures()
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert [name for name, good in verdicts(broken, exit_code=0).items() if not good] == [
            verdict
        ]
    assert not verdicts(figures(), exit_code=-9)["stopped_in_order"]


def test_requests_that_expire_were_accepted_and_not_in_time() -> None:
    from bench_serve_verdicts import verdicts

    broken = figures()
    broken["overload"]["flood"] = summary({"503 overloaded": 900, "504 deadline": 2})
    found = verdicts(broken, exit_code=0)
    assert found["overload_only_refusals"] and not found["overload_accepted_in_time"]


def test_a_closed_loop_keeps_as_many_requests_under_way_as_it_has_clients() -> None:
    from bench_serve import send_in_turn

    async def send(body: bytes) -> Reply:
        await asyncio.sleep(0.1)
        return Reply(200)

    async def measure(clients: int) -> list[Exchange]:
        return await send_in_turn(send, itertools.repeat(b"x"), clients=clients, duration_s=0.95)

    assert len(run_virtually(measure(1))) == 10
    assert len(run_virtually(measure(4))) == 40


@pytest.mark.slow
def test_all_parts_run_against_an_engine_without_a_model(tmp_path: Path) -> None:
    fake = f"{sys.executable} {TESTS / 'serving' / 'fake_server.py'}"
    done = subprocess.run(
        [
            sys.executable, str(SCRIPTS / "bench_serve.py"), "--out", str(tmp_path),
            "--command", f"{fake} --port {{port}} --delay-s 0.1 --slots 2 --queue 8",
            "--contexts", "50", "--steady-s", "2", "--trial-s", "3", "--overload-s", "5",
            "--recovery-s", "6", "--hang-ups", "40", "--deadline-ms", "2000",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    verdicts = report["verdicts"]
    for name in ("stopped_in_order", "steady_without_an_error", "overload_no_crash"):
        assert verdicts[name]
    assert verdicts["overload_only_refusals"] and verdicts["hang_up_no_slot_leaked"]
    # Two slots of a tenth of a second each; a busy machine may make it less.
    assert 2 < report["overload"]["sustainable_qps"] < 20
    flood = report["overload"]["flood"]
    assert flood["offered_qps"] > 3 * report["overload"]["closed_loop_qps"]
    assert flood["errors"]["503 overloaded"] > flood["answered"]
    assert report["hang_up"]["clients"] == 40
