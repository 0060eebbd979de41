"""Patterns and conditions by hand, and the faults of a rule file by their lines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Service
from gplan_jax.gsisr.row_form import SERVICES
from gplan_jax.synthesis.rules.rule_file import holds, matches
from gplan_jax.synthesis.rules.service_rules import ServiceRules

RIDE = {"tool": "ride", "to": "home"}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ({}, True),
        ({"tool": "ride"}, True),
        ({"tool": ["walk", "ride"], "to": "any"}, True),
        ({"tool": "ride", "to": "work"}, False),
        ({"from": "any"}, False),
        ({"from": "absent"}, True),
        ({"from": ["here", "absent"]}, True),
        ({"to": ["here", "absent"]}, False),
        ({"to": {"not": "work"}, "from": {"not": "here"}}, True),
        ({"to": {"not": ["home", "work"]}}, False),
    ],
)
def test_patterns(pattern: dict[str, Any], found: bool) -> None:
    assert matches(pattern, RIDE) is found


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({}, True),
        ([{"hour": 7}, {"hour": 8}], True),
        ({"hour": {"least": 8, "below": 9}, "place": None}, True),
        ({"hour": {"above": 8}}, False),
        ({"place": {"not": None}}, False),
        ({"place": {"least": 1}}, False),
        ({"history": {"words": ["cafe"]}}, True),
        ({"history": {"words": ["bar", "cafe"], "least": 3}}, True),
        ({"history": {"words": ["bar", "cafe"], "least": 4}}, False),
        ({"history": {"words": ["cinema"], "most": 0}}, False),  # at least one is asked for
        ({"history": {"words": ["cinema"], "least": 0}}, True),
        ({"has": {"tool": "ride"}}, True),
        ({"has": [{"tool": "ride"}, {"tool": "food"}]}, True),
        ({"has": [{"tool": "ride"}, {"tool": "walk"}]}, False),
        ({"lacks": [{"tool": "walk"}, {"to": "work"}]}, True),
        ({"lacks": [{"tool": "walk"}, {"tool": "food"}]}, False),
        ({"first": {"tool": "ride"}}, True),
        ({"first": {"tool": "food"}}, False),
    ],
)
def test_conditions(condition: Any, found: bool) -> None:
    known = {"hour": 8, "place": None, "history": "a cafe, a bar, a cafe"}
    assert holds(condition, known | {"plan": [RIDE, {"tool": "food"}]}) is found


def test_nothing_opens_an_empty_plan() -> None:
    assert not holds({"first": {}}, {"plan": []}) and holds({"lacks": {}}, {"plan": []})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{start}\", 空间范围: \"{range 景点", "{stat}\", 空间范围: \"{range 景点", "meant start"),
        ("range 美食: {附近: 83", "range 美食: {近处: 83", "空间范围: 近处 is not defined"),
        ("one place: always", "one place: alway", "one place is never alway: .*meant always"),
        ("slot: 1,", "slots: 1,", "slots is not defined"),
        ("from here 1: \"yes\"", "from there 1: \"yes\"", "from there 1 is not defined"),
        ("base: {", "phase: {", "phase is defined twice"),
        ("otherwise: drive_on", "otherwise: see", "see hangs on draws"),
        ("otherwise: drive_on", "otherwise: driveon", "meant drive_on"),
        ("see, eat, {offer", "sea, eat, {offer", "no intent: sea .*meant see"),
        ("{add: remind, at", "{add: remid, at", "meant remind"),
        ("- add: weather\n", "- add: wether\n", "meant weather"),
        ("空间范围: {not: 附近}", "范围: {not: 附近}", "范围 is not defined"),
        ("of: {4: 53", "of: {14: 53", "14 is no length of a plan: 3 to 9"),
        ("words: [景区", "word: [景区", "bounds are above"),
        ("words: [景区, 公园, 博物, 古镇, 寺庙, 文物]", "words: 景区", "a list of texts, not 景区"),
        ("{history: {words: [景区", "{hour: {words: [景区", "hour has no words"),
        ("{add: {see: 62", "{add: {see: 0", "its weight is 0"),
        ("at: on site}", "at: on sight}", "no stage: on sight .*meant on site"),
        ("everywhere: [region", "everywhere: [regions", "meant region"),
        ("anytime: [{工具名称: [tool_9", "anytime: [{工具名称: [tool_99", "tool_99 is not"),
        ("place: at, phase: last_day}", "place: at, phase: lastday}", "meant last_day"),
        ("lacks: &heads [{工具名称", "lacks: &heads [{工具", "工具 is not defined"),
        ("has: {工具名称: tool_3}}, say", "has: tool_3}, say", "tool_3 is no pattern"),
        ("when: {region: away}, say: [{region", "when: {slot: 0}, say: [{region", "slot is not"),
    ],
)  # fmt: skip
def test_what_a_rule_file_says_wrong_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    shutil.copytree(SERVICES / "amap", tmp_path / "amap")
    path = tmp_path / "amap" / "rules.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    # A value of a draw is wrong where an intent takes it.
    line = text[: text.index("{range 美食}" if "近处" in new else old)].count("\n") + 1
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(GplanError, match=f"(?s){said}") as error:
        ServiceRules(Service.load(tmp_path / "amap").library)
    lines = [int(part.split(":")[0]) for part in str(error.value).split("line ")[1:]]
    # The entry that holds the fault begins there or a little above.
    assert any(0 <= line - found <= 8 for found in lines), (line, str(error.value))


def test_a_column_that_is_called_as_a_condition_on_plans_is_told_apart(tmp_path: Path) -> None:
    shutil.copytree(SERVICES / "city_guide", tmp_path / "guide")
    for path in [p for p in (tmp_path / "guide").rglob("*") if p.is_file()]:
        text = path.read_text(encoding="utf-8").replace("age_group", "slot")
        path.write_text(text.replace("{weather: [rain", "{slot: [rain"), encoding="utf-8")
    with pytest.raises(GplanError, match=r"line 4[0-9]: .*slot asks for the plan"):
        ServiceRules(Service.load(tmp_path / "guide").library)


def test_a_library_with_a_tool_that_its_service_lacks_is_refused() -> None:
    library = IntentLibrary.load()
    tools = {**library.tools, "tool_11": library.tools["tool_9"]}
    with pytest.raises(GplanError, match=r"amap know its own tools; .* also has tool_11"):
        ServiceRules(library.model_copy(update={"tools": tools}))
