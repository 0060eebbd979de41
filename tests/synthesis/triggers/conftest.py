"""The shipped rules, and events told in few words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from gplan_jax.gsisr import Sample
from gplan_jax.synthesis.triggers.trigger_search import MomentCounts, find_contexts
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec, load_triggers
from gplan_jax.synthesis.triggers.user_memory import LogEvent

MONDAY = datetime(2026, 3, 2)
MakeEvent = Callable[..., LogEvent]
Search = Callable[..., list[Sample]]


@pytest.fixture(scope="session")
def spec() -> TriggerSpec:
    return load_triggers()


@pytest.fixture(scope="session")
def at() -> MakeEvent:
    """An event ``hours`` after the first Monday of March 2026, midnight."""

    def event(hours: float, word: str, place: str = "", city: str = "", **more: Any) -> LogEvent:
        where = {"district": "一区" if city else "", "category": "商场" if place else ""}
        when = MONDAY + timedelta(hours=hours)
        return LogEvent("u1", when, word, place=place, city=city, **(where | more))

    return event


@pytest.fixture(scope="session")
def search() -> Search:
    """The rows of one user who lives in 甲市, where nothing else is told."""

    def rows(
        events: Iterable[LogEvent],
        spec: TriggerSpec,
        profile: dict[str, str] | None = None,
        counts: MomentCounts | None = None,
    ) -> list[Sample]:
        home = {"home_city": "甲市", "home_district": "一区", "home_place": "home"}
        known = home if profile is None else profile
        return list(find_contexts(events, known, spec, counts or MomentCounts()))

    return rows
