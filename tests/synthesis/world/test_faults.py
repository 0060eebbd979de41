from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    RowPlace,
    Sample,
    canonical_plan,
    check_plan,
    parse_label,
)
from gplan_jax.reasoning import write_trace
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.faults import BROKEN_REASONING, CODES, draw_code, plant_fault
from gplan_jax.synthesis.world.simulation import simulate_contexts

LIBRARY = IntentLibrary.load()
RULES = ServiceRules(LIBRARY)
[CONTEXT] = simulate_contexts(1, count=1)

# Every code that the filter documents, by tier.
DOCUMENTED = {
    "format": {"not_json", "not_a_list", "not_an_object", "too_short", "too_long"},
    "schema": {
        "missing_tool", "unknown_tool", "missing_parameter", "extra_parameter",
        "inadmissible_value",
    },
    "logic": {"unresolved_reference", "exclusive_group", "repeated_intent"},
}  # fmt: skip


def _every_intent() -> list[dict[str, str]]:
    found = []
    for name, tool in LIBRARY.tools.items():
        values = [sorted(LIBRARY.parameters[key].values or {}) for key in tool.parameters]
        for chosen in itertools.product(*values):
            parameters = dict(zip(tool.parameters, chosen, strict=True))
            found.append({LIBRARY.tool_key: name, **parameters})
    return found


EVERY_INTENT = _every_intent()
SIMPLE = [intent for intent in EVERY_INTENT if len(intent) == 1]


def _fits(plan: Plan, intent: dict[str, str]) -> bool:
    """Whether a valid plan stays valid with one more intent, told from the library alone."""
    [group] = LIBRARY.exclusive_groups
    refers = LIBRARY.previous_place in intent.values()
    known = any(LIBRARY.tools[other[LIBRARY.tool_key]].yields_place for other in plan)
    grouped = [other for other in (*plan, intent) if other[LIBRARY.tool_key] in group]
    return intent not in plan and (known or not refers) and len(grouped) <= 1


@st.composite
def _valid_plans(draw: st.DrawFn) -> Plan:
    """Any plan that the library admits, by its rules and not by ours."""
    plan: Plan = []
    for intent in draw(st.lists(st.sampled_from(EVERY_INTENT), max_size=14)):
        if len(plan) < LIBRARY.plan_length.maximum and _fits(plan, intent):
            plan.append(intent)
    for intent in SIMPLE:
        if len(plan) < LIBRARY.plan_length.minimum and _fits(plan, intent):
            plan.append(intent)
    return plan


def test_the_codes_are_those_of_the_filter() -> None:
    assert set(CODES) == set().union(*DOCUMENTED.values())


@given(_valid_plans(), st.booleans())
def test_no_valid_plan_is_removed(plan: Plan, reasoned: bool) -> None:
    reasoning = write_trace(RULES.trace(CONTEXT, plan)) if reasoned else ""
    assert check_plan(reasoning + canonical_plan(plan, LIBRARY), LIBRARY) == []


@given(_valid_plans(), st.sampled_from(sorted(CODES)), st.integers(0, 2**32), st.booleans())
def test_a_planted_fault_is_caught_with_its_code_and_no_other(
    plan: Plan, code: str, seed: int, reasoned: bool
) -> None:
    reasoning = write_trace(RULES.trace(CONTEXT, plan)) if reasoned else ""
    label = reasoning + canonical_plan(plan, LIBRARY)
    faulty = plant_fault(label, code, LIBRARY, random.Random(seed))
    found = check_plan(faulty, LIBRARY)
    assert {violation.code for violation in found} == {code}
    assert {violation.tier for violation in found} == {
        tier for tier, codes in DOCUMENTED.items() if code in codes
    }
    assert faulty.startswith(reasoning)
    assert faulty == plant_fault(label, code, LIBRARY, random.Random(seed))


@given(_valid_plans(), st.integers(0, 99))
def test_broken_reasoning_leaves_a_valid_plan_that_no_label_may_have(plan: Plan, seed: int) -> None:
    label = write_trace(RULES.trace(CONTEXT, plan)) + canonical_plan(plan, LIBRARY)
    row = CONTEXT.with_label(label)
    assert parse_label(row, LIBRARY, RowPlace("x", 1)).text == label
    faulty = plant_fault(label, BROKEN_REASONING, LIBRARY, random.Random(seed))
    assert check_plan(faulty, LIBRARY) == []
    with pytest.raises(RowError, match=r"STEP|step|block"):
        parse_label(row.with_label(faulty), LIBRARY, RowPlace("x", 1))


def test_every_code_is_drawn_as_often_as_it_is_meant_to_be() -> None:
    generator = random.Random(0)
    drawn = Counter(draw_code(generator) for _ in range(20_000))
    weights: dict[str, Any] = {**CODES, BROKEN_REASONING: 4.0}
    for code, weight in weights.items():
        share = weight / sum(weights.values())
        assert drawn[code] / 20_000 == pytest.approx(share, abs=0.01)


def test_what_can_not_be_planted_is_refused() -> None:
    generator = random.Random(0)
    plan = '[{"工具名称":"tool_9"},{"工具名称":"tool_8"},{"工具名称":"tool_6"}]'
    with pytest.raises(GplanError, match="too_odd is no code"):
        plant_fault(plan, "too_odd", LIBRARY, generator)
    with pytest.raises(GplanError, match="no plan"):
        plant_fault("[]", "too_short", LIBRARY, generator)
    with pytest.raises(GplanError, match="no reasoning step"):
        plant_fault(plan, BROKEN_REASONING, LIBRARY, generator)
    bare = LIBRARY.model_copy(update={"exclusive_groups": []})
    with pytest.raises(GplanError, match="exclude each other"):
        plant_fault(plan, "exclusive_group", bare, generator)
    tools = {name: tool for name, tool in LIBRARY.tools.items() if not tool.parameters}
    poor = LIBRARY.model_copy(update={"tools": tools})
    for code in ("missing_parameter", "inadmissible_value"):
        with pytest.raises(GplanError, match="parameter to break"):
            plant_fault(plan, code, poor, generator)
    with pytest.raises(GplanError, match="can refer"):
        plant_fault(plan, "unresolved_reference", poor, generator)


def test_a_plan_without_parameters_gets_an_intent_that_has_one() -> None:
    plan = '[{"工具名称":"tool_9"},{"工具名称":"tool_8"},{"工具名称":"tool_6"}]'
    for code in CODES:
        for seed in range(20):
            faulty = plant_fault(plan, code, LIBRARY, random.Random(seed))
            assert {v.code for v in check_plan(faulty, LIBRARY)} == {code}


def test_samples_stay_samples(library: IntentLibrary) -> None:
    row: Sample = CONTEXT.with_label(RULES.label(CONTEXT))
    faulty = plant_fault(row.raw_labels, "too_short", library, random.Random(1))
    assert row.with_label(faulty).with_label("") == CONTEXT
