from __future__ import annotations

import hashlib
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
from gplan_jax.gsisr.facts import long_term, short_term
from gplan_jax.synthesis.world.geography import is_open
from gplan_jax.synthesis.world.simulation import (
    FIRST_ID,
    simulate_contexts,
    simulate_rows,
)
from tests.gsisr.amap_intents import ARRIVAL_CARD, simple
from tests.synthesis.situations import AMAP, OF_COLUMNS, told_in

HABITUAL = AMAP.file.words.habitual


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
        assert row.weekendflag == str(int(now.weekday() >= 5))
        assert row.trigger_5 <= row.currenttime
        assert not row.trigger_7 or row.trigger_6 < row.trigger_7
        for column in ("profile_feat_6", "profile_feat_8", "current_poi_name", "trigger_4"):
            assert not getattr(row, column) or getattr(row, column).startswith("p_9")
        for place, area in (
            ("profile_feat_6", "profile_feat_7"),
            ("profile_feat_8", "profile_feat_9"),
        ):
            assert bool(getattr(row, place)) is bool(getattr(row, area))


def test_columns_are_empty_as_often_as_the_public_rows(world_rows: list[Sample]) -> None:
    def empty(column: str) -> float:
        return sum(not getattr(row, column) for row in world_rows) / len(world_rows)

    # Shares of the 703 public rows.
    for column, share in {
        "profile_feat_1": 0.07, "profile_feat_3": 0.19, "profile_feat_6": 0.07,
        "profile_feat_8": 0.10, "profile_feat_11": 0.25, "profile_feat_13": 0.13,
        "profile_feat_14": 0.26, "trigger_5": 0.155, "trigger_7": 0.27, "current_tag": 0.0,
    }.items():  # fmt: skip
        assert empty(column) == pytest.approx(share, abs=0.05), column


def test_nobody_is_where_it_is_closed(world_rows: list[Sample]) -> None:
    for row in world_rows:
        facts = facts_of(row)
        if facts.order_distance != "here" and not (facts.at_home or facts.at_work):
            assert is_open(facts.place_kind, facts.hour), row


def test_an_order_is_looked_at_when_it_is_made(world_rows: list[Sample]) -> None:
    """Where the history shows the order being made, it is in the hour in which it was made."""
    seen = 0
    for row in world_rows:
        now = datetime.fromisoformat(row.currenttime)
        if not row.trigger_5:
            continue
        made = datetime.fromisoformat(row.trigger_5).replace(minute=0, second=0)
        ordering = [
            b.when
            for b in short_term(row.short_term_behavior_seq, now)
            if b.place == row.trigger_4 and "act_5" in b.actions
        ]
        seen += bool(ordering)
        assert not ordering or made in ordering
    assert seen > 0.6 * len(world_rows)


def test_the_same_seed_gives_the_same_rows_and_a_longer_run_starts_with_them(
    world_rows: list[Sample],
) -> None:
    assert list(simulate_rows(40, seed=3)) == world_rows[:40]
    assert list(simulate_rows(40, seed=4)) != world_rows[:40]


def test_rows_come_as_a_stream() -> None:
    assert len(list(islice(simulate_rows(10**12, seed=0), 3))) == 3
    assert list(simulate_rows(0, seed=0)) == []


def test_contexts_are_the_rows_without_labels(world_rows: list[Sample]) -> None:
    endless = list(islice(simulate_contexts(3), 40))
    assert endless == [row.with_label("") for row in world_rows[:40]]
    assert list(simulate_contexts(3, count=40)) == endless
    others = simulate_contexts(3, first_id=FIRST_ID + 1000, count=5)
    assert next(row.id for row in others) == str(FIRST_ID + 1000)
    with pytest.raises(GplanError, match="-3"):
        simulate_contexts(0, count=-3)


def test_a_negative_count_is_refused_before_the_first_row() -> None:
    with pytest.raises(GplanError, match="-1"):
        simulate_rows(-1, seed=0)


def test_some_users_return_and_runs_with_ids_apart_share_none(world_rows: list[Sample]) -> None:
    remembered = 0
    ids = [row.id for row in world_rows]
    assert 0.7 < len(set(ids)) / len(ids) < 0.95
    for one, other in pairwise(world_rows):
        if one.id == other.id:
            assert one.profile_feat_6 == other.profile_feat_6
            assert one.long_term_behavior == other.long_term_behavior
            assert one.currenttime < other.currenttime
            # Some of what was done before is remembered.
            remembered += bool(
                {*one.short_term_behavior_seq.split(", ")}
                & {*other.short_term_behavior_seq.split(", ")}
            )
    assert remembered > 50
    others = {row.id for row in simulate_rows(40, seed=3, first_id=FIRST_ID + len(world_rows))}
    assert not others & set(ids)


def test_every_label_is_strict_and_its_plan_passes_the_filter(
    world_rows: list[Sample], library: IntentLibrary
) -> None:
    for i, row in enumerate(world_rows, start=1):
        assert check_plan(row.raw_labels, library) == []
        label = parse_label(row, library, RowPlace("world", i))
        assert label.text == row.raw_labels
        assert label.trace is not None and 4 <= len(label.plan) <= 6


def test_traces_are_those_of_the_rule_teacher(
    world_rows: list[Sample], library: IntentLibrary
) -> None:
    for i, row in enumerate(world_rows[:100], start=1):
        label = parse_label(row, library, RowPlace("world", i))
        assert label.trace == AMAP.trace(row, label.plan)


def test_plans_and_reasons_stay_as_they_are(world_rows: list[Sample]) -> None:
    """Figures in docs, and models that were trained, are of these rows."""
    texts = "\n".join(row.raw_labels for row in world_rows).encode()
    found = hashlib.sha256(texts).hexdigest()
    assert found == "c26e387c243cbfa2763e0be2cf8294e7d701bb1e4aac30555b841d2b7aa119ce"


def test_the_plan_is_a_function_of_the_facts_that_the_trace_names_and_the_taste(
    world_rows: list[Sample],
) -> None:
    met_again = 0
    plans: dict[object, set[str]] = {}
    for row in world_rows:
        plan, known = parse_plan(row.raw_labels), AMAP.tell(row).known
        aspects = {name: known[name] for name in OF_COLUMNS}
        told = told_in(row.trigger_1, known["history"], **aspects)
        assert plan == AMAP.plan(told, AMAP.taste(row))
        key = (row.trigger_1, *aspects.values())
        met_again += key in plans
        plans.setdefault(key, set()).add(canonical_plan(plan))
        # What opens it is among what the facts support.
        supported = AMAP.openings(told)
        assert any(plan[: len(opening)] == opening for opening, _ in supported)
        for start in range(len(plan)):
            place = {"当前位置", "订单目的地", "前一位推荐结果"}
            assert {plan[start].get("起始位置", "当前位置")} <= place
    assert met_again > 300
    # The taste is seen: users in one situation don't all get one plan.
    assert sum(len(found) > 1 for found in plans.values()) > 100


def test_every_intent_is_supported_or_called_habitual_and_few_are(
    world_rows: list[Sample],
) -> None:
    habitual = intents = 0
    for row in world_rows:
        told = AMAP.tell(row)
        plan = parse_plan(row.raw_labels)
        intents += len(plan)
        for i, intent in enumerate(plan):
            said = row.raw_labels.split(f"<STEP_{i + 1}>")[1].split("</STEP")[0]
            supported = bool(AMAP.reasons(intent, told) or AMAP.link(intent, plan[:i]))
            assert (HABITUAL in said) is not supported
            habitual += not supported
    assert habitual < 0.02 * intents


def test_lengths_and_first_intents_are_as_in_the_public_rows(world_rows: list[Sample]) -> None:
    plans = [parse_plan(row.raw_labels) for row in world_rows]
    first = Counter(canonical_plan(plan[:1]) for plan in plans)
    lengths = Counter(map(len, plans))
    # Of the 703 public rows: 0.61, 0.385, 0.004; 0.376 by ride to the order, 0.269 the card.
    assert lengths[4] / len(plans) == pytest.approx(0.61, abs=0.04)
    assert lengths[5] / len(plans) == pytest.approx(0.385, abs=0.04)
    assert 0 < lengths[6] < 0.03 * len(plans)
    assert first.most_common(1)[0][1] / len(plans) == pytest.approx(0.376, abs=0.05)
    assert first[canonical_plan([simple(ARRIVAL_CARD)])] / len(plans) == pytest.approx(
        0.269, abs=0.04
    )
    assert len(first) >= 10


def test_first_intents_follow_from_several_facts_together(world_rows: list[Sample]) -> None:
    """No single aspect tells the first intent: the best guess from any one misses often."""
    firsts = [canonical_plan(parse_plan(row.raw_labels)[:1]) for row in world_rows]
    situations = [AMAP.tell(row).known for row in world_rows]
    for aspect in ("order_type", "phase", "place", "region", "day_part", "surroundings"):
        seen: dict[object, Counter[str]] = {}
        for known, first in zip(situations, firsts, strict=True):
            seen.setdefault(known[aspect], Counter())[first] += 1
        right = sum(counts.most_common(1)[0][1] for counts in seen.values())
        assert right < 0.75 * len(firsts), aspect


def test_the_compact_prompt_tells_what_the_first_intent_depends_on(
    library: IntentLibrary,
) -> None:
    """Rows that look alike in the lines a planner needs open alike, but for their users' tastes."""
    template = PromptTemplate.load("compact_zh")
    seen: dict[tuple[str, ...], Counter[str]] = {}
    for row in simulate_rows(3000, seed=6):
        lines = dict(line.split(":", 1) for line in template.render(row, library).user.split("\n"))
        needed = ("常住城市", "此地", "距订单开始", "订单地", "订单", "另看", "看过订单地")
        key = (*(lines[name] for name in needed), lines["时段"][:2])
        first = canonical_plan(parse_plan(row.raw_labels)[:1])
        seen.setdefault(key, Counter())[first] += 1
    again = [counts for counts in seen.values() if counts.total() > 1]
    rows = sum(counts.total() - 1 for counts in again)
    agreeing = sum(counts.most_common(1)[0][1] - 1 for counts in again)
    assert rows > 500 and agreeing > 0.7 * rows
