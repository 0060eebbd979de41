"""The made-up log: the same arguments give the same bytes, and every rule finds something in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, check_plan, facts_of, long_term, read_samples, short_term
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.triggers.example_log import (
    EVENTS_FILE,
    RULES_FILE,
    USERS_FILE,
    write_example_log,
)
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec, load_triggers

FILES = (EVENTS_FILE, USERS_FILE, RULES_FILE)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_example_log(tmp_path / name, 5, seed=1)
    more = write_example_log(tmp_path / "more", 9, seed=1)
    for name in FILES:
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "more" / name).read_bytes().startswith(first)
    assert more == len((tmp_path / "more" / EVENTS_FILE).read_text().splitlines()) - 1
    write_example_log(tmp_path / "other", 5, seed=2)
    other = (tmp_path / "other" / EVENTS_FILE).read_bytes()
    assert other != (tmp_path / "a" / EVENTS_FILE).read_bytes()


def test_the_written_rules_are_the_shipped_ones(tmp_path: Path, spec: TriggerSpec) -> None:
    write_example_log(tmp_path / "logs", 1)
    assert load_triggers(tmp_path / "logs" / RULES_FILE) == spec


def test_nothing_is_overwritten_and_nobody_is_no_example(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="needs at least 1"):
        write_example_log(tmp_path / "none", 0)
    write_example_log(tmp_path / "logs", 1)
    with pytest.raises(GplanError, match="never overwritten"):
        write_example_log(tmp_path / "logs", 1)


def test_every_rule_finds_moments_and_the_rules_teacher_plans_for_each(
    tmp_path: Path, spec: TriggerSpec, library: IntentLibrary
) -> None:
    pytest.importorskip("duckdb")
    from gplan_jax.synthesis.triggers.write_contexts import write_contexts

    logs, out = tmp_path / "logs", tmp_path / "contexts.csv"
    write_example_log(logs, 150)
    report = write_contexts([logs / EVENTS_FILE], out, spec, users=logs / USERS_FILE)
    assert {name for name, count in report.moments.rows.items() if count} == set(spec.rules)
    teacher, kinds, localities = ServiceRules(library), set(), set()
    for row in read_samples(out):
        assert row.raw_labels == ""
        facts = facts_of(row)
        kinds.add(facts.order_distance)
        entries = short_term(row.short_term_behavior_seq, facts.now)
        assert len(entries) == row.short_term_behavior_seq.count("位于")
        assert len(long_term(row.long_term_behavior)) == row.long_term_behavior.count("次")
        localities |= {entry.locality for entry in entries}
        assert check_plan(teacher.label(row), library) == []
    assert kinds == {"here", "district", "city", "elsewhere"}
    assert localities == {"本地", "异地行前", "异地行中", "未知地点"}
