"""P5's text: what each mode shows, whole-word ids, unknown words, plans written and read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.p5.arm import END, PAD, UNKNOWN, Text, prompt_fields
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import CONTEXT_COLUMNS, InputMode
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.baselines.t5.plans import plan_constraint
from gplan_jax.foundation.config import parse_config
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, parse_plan

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
PROMPTS = [("画像 1=1", "时段:凌晨0点", "订单:酒店"), ("时段:凌晨3点", "订单:加油")]
TEXT = Text.fit(PROMPTS, ATOMS, most_tokens=16, least_count=1)


def _words(tokens: np.ndarray) -> list[str]:
    return [TEXT.tokenizer.id_to_token(int(token)) for token in tokens if token != PAD]


def test_tokens_of_a_field_share_a_whole_word_id_counted_from_the_last_field() -> None:
    tokens, words = TEXT.encode(PROMPTS)
    assert _words(tokens[0]) == ["画像", "1=1", "时段", "凌晨", "0点", "订单", "酒店"]
    assert words[0].tolist() == [3, 3, 2, 2, 2, 1, 1] + [0] * 9
    assert _words(tokens[1]) == ["时段", "凌晨", "3点", "订单", "加油"]
    assert words[1].tolist() == [2, 2, 2, 1, 1] + [0] * 11


def test_a_long_prompt_loses_its_first_fields() -> None:
    long = (*(f"画像 {i}=1" for i in range(20)), "订单:酒店")
    tokens, words = TEXT.encode([long])
    assert _words(tokens[0])[-2:] == ["订单", "酒店"]
    assert words[0].tolist() == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_words_that_training_lacks_or_has_too_seldom_are_unknown() -> None:
    tokens, _ = TEXT.encode([("订单:门票",)])
    assert tokens[0, 1] == UNKNOWN
    seldom = Text.fit(PROMPTS, ATOMS, most_tokens=16, least_count=2)
    tokens, _ = seldom.encode(PROMPTS[:1])
    assert (tokens[0] == UNKNOWN).tolist() == [True, True, False, False, True, False, True] + [
        False
    ] * 9


def test_an_empty_prompt_is_padding() -> None:
    tokens, words = TEXT.encode([()])
    assert not tokens.any() and not words.any()


@given(st.lists(st.integers(0, ATOMS.count - 1), min_size=1, max_size=9))
def test_plans_come_back_as_they_were_written(plan: list[int]) -> None:
    tokens = TEXT.targets([plan, [0]])
    assert TEXT.plan_text(tokens[0]) == ATOMS.text(plan)
    assert (tokens[0] == END).sum() == 1 and tokens.shape[1] % 8 == 0


@given(st.lists(st.integers(0, TEXT.size - 1)))
def test_any_tokens_are_read_as_some_plan(tokens: list[int]) -> None:
    plan = parse_plan(TEXT.plan_text(tokens))
    assert all(intent["工具名称"] in ATOMS.library.tools for intent in plan)


def test_stray_words_are_skipped_and_odd_parameters_kept() -> None:
    tool, *parameters = TEXT.codes[0]
    [weather] = TEXT.codes[ATOMS.ids([{"工具名称": "tool_9"}])[0]]
    tokens = [UNKNOWN, parameters[0], weather, parameters[0], PAD, tool, END, weather]
    start = ATOMS.intents[0]["起始位置"]
    assert json.loads(TEXT.plan_text(tokens)) == [
        {"工具名称": "tool_9", "起始位置": start},
        {"工具名称": ATOMS.intents[0]["工具名称"]},
    ]


def test_absent_parameters_are_written_so_that_no_code_begins_another() -> None:
    values = {
        "name": "campus",
        "tool_key": "action",
        "parameters": {"target": {"values": {"library": "books", "canteen": "food"}}},
        "tools": {"walk": {"optional": ["target"]}, "rest": {}},
        "plan_length": {"minimum": 1, "maximum": 2},
    }
    atoms = Atoms.of(parse_config(IntentLibrary, values, source="test"))
    text = Text.fit(PROMPTS, atoms, most_tokens=16, least_count=1)
    plan_constraint(text.codes, plan_mask(atoms), vocabulary=text.size, end=END)
    for atom, intent in enumerate(atoms.intents):
        assert json.loads(text.plan_text(text.targets([[atom]])[0])) == [intent]


def test_the_facts_are_the_compact_prompt_and_come_last(rows: list[Sample]) -> None:
    fields = prompt_fields(rows[0], InputMode.FULL, LIBRARY)
    lines = PromptTemplate.load("compact_zh").render(rows[0], LIBRARY).user.split("\n")
    facts = tuple(line for line in lines if line)
    assert fields[-len(facts) :] == facts
    assert fields[: -len(facts)] == (
        "画像 1=1",
        "常去 住宅区 家",
        "常去 舒适型 订单地",
        "12小时内 act_3 异地行前 高铁站 此地",
        "3小时内 act_5&act_2 未知地点 舒适型 订单地",
    )


def test_history_shows_nothing_of_order_place_or_day(rows: list[Sample]) -> None:
    fields = prompt_fields(rows[0], InputMode.HISTORY, LIBRARY)
    other = dataclasses.replace(rows[0], **dict.fromkeys(CONTEXT_COLUMNS, ""))
    assert fields == prompt_fields(other, InputMode.HISTORY, LIBRARY)
    assert fields == (
        "画像 1=1",
        "常去 住宅区 家",
        "常去 舒适型",
        "12小时内 act_3 异地行前 高铁站",
        "3小时内 act_5&act_2 未知地点 舒适型",
    )


@pytest.mark.parametrize("mode", InputMode)
@given(label=st.text())
def test_the_label_is_never_looked_at(mode: InputMode, label: str, rows: list[Sample]) -> None:
    fields = prompt_fields(rows[0].with_label(label), mode, LIBRARY)
    assert fields == prompt_fields(rows[0], mode, LIBRARY)
    assert not any("tool_" in field for field in fields)


def test_an_empty_row_still_has_a_prompt() -> None:
    empty = Sample.from_context({"currenttime": "2026-03-04 10:30:00"})
    assert prompt_fields(empty, InputMode.HISTORY, LIBRARY) == ("画像",)
    assert prompt_fields(empty, InputMode.FULL, LIBRARY)[-1] == "订单:无"
