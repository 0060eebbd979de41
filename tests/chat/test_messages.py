from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat import ChatConfig, ChatRequest, Message, request_key
from gplan_jax.chat.messages import same_model

CONFIG: dict[str, Any] = {"base_url": "http://localhost/v1", "model": "m"}
REQUEST: dict[str, Any] = {"messages": (Message("user", "hello"),)}


def key(config: dict[str, Any] | None = None, request: dict[str, Any] | None = None) -> str:
    return request_key(
        ChatConfig(**{**CONFIG, **(config or {})}), ChatRequest(**{**REQUEST, **(request or {})})
    )


def test_the_key_is_a_sha256() -> None:
    assert len(key()) == 64 and set(key()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("config", "request_"),
    [
        ({"model": "n"}, {}),
        ({"temperature": 0.5}, {}),
        ({"top_p": 0.5}, {}),
        ({"max_tokens": 5}, {}),
        ({"seed": 0}, {}),
        ({"extra": {"min_p": 0.1}}, {}),
        ({}, {"messages": (Message("system", "hello"),)}),
        ({}, {"messages": (Message("user", "hello"), Message("user", ""))}),
        ({}, {"schema": {"type": "object"}}),
        ({}, {"draw": 1}),
    ],
)
def test_whatever_determines_the_answer_changes_the_key(
    config: dict[str, Any], request_: dict[str, Any]
) -> None:
    assert key(config, request_) != key()


@pytest.mark.parametrize(
    "config",
    [
        {"base_url": "https://elsewhere/v1"},
        {"api_key_env": "SOME_KEY"},
        {"concurrency": 5},
        {"timeout_s": 5.0},
        {"attempts": 2},
        {"structured": "none"},
        {"prompt_price": 1.0, "completion_price": 2.0, "budget": 5.0, "currency": "EUR"},
        {"token_budget": 5},
    ],
)
def test_nothing_else_does(config: dict[str, Any]) -> None:
    assert key(config) == key()


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("big", "big", True),
        ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", True),
        ("qwen3", "Qwen3:latest", True),
        ("Qwen/Qwen3-32B", "qwen3-32b", True),
        ("big", "smol", False),
        ("gpt-4.1", "gpt-4.1-mini", False),
        ("Qwen3-235B", "Qwen3-235B-A22B-Instruct-2507", False),
        ("Qwen/Qwen3-32B", "other/Qwen3-32B", False),
        ("big-2025-04-14", "big", False),
    ],
)
def test_which_names_are_those_of_one_model(asked: str, answered: str, same: bool) -> None:
    assert same_model(asked, answered) is same
    assert key({"model": "alias", "answers_as": "m"}) == key({"model": "m"})


def test_the_order_of_fields_in_a_schema_does_not_count() -> None:
    assert key({}, {"schema": {"a": 1, "b": 2}}) == key({}, {"schema": {"b": 2, "a": 1}})


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=3), st.data())
def test_different_messages_have_different_keys(
    turns: list[tuple[str, str]], data: st.DataObject
) -> None:
    others = data.draw(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), max_size=3))
    first = key({}, {"messages": tuple(Message(*turn) for turn in turns)})
    second = key({}, {"messages": tuple(Message(*turn) for turn in others)})
    assert (first == second) == (turns == others)


def test_a_lone_surrogate_has_a_key_too() -> None:
    assert key({}, {"messages": (Message("user", "\ud800"),)}) != key()
