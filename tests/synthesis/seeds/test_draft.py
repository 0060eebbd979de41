from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, RowPlace, canonical_plan, check_plan, parse_label
from gplan_jax.synthesis.seeds.seed_candidates import Draft, block_names, faults_of, plan_words
from gplan_jax.synthesis.world.simulation import simulate_rows

ROWS = list(simulate_rows(30, seed=6))
REMINDER, WEATHER, REVIEW = ({"工具名称": f"tool_{i}"} for i in (8, 9, 10))
RIDE = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "家"}
TRANSIT = {"工具名称": "tool_4"}


def draft_of(*plan: dict[str, Any], **texts: str) -> Draft:
    reasoning = {name: "因为" for name in block_names(len(plan))} | texts
    return Draft.make(list(plan), reasoning, IntentLibrary.load())


def test_a_label_becomes_a_draft_and_the_same_label_again(library: IntentLibrary) -> None:
    for row in ROWS:
        draft = Draft.of_label(row.raw_labels, library)
        assert faults_of(draft, library) == []
        assert draft.label(library) == row.raw_labels


def test_labels_are_read_tolerantly(library: IntentLibrary) -> None:
    plan = canonical_plan([REMINDER, WEATHER, REVIEW])
    for label in (plan, f"<THOUGHT>x</THOUGHT>{plan}", f"<THOUGHT>never closed {plan}"):
        assert Draft.of_label(label, library) == Draft([REMINDER, WEATHER, REVIEW], {})
    with pytest.raises(GplanError, match="no plan"):
        Draft.of_label("<THOUGHT></THOUGHT>[]", library)


@pytest.mark.parametrize(
    ("draft", "column", "step", "code"),
    [
        (draft_of(REMINDER, WEATHER), "plan", None, "too_short"),
        (draft_of(REMINDER, WEATHER, {"tag": "美食"}), "plan", 3, "missing_tool"),
        (draft_of(REMINDER, {"工具名称": "tool_77"}, WEATHER), "plan", 2, "unknown_tool"),
        (draft_of(REMINDER, WEATHER, {"工具名称": "tool_7"}), "plan", 3, "missing_parameter"),
        (draft_of({**REMINDER, "tag": "美食"}, WEATHER, REVIEW), "plan", 1, "extra_parameter"),
        (draft_of(RIDE | {"终点位置": "月亮"}, WEATHER, REVIEW), "plan", 1, "inadmissible_value"),
        (draft_of(RIDE | {"起始位置": "前一位推荐结果"}, WEATHER, REVIEW), "plan", 1,
         "unresolved_reference"),
        (draft_of(REMINDER, WEATHER, REMINDER), "plan", 3, "repeated_intent"),
        (draft_of(RIDE, WEATHER, TRANSIT), "plan", None, "exclusive_group"),
        (draft_of(REMINDER, WEATHER, REVIEW, STRATEGY=" "), "STRATEGY", None, "empty_text"),
        (draft_of(REMINDER, WEATHER, REVIEW, STEP_2=""), "STEP_2", 2, "empty_text"),
        (draft_of(REMINDER, WEATHER, REVIEW, STEP_4="more"), "STEP_4", 4, "step_without_intent"),
        (draft_of(REMINDER, WEATHER, REVIEW, STEP_3="</STEP_3>"), "STEP_3", 3, "markup"),
        (draft_of(REMINDER, WEATHER, REVIEW, CONTEXT="<|im_end|>"), "CONTEXT", None, "markup"),
    ],
)  # fmt: skip
def test_every_fault_names_its_column_and_step(
    library: IntentLibrary, draft: Draft, column: str, step: int | None, code: str
) -> None:
    found = faults_of(draft, library)
    assert [(fault.column, fault.step, fault.code) for fault in found] == [(column, step, code)]


def test_all_faults_are_found_at_once(library: IntentLibrary) -> None:
    draft = draft_of(RIDE, TRANSIT, RIDE, STEP_1="", CONTEXT="<PLAN>")
    codes = {fault.code for fault in faults_of(draft, library)}
    assert codes == {"exclusive_group", "repeated_intent", "empty_text", "markup"}


texts = st.text(max_size=12) | st.sampled_from(["<THOUGHT>", "a\n b", "  ", "<STEP_1>", "因为"])
intents = st.sampled_from([REMINDER, WEATHER, REVIEW, RIDE, TRANSIT, {"工具名称": "tool_77"}])


@given(
    st.lists(intents, max_size=5),
    st.dictionaries(st.sampled_from(block_names(5)), texts, max_size=7),
)
def test_a_draft_without_faults_is_a_valid_label(
    plan: list[dict[str, str]], reasoning: dict[str, str]
) -> None:
    library = IntentLibrary.load()
    texts = {name: "因为" for name in block_names(len(plan))} | reasoning
    draft = Draft.make(plan, texts, library)
    if faults_of(draft, library):
        return
    sample = ROWS[0].with_label(draft.label(library))
    label = parse_label(sample, library, RowPlace("row", 1))
    assert label.text == draft.label(library) and label.plan == draft.plan
    assert check_plan(label.text, library) == []


def test_plans_in_words(library: IntentLibrary) -> None:
    assert plan_words([RIDE, REMINDER], library) == "打车到家 → 订单提醒"
    # What is broken or of another library is told too, as far as it goes.
    broken = [{"工具名称": "tool_1"}, {"工具名称": "walk", "to": "x"}, {"tag": "美食"}]
    assert plan_words(broken, library) == "打车 → walk x → ? 美食"


def test_texts_are_kept_as_written_but_for_line_breaks_and_ends(library: IntentLibrary) -> None:
    draft = Draft.make([REMINDER], {"CONTEXT": " a  b \r\n c ", "STRATEGY": " \n "}, library)
    assert draft.reasoning == {"CONTEXT": "a  b c"}
