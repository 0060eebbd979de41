"""The one reader of replies; what teachers and judges do with it is tested beside them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat.reading import UnreadableReply, answer_text, check_shape, read_object

TEXT = '{"a": [1, "b"]}'
VALUE = {"a": [1, "b"]}


@pytest.mark.parametrize("tag", ["think", "thinking", "thought", "reasoning", "reasoning_content"])
def test_thoughts_in_any_tag_are_taken_off(tag: str) -> None:
    assert read_object(f"<{tag}>is it {TEXT}?</{tag}>\n```json\n{TEXT}\n```", "stop") == VALUE
    assert answer_text(f"no tag opens them</{tag}> x") == "x"
    with pytest.raises(UnreadableReply, match=f"its text stands in {tag}: raise max_tokens or"):
        read_object(f"<{tag}>{TEXT}</{tag}>", "stop")


@pytest.mark.parametrize("reason", ["stop", "eos_token", "tool_calls", "anything"])
def test_no_word_but_length_spoils_a_whole_reply(reason: str) -> None:
    assert read_object(TEXT, reason) == VALUE
    with pytest.raises(UnreadableReply, match="raise max_tokens or turn thinking off") as found:
        read_object(TEXT, "length")
    assert found.value.code == "truncated"


def test_a_tag_inside_the_object_is_none_of_the_thoughts() -> None:
    text = json.dumps({"a": "</think> is how thoughts end"})
    assert answer_text(text) == text and read_object(f"<think></think>{text}", "stop")


@given(st.text() | st.from_regex(r"(<think>)?.*(</think>)?[\[{].*", fullmatch=True))
def test_any_text_is_an_object_or_a_fault_with_its_code(text: str) -> None:
    try:
        assert isinstance(read_object(text, "stop"), dict)
    except UnreadableReply as fault:
        assert fault.code and str(fault)


def test_the_shape_names_all_that_is_wrong() -> None:
    check_shape("it", {"a": "x", "b": 1}, {"a": str, "b": int})
    with pytest.raises(UnreadableReply, match=r"In it: lacks c; has an unknown key 'b'; a must be"):
        check_shape("it", {"a": 1, "b": 1}, {"a": str, "c": list})
