from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import islice, pairwise

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import (
    COLUMNS,
    IntentLibrary,
    PromptTemplate,
    RowPlace,
    Sample,
    canonical_plan,
    check_plan,
    facts_of,
    parse_label,
    parse_plan,
)
from gplan_jax.gsisr.behavior import long_term, short_term
from gplan_jax.synthesis.rules import Rules
from gplan_jax.synthesis.situation import situation_of
from gplan_jax.synthesis.world import FIRST_ID, simulate_rows


def test_rows_have_the_public_columns_and_plausible_texts(world_rows: list[Sample]) -> None:
    assert list(world_rows[0].to_dict()) == list(COLUMNS) and len(COLUMNS) == 32
    for row in world_rows:
        now = datetime.fromisoformat(row.currenttime)
        behaviors = short_term(row.short_term_behavior_seq, now)
        assert len(behaviors) == len(row.short_term_behavior_seq.split(", ")) <= 10
        assert all(b.when <= now for b in behaviors)
        assert list(behaviors) == sorted(behaviors, key=lambda b: b.when)
        habits = long_term(row.long_term_behavior)
        assert len(habits) == len(row.long_term_behavior.split(" , "))
        assert [h.count for h in habits] == sorted((h.count for h in habits), reverse=True)
        assert row.profile_feat_7.startswith(row.profile_feat_5)
        assert row.weekendflag == str(int(now.weekday() >= 5))
        assert row.trigger_5 <= row.currenttime


def test_the_same_seed_gives_the_same_rows_and_a_longer_run_starts_with_them(
    world_rows: list[Sample],
) -> None:
    assert list(simulate_rows(40, seed=3)) == world_rows[:40]
    assert list(simulate_rows(40, seed=4)) != world_rows[:40]


def test_rows_come_as_a_stream() -> None:
    assert len(list(islice(simulate_rows(10**12, seed=0), 3))) == 3
    assert list(simulate_rows(0, seed=0)) == []


def test_a_negative_count_is_refused_before_the_first_row() -> None:
    with pytest.raises(GplanError, match="-1"):
        simulate_rows(-1, seed=0)


def test_some_users_return_and_runs_with_ids_apart_share_none(world_rows: list[Sample]) -> None:
    ids = [row.id for row in world_rows]
    assert 0.7 < len(set(ids)) / len(ids) < 0.95
    for one, other in pairwise(world_rows):
        if one.id == other.id:
            assert one.profile_feat_6 == other.profile_feat_6
    others = {row.id for row in simulate_rows(40, seed=3, first_id=FIRST_ID + len(world_rows))}
    assert not others & set(ids)


def test_every_label_is_strict_and_its_plan_passes_the_filter(
    world_rows: list[Sample], library: IntentLibrary
) -> None:
    for i, row in enumerate(world_rows, start=1):
        assert check_plan(row.raw_labels, library) == []
        label = parse_label(row, library, RowPlace("world", i))
        assert label.text == row.raw_labels
        assert label.trace is not None and 3 <= len(label.plan) <= 7


def test_traces_are_those_of_the_rule_teacher(
    world_rows: list[Sample], library: IntentLibrary
) -> None:
    rules = Rules(library)
    for i, row in enumerate(world_rows[:100], start=1):
        label = parse_label(row, library, RowPlace("world", i))
        assert label.trace == rules.trace(row, label.plan)


def test_the_plan_is_a_function_of_the_facts_that_the_trace_names() -> None:
    plans: dict[object, str] = {}
    met_again = 0
    for row in simulate_rows(3000, seed=5):
        plan = canonical_plan(parse_plan(row.raw_labels))
        situation = situation_of(facts_of(row))
        met_again += situation in plans
        assert plans.setdefault(situation, plan) == plan
    assert met_again > 300


def test_no_first_intent_and_no_plan_is_too_common(world_rows: list[Sample]) -> None:
    plans = [parse_plan(row.raw_labels) for row in world_rows]
    first = Counter(canonical_plan(plan[:1]) for plan in plans)
    whole = Counter(canonical_plan(plan) for plan in plans)
    lengths = Counter(map(len, plans))
    assert first.most_common(1)[0][1] < 0.45 * len(plans) and len(first) >= 8
    assert 60 <= len(whole) <= 160 and whole.most_common(1)[0][1] < 0.1 * len(plans)
    assert lengths[4] + lengths[5] + lengths[6] > 0.9 * len(plans)
    assert min(lengths[4], lengths[5], lengths[6]) > 0


def test_first_intents_follow_from_several_facts_together(world_rows: list[Sample]) -> None:
    """No single aspect tells the first intent: the best guess from any one misses often."""
    firsts = [canonical_plan(parse_plan(row.raw_labels)[:1]) for row in world_rows]
    situations = [situation_of(facts_of(row)) for row in world_rows]
    for aspect in ("order", "phase", "place", "region", "day_part", "surroundings"):
        seen: dict[object, Counter[str]] = {}
        for situation, first in zip(situations, firsts, strict=True):
            seen.setdefault(getattr(situation, aspect), Counter())[first] += 1
        right = sum(counts.most_common(1)[0][1] for counts in seen.values())
        assert right < 0.75 * len(firsts), aspect


def test_the_compact_prompt_tells_what_the_plan_depends_on(library: IntentLibrary) -> None:
    """Rows that look alike in the lines a planner needs have the same first intent but for 5%."""
    template = PromptTemplate.load("compact_zh")
    seen: dict[tuple[str, ...], Counter[str]] = {}
    for row in simulate_rows(2500, seed=6):
        lines = dict(line.split(":", 1) for line in template.render(row, library).user.split("\n"))
        at_home = lines["家附近"] == "在家"
        at_work = lines["公司附近"] == "在公司"
        needed = ("时段", "常住城市", "此地", "距订单结束", "距订单开始", "订单地", "订单")
        key = (*(lines[name] for name in needed), str(at_home), str(at_work))
        first = canonical_plan(parse_plan(row.raw_labels)[:1])
        seen.setdefault(key, Counter())[first] += 1
    again = [counts for counts in seen.values() if counts.total() > 1]
    rows = sum(counts.total() - 1 for counts in again)
    agreeing = sum(counts.most_common(1)[0][1] - 1 for counts in again)
    assert rows > 100 and agreeing > 0.95 * rows
