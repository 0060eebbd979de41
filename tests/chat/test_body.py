from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat import ChatConfig, ChatRequest, Message
from gplan_jax.chat.body import encode, parse_answer, parse_error, request_fields

SCHEMA = {"type": "object"}


def fields(structured: str = "none", draw: int = 0, **config: Any) -> dict[str, Any]:
    request = ChatRequest((Message("user", "hi"),), SCHEMA, "plan", draw)
    whole = ChatConfig(base_url="http://localhost/v1", model="m", **config)
    return request_fields(whole, request, structured)


def test_the_body_holds_what_is_set_and_nothing_else() -> None:
    assert fields() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.0,
        "max_tokens": 2048,
    }
    assert fields(seed=7, draw=2)["seed"] == 9
    assert fields(extra={"min_p": 0.1, "max_tokens": None}) | {"max_tokens": 2048} == {
        **fields(),
        "min_p": 0.1,
    }
    assert "max_tokens" not in fields(extra={"max_tokens": None})


def test_the_three_formats() -> None:
    assert fields("json_schema")["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "plan", "strict": True, "schema": SCHEMA},
    }
    assert fields("json_object")["response_format"] == {"type": "json_object"}
    assert "response_format" not in fields("none")


@given(st.text())
def test_any_text_survives_the_way(text: str) -> None:
    assert json.loads(encode({"content": text})) == {"content": text}


def test_a_lone_surrogate_is_sent_escaped() -> None:
    assert encode({"content": "\ud83d"}) == b'{"content":"\\ud83d"}'


def test_tokens_that_are_no_counts_are_unknown() -> None:
    def usage(value: object) -> tuple[int | None, int | None]:
        body = {"choices": [{"message": {"content": "x"}}], "usage": value}
        answer = parse_answer(json.dumps(body).encode())
        return answer.prompt_tokens, answer.completion_tokens

    assert usage({"prompt_tokens": 3, "completion_tokens": 0}) == (3, 0)
    assert usage({"prompt_tokens": "3", "completion_tokens": -1}) == (None, None)
    assert usage({"prompt_tokens": True}) == usage(None) == usage({}) == (None, None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "a", "code": "c", "param": "p"}}, ("a", "c", "p")),
        ({"error": {"message": "a", "type": "t", "code": None}}, ("a", "t", "")),
        ({"object": "error", "message": "a", "code": 400}, ("a", "400", "")),
        ({"error": "a\n  b"}, ("a b", "", "")),
        ({"detail": [{"msg": "a"}]}, ('[{"msg": "a"}]', "", "")),
        ({}, ("", "", "")),
    ],
)
def test_error_bodies_of_all_kinds(body: object, expected: tuple[str, str, str]) -> None:
    assert parse_error(json.dumps(body).encode()) == expected


def test_half_characters_and_absurd_nesting_are_borne() -> None:
    body = b'{"choices": [{"message": {"content": "a\\ud83d b"}}]}'
    assert parse_answer(body).text == "a\ufffd b"
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_answer(b"[" * 100_000)


def test_an_error_that_is_a_page_is_cut_short() -> None:
    message = parse_error(b"<html>" + b"x" * 10_000).message
    assert message.startswith("<html>x") and len(message) == 500
