from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import IntentLibrary, Plan, canonical_plan, parse_plan

FOOD = {"工具名称": "tool_7", "tag": "美食"}
WEATHER = {"工具名称": "tool_9"}
TWO = '[{"工具名称":"tool_7","tag":"美食"},{"工具名称":"tool_9"}]'

intents = st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=3).flatmap(
    lambda extra: st.text(max_size=6).map(lambda tool: extra | {"工具名称": tool})
)


@given(st.lists(intents, max_size=6))
def test_a_canonical_plan_reads_back(plan: Plan) -> None:
    text = canonical_plan(plan)
    assert parse_plan(text) == plan
    assert canonical_plan(parse_plan(text)) == text


@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert isinstance(parse_plan(text), list)


def test_golden_plans(shared: Path) -> None:
    lines = (shared / "golden/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 300
    for row in map(json.loads, lines):
        assert parse_plan(row["pred"]) == row["pred_plan"]


@pytest.mark.parametrize(
    "text",
    [
        TWO,
        json.dumps(json.loads(TWO), indent=1),
        f"```json\n{TWO}\n```",
        f"好的，这是计划：{TWO}。祝您愉快！",
        f"共[2]步，见[下]：{TWO}",
        f"{TWO}{TWO}",
        f"{TWO}<|im_end|>",
        TWO[:-1] + ",]",
        TWO[:-1] + ',{"工具名称":"tool_1","起始',
        TWO[:-1] + ',{"工具名称":"tool_1"',
        TWO[:-1] + ",]" + TWO,
        f'{{"计划":{TWO}}}',
        f"<THOUGHT><CONTEXT>[{{}}]</CONTEXT></THOUGHT>{TWO}",
        f'<THOUGHT>[{{"工具名称":"tool_1"}}]</THOUGHT>{TWO}',
        '[1,{"工具名称":"tool_7","tag":"美食"},"x",{"工具名称":"tool_9"}]',
        '[{"tag":"美食","工具名称":"tool_7"},{"工具名称":"tool_9"}]',
    ],
)
def test_one_plan_in_many_guises(text: str) -> None:
    assert parse_plan(text) == [FOOD, WEATHER]
    assert canonical_plan(parse_plan(text)) == TWO


def test_a_single_object_is_a_plan_of_one() -> None:
    assert parse_plan('{"工具名称":"tool_9"}') == [WEATHER]


@pytest.mark.parametrize(
    "text", ["", "对不起，我无法规划。", "[]", "[1,2]", "{}", '{"tool":"x"}', '[{"工具', "[" * 5000]
)
def test_no_plan_is_an_empty_one(text: str) -> None:
    assert parse_plan(text) == []


def test_values_become_text() -> None:
    (intent,) = parse_plan('[{"工具名称":"tool_1","n":3,"ok":true,"none":null,"l":["家"]}]')
    assert intent == {"工具名称": "tool_1", "n": "3", "ok": "true", "none": "null", "l": '["家"]'}


def test_keys_are_written_in_the_order_of_the_library(english: IntentLibrary) -> None:
    plan = [{"note": "n", "extra": "e", "target": "library", "action": "walk"}]
    text = '[{"action":"walk","target":"library","note":"n","extra":"e"}]'
    assert canonical_plan(plan, english) == text
    assert list(parse_plan(text, english)[0]) == ["action", "target", "note", "extra"]


def test_another_library_names_its_tools_by_another_key(english: IntentLibrary) -> None:
    text = 'Sure: [{"action":"rest"}]'
    assert parse_plan(text, english) == [{"action": "rest"}]
    assert parse_plan(text) == []


def test_half_a_character_in_a_plan_can_be_written(amap: IntentLibrary) -> None:
    key = amap.tool_key
    plan = parse_plan(rf'[{{"{key}": "\ud83d", "\ude00": 1}}]', amap)
    assert plan == [{key: "\ufffd", "\ufffd": "1"}]
    canonical_plan(plan, amap).encode()
