"""Figures of a load run: exact quantiles, goodput, errors by kind, and warnings that fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.tables import plain_text
from gplan_jax.serving.latency.latency_report import (
    latency_table,
    server_table,
    spread,
    summarize,
    waiting_table,
    warning_lines,
)
from gplan_jax.serving.latency.load_generator import Exchange

USAGE = {"passes": 9, "response_tokens": 105, "prompt_tokens": 1600, "cached_tokens": 1200}


def answered(intended_s: float, latency_ms: float, *, lag_ms: float = 0.0) -> Exchange:
    return Exchange(
        intended_s,
        intended_s + lag_ms / 1e3,
        intended_s + latency_ms / 1e3,
        200,
        timings_ms={"queue": 1.0, "prefill": 2.0, "decode": latency_ms - 3.0, "total": latency_ms},
        usage=USAGE,
        passed=latency_ms < 300,
    )


def failed(intended_s: float, status: int, problem: str, *, after_ms: float = 1.0) -> Exchange:
    return Exchange(intended_s, intended_s, intended_s + after_ms / 1e3, status, problem)


def steady(latencies_ms: Sequence[float]) -> list[Exchange]:
    return [answered(0.1 * i, latency) for i, latency in enumerate(latencies_ms)]


class TestSpread:
    @given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
    def test_quantiles_are_those_of_the_sorted_values(self, values: list[float]) -> None:
        found = spread(values)
        assert found
        ordered = sorted(values)
        for name, level in (("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99")):
            # Hyndman and Fan's type 7, in exact fractions.
            place = Fraction(level) * (len(values) - 1)
            low = int(place)
            high = min(low + 1, len(values) - 1)
            step = (Fraction(ordered[high]) - Fraction(ordered[low])) * (place - low)
            expected = float(Fraction(ordered[low]) + step)
            assert found[name] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            assert found[name] == pytest.approx(float(np.quantile(values, float(level))))
        assert found["mean"] == pytest.approx(sum(map(Fraction, values)) / len(values))
        assert found["max"] == ordered[-1]

    def test_nothing_has_no_spread(self) -> None:
        assert spread([]) is None


class TestSummarize:
    def test_counts_errors_by_status_and_code_and_leaves_them_out_of_the_latencies(self) -> None:
        exchanges = [
            answered(0.0, 100),
            failed(0.1, 503, "overloaded", after_ms=2),
            failed(0.2, 503, "overloaded", after_ms=4),
            failed(0.3, 504, "deadline", after_ms=900),
            failed(0.4, 0, "ReadTimeout", after_ms=60_000),
            answered(0.5, 300),
        ]
        summary = summarize(exchanges, duration_s=2.0)
        assert summary["requests"] == 6
        assert summary["answered"] == 2
        assert summary["offered_qps"] == 3.0
        assert summary["errors"] == {"503 overloaded": 2, "504 deadline": 1, "ReadTimeout": 1}
        assert summary["latency_ms"]["mean"] == pytest.approx(200)
        assert summary["refused_ms"]["mean"] == pytest.approx(3)
        assert summary["tail_s"] == pytest.approx(59.9)
        assert summary["passed_share"] == 0.5
        assert json.loads(json.dumps(summary)) == summary

    @given(
        latencies=st.lists(st.floats(3, 1000), min_size=1, max_size=60),
        deadline_ms=st.floats(1, 1200),
    )
    def test_goodput_is_what_meets_the_deadline(
        self, latencies: list[float], deadline_ms: float
    ) -> None:
        exchanges = [*steady(latencies), failed(99.0, 503, "overloaded")]
        goodput = summarize(exchanges, duration_s=10.0, deadline_ms=deadline_ms)["goodput"]
        within = sum(exchange.latency_ms <= deadline_ms for exchange in exchanges[:-1])
        assert goodput["within"] == within
        assert goodput["qps"] == pytest.approx(within / 10)
        assert goodput["share"] == pytest.approx(within / len(exchanges))

    def test_the_server_s_own_figures_are_means_of_the_answered(self) -> None:
        summary = summarize(steady([100, 200]), duration_s=1.0)
        assert summary["usage"] == USAGE
        assert summary["cached_share"] == 0.75
        assert summary["server_ms"]["decode"]["mean"] == pytest.approx(147)
        assert summary["server_ms"]["queue"]["max"] == 1.0

    def test_a_run_without_any_answer_has_no_figures_but_its_errors(self) -> None:
        summary = summarize([failed(0.0, 503, "starting")], duration_s=1.0, deadline_ms=100)
        assert summary["latency_ms"] is None
        assert summary["usage"] == {}
        assert summary["goodput"]["qps"] == 0
        assert plain_text(waiting_table({"run": summary}))
        assert plain_text(server_table({"run": summary}))
        assert plain_text(latency_table({"picd": {"10": summary}}))

    def test_a_run_that_met_no_arrival_is_no_fault(self) -> None:
        summary = summarize([], duration_s=0.1)
        assert (summary["requests"], summary["latency_ms"], summary["warnings"]) == (0, None, {})


class TestWarnings:
    def test_a_good_run_has_none(self) -> None:
        assert summarize(steady([100.0] * 500), duration_s=50)["warnings"] == {}

    def test_lag_is_told_where_it_matters_for_the_latencies(self) -> None:
        late = [answered(0.1 * i, 100, lag_ms=30.0) for i in range(500)]
        assert summarize(late, duration_s=50)["warnings"] == {"lag": "30 ms"}
        slow = [answered(0.1 * i, 1000, lag_ms=30.0) for i in range(500)]
        assert summarize(slow, duration_s=50)["warnings"] == {}
        fast = [answered(0.1 * i, 10, lag_ms=4.0) for i in range(500)]
        assert summarize(fast, duration_s=50)["warnings"] == {}

    def test_a_p99_of_few_answers_is_told(self) -> None:
        assert summarize(steady([100.0] * 120), duration_s=12)["warnings"] == {"few": "120"}

    def test_a_queue_that_grows_is_told(self) -> None:
        # Medians of the first and the last 125 of 500 latencies that rise evenly.
        rising = summarize(steady(list(np.linspace(1000, 5992, 500))), duration_s=50)
        first, last = 1000 + 62 * 4992 / 499, 1000 + (375 + 62) * 4992 / 499
        assert rising["warnings"] == {"growth": f"{first:.0f} to {last:.0f} ms"}
        noisy = np.random.default_rng(0).exponential(100.0, 2000) + 10
        assert summarize(steady(list(noisy)), duration_s=200)["warnings"] == {}


class TestTables:
    def test_table_5_has_a_row_a_model_and_the_paper_s_way_to_write_times(self) -> None:
        runs = {
            "direct": {"10": summarize(steady([299.0] * 3), duration_s=1)},
            "cot": {"10": summarize(steady([1060.0] * 3), duration_s=1)},
            "picd": {"10": summarize(steady([36.6] * 3), duration_s=1)},
        }
        lines = plain_text(latency_table(runs, title="Response times")).splitlines()
        [direct], [cot], [picd] = ([x for x in lines if name in x] for name in runs)
        assert "299 ms" in direct and "100.0%" in direct
        assert "1.06 s" in cot
        assert "37 ms, 37 ms" in picd
        assert any("10 QPS" in line for line in lines)

    def test_every_run_has_its_waits_and_what_the_server_says(self) -> None:
        run = summarize([*steady([40.0] * 3), failed(1, 503, "x")], duration_s=2)
        [waits] = [x for x in plain_text(waiting_table({"picd": run})).splitlines() if "picd" in x]
        assert waits.split() == ["picd", "4", "25.0%", "40.0", "40.0", "40.0", "40.0", "1.5", "0.0"]
        [server] = [x for x in plain_text(server_table({"picd": run})).splitlines() if "picd" in x]
        assert server.split() == ["picd", "1.0", "2.0", "37.0", "9.0", "–", "75.0%"]

    def test_errors_and_warnings_are_listed_below(self) -> None:
        full = summarize([*steady([100.0] * 3), failed(1, 503, "overloaded")], duration_s=1)
        short = summarize(steady([100.0] * 4), duration_s=1)
        lines = [str(line) for line in warning_lines({"picd": full, "direct": short})]
        assert lines[0] == "picd: not answered: 1 x 503 overloaded"
        assert lines[1].startswith("picd (3); direct (4): So few answers")
        assert len(lines) == 2
