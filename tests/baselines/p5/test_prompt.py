"""A row as fields of text: what each mode shows, and that the label never is."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.p5.prompt import prompt_fields
from gplan_jax.baselines.rows.features import CONTEXT_COLUMNS, InputMode
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample

LIBRARY = IntentLibrary.load()


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
