"""bench_peers.py: what is counted of two servers' answers, and how a server is asked."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gplan_jax.gsisr import IntentLibrary

TESTS = Path(__file__).resolve().parents[1]
TOOLS = '[{"工具名称":"tool_%d"},{"工具名称":"tool_%d"},{"工具名称":"tool_%d"}]'
PLAN, OTHER, TWICE = TOOLS % (8, 9, 10), TOOLS % (9, 8, 10), TOOLS % (8, 8, 10)


def found(alone: list[Any], passes: float | None) -> dict[str, Any]:
    return {
        "answers": {"alone": alone, "qps": alone[:1]},
        "passes": {"alone": passes, "qps": passes},
    }


def test_equal_plans_and_broken_rules_are_counted_among_what_both_answered() -> None:
    from bench_peers import Answer, figures

    ours = [Answer(f"x{PLAN}", 10, 5.0), *[Answer(PLAN, 10, 5.0)] * 3, Answer("", 0, 1.0, "503")]
    theirs = [
        Answer(PLAN, 30, 40.0),
        Answer(OTHER, 30, 60.0),
        Answer(TWICE, 60, 80.0),
        Answer("", 0, 9.0, "400 no"),
        Answer(PLAN, 40, 20.0),
    ]
    prompts: Any = SimpleNamespace(library=IntentLibrary.load())
    report = figures(found(theirs, None), found(ours, 3.0), prompts)["alone"]
    assert report == {
        "plans": 5, "problems": ["400 no"], "answered": 4, "ms": {"p50": 50.0, "p99": 79.4},
        "tokens": 40.0, "passes": 40.0, "same_text": 0, "same_plan": 1, "compared": 3,
        "break_a_rule": 1,
    }  # fmt: skip
    assert figures(found(ours, 3.0), found(ours, 3.0), prompts)["alone"]["passes"] == 3.0


def test_a_server_is_asked_one_at_a_time_and_at_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "serving"))  # whose modules import each other
    from apps import running
    from bench_peers import COMPLETIONS, Wire, ask
    from fake_engine import TEXT, FakeEngine

    options = argparse.Namespace(qps=40.0, seconds=0.5, seed=0, warmup=2, plans=5)
    engine = FakeEngine(delay_s=0.02)
    body = json.dumps({"model": "planner", "prompt": [1, 2]}).encode()
    wire = Wire(COMPLETIONS, [body] * 100, lambda a: (a["choices"][0]["text"], 7))
    with running(engine, model="planner") as server:
        answers = asyncio.run(ask(server.url, wire, "fake", options))
        alone, at_rate = answers["answers"]["alone"], answers["answers"]["qps"]
        assert len(alone) == 5 and 10 < len(at_rate) < 35
        assert len(engine.requests) == 2 + 5 + len(at_rate)
        assert {answer.text for answer in alone + at_rate} == {TEXT}
        assert all(answer.milliseconds >= 20 for answer in alone + at_rate)
        assert answers["passes"] == {"alone": 5.0, "qps": 5.0}
        wrong = Wire(COMPLETIONS, [b'{"model": "planer", "prompt": [1]}'] * 9, wire.read)
        with pytest.raises(SystemExit, match="fake answers the first requests with 404"):
            asyncio.run(ask(server.url, wrong, "fake", options))
