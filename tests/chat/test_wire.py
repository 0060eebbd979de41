from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat import ChatConfig, ChatRequest, Message, request_key
from gplan_jax.chat.wire import (
    Kind,
    classify,
    encode,
    parse_answer,
    parse_error,
    request_fields,
    retry_after_s,
)

SCHEMA = {"type": "object"}


def fields(structured: str = "none", draw: int = 0, **config: Any) -> dict[str, Any]:
    request = ChatRequest((Message("user", "hi"),), SCHEMA, "plan", draw)
    whole = ChatConfig(base_url="http://localhost/v1", model="m", **config)
    return request_fields(whole, request_key(whole, request), request, structured)


def test_the_body_holds_what_is_set_and_nothing_else() -> None:
    assert fields() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.0,
        "max_tokens": 2048,
    }
    seeds = [fields(seed=7, draw=draw)["seed"] for draw in (0, 1, 0)]
    assert seeds[0] == seeds[2] != seeds[1] and all(0 <= seed < 2**31 for seed in seeds)
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
        answer = parse_answer(body)
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
    assert parse_error(body) == expected


def test_half_characters_and_absurd_nesting_are_borne() -> None:
    answered = classify(200, {}, answer("a\ud83d b"), formatted=False, now=0.0).answer
    assert answered is not None and answered.text == "a\ufffd b"
    said = classify(200, {}, b"[" * 100_000, formatted=False, now=0.0).message
    assert "nested too deeply" in said


def test_an_error_that_is_a_page_is_cut_short() -> None:
    message = parse_error("<html>" + "x" * 10_000).message
    assert message.startswith("<html>x") and len(message) == 500


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def answer(content: str | None = "hello", reason: str = "stop", **message: object) -> bytes:
    choice = {"message": {"content": content, **message}, "finish_reason": reason}
    return json.dumps({"model": "m", "choices": [choice]}).encode()


def kind(status: int, body: object = b"", formatted: bool = False) -> Kind:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, {}, raw, formatted=formatted, now=0.0).kind


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, Kind.REFUSED),
        (413, Kind.REFUSED),
        (422, Kind.REFUSED),
        (401, Kind.DENIED),
        (402, Kind.DENIED),
        (403, Kind.DENIED),
        (404, Kind.DENIED),
        (301, Kind.DENIED),
        (429, Kind.THROTTLED),
        (503, Kind.OVERLOADED),
        (408, Kind.FAULT),
        (409, Kind.FAULT),
        (500, Kind.FAULT),
        (502, Kind.FAULT),
        (504, Kind.FAULT),
    ],
)
def test_what_a_status_means(status: int, expected: Kind) -> None:
    assert kind(status, {"error": {"message": "no"}}) is expected


def test_an_empty_account_stops_though_it_comes_as_429() -> None:
    assert kind(429, {"error": {"message": "pay", "code": "insufficient_quota"}}) is Kind.DENIED


@pytest.mark.parametrize(
    "body",
    [
        # OpenAI, vLLM (old and new shape), LM Studio, llama.cpp in Python.
        (400, {"error": {"message": "'response_format' of type 'json_schema' is not supported"}}),
        (400, {"error": {"message": "Invalid parameter", "param": "response_format"}}),
        (400, {"object": "error", "message": "The provided grammar is not valid", "code": 400}),
        (400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}),
        (422, {"detail": [{"loc": ["body", "response_format", "type"], "msg": "unexpected"}]}),
        (500, {"error": {"message": "Input should be 'text' [type=literal] response_format"}}),
    ],
)
def test_refusals_of_the_format_are_known_and_count_only_where_one_was_asked_for(
    body: tuple[int, object],
) -> None:
    assert kind(*body, formatted=True) is Kind.FORMAT_REFUSED
    assert kind(*body, formatted=False) is (Kind.FAULT if body[0] == 500 else Kind.REFUSED)


def test_a_passing_500_does_not_cost_the_format() -> None:
    body = {"error": {"message": "the guided decoding backend has timed out"}}
    assert kind(500, body, formatted=True) is Kind.FAULT


@pytest.mark.parametrize(
    "body",
    [
        b"",
        answer()[:-9],
        b"<html>gateway</html>",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"message": null}]}',
        answer(content=5),  # type: ignore[arg-type]
        b"\xff\xfe\x00",
    ],
)
def test_broken_bodies_are_faults(body: bytes) -> None:
    assert kind(200, body) is Kind.FAULT


CHOICE = {"message": {"content": "half of"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("body", "expected", "said"),
    [
        ({"error": {"message": "upstream", "code": 502}}, Kind.FAULT, "502 inside a 200: upstream"),
        ({"error": {"message": "slow down", "code": 429}}, Kind.THROTTLED, "slow down"),
        ({"error": {"message": "late", "code": "server_error"}}, Kind.FAULT, "late"),
        ({"error": "late", "choices": [CHOICE]}, Kind.FAULT, "late"),
        ({"error": {"message": "a", "code": "rate_limit_exceeded"}}, Kind.THROTTLED, "a"),
        ({"error": {"message": "a", "code": "insufficient_quota"}}, Kind.DENIED, "a"),
        ({"choices": [{**CHOICE, "error": {"message": "gone", "code": 502}}]}, Kind.FAULT, "gone"),
        ({"choices": [{**CHOICE, "error": {"message": "a", "code": 429}}]}, Kind.THROTTLED, "a"),
        ({"choices": [{**CHOICE, "error": {"message": "a", "code": 400}}]}, Kind.REFUSED, "a"),
        ({"choices": [{**CHOICE, "finish_reason": "error"}]}, Kind.FAULT, "finish_reason 'error'"),
        ({"choices": [{**CHOICE, "finish_reason": "abort"}]}, Kind.FAULT, "finish_reason 'abort'"),
        ({"object": "error", "message": "no room", "code": 40303}, Kind.FAULT, "no room"),
        ({"detail": "queue full"}, Kind.FAULT, "queue full"),
        ({"choices": []}, Kind.FAULT, "no choices"),
        ({"choices": [{"message": {"content": None}}]}, Kind.FAULT, "message is empty"),
    ],
)
def test_an_error_in_a_200_counts_as_the_error(body: object, expected: Kind, said: str) -> None:
    outcome = classify(200, {}, json.dumps(body).encode(), formatted=True, now=0.0)
    assert outcome.kind is expected and said in outcome.message and outcome.answer is None


@pytest.mark.parametrize(
    ("body", "expected", "said"),
    [
        (b'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n\n', Kind.DENIED, "is a stream"),
        (b": PROCESSING\n\nevent: chunk\ndata: {}\n\n", Kind.DENIED, "is a stream"),
        (b"<!DOCTYPE html><html></html>", Kind.FAULT, "is a web page: check base_url"),
    ],
)
def test_bodies_that_are_no_json_are_told_apart(body: bytes, expected: Kind, said: str) -> None:
    outcome = classify(200, {}, body, formatted=False, now=0.0)
    assert outcome.kind is expected and said in outcome.message


@pytest.mark.parametrize(
    ("message", "reason", "read"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "stop",
         ("ab", "stop")),
        ({"content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "b"}]},
         "stop", ("b", "stop")),
        ({"content": "a", "reasoning_content": "x"}, "eos_token", ("a", "stop")),
        ({"content": "a"}, "STOP", ("a", "stop")),
        ({"content": "a"}, None, ("a", "stop")),
        ({"content": "a"}, "MAX_TOKENS", ("a", "length")),
        ({"content": "a"}, "tool_calls", ("a", "tool_calls")),
        ({"content": None, "reasoning_content": "x"}, "stop",
         ("<reasoning_content>x</reasoning_content>", "stop")),
        ({"content": "", "reasoning": "x"}, "length", ("<reasoning>x</reasoning>", "length")),
        ({"content": None, "tool_calls": [{"id": 1}]}, "tool_calls",
         ('<tool_calls>[{"id": 1}]</tool_calls>', "tool_calls")),
    ],
)  # fmt: skip
def test_a_text_is_found_wherever_a_server_puts_it(
    message: dict[str, Any], reason: str | None, read: tuple[str, str]
) -> None:
    answered = parse_answer({"choices": [{"message": message, "finish_reason": reason}]})
    assert (answered.text, answered.finish_reason) == read


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": "This model's maximum context length is 512 tokens. However ..."}},
        {"error": {"message": "too many", "code": "context_length_exceeded"}},
        {"error": {"message": "the request exceeds the available context size", "code": 400}},
    ],
)
def test_a_prompt_beyond_the_context_is_told_with_its_mend(said: object) -> None:
    outcome = classify(400, {}, json.dumps(said).encode(), formatted=True, now=0.0)
    assert outcome.kind is Kind.REFUSED and "--max-model-len" in outcome.message


def test_answers_and_what_is_withheld() -> None:
    assert kind(200, answer()) is Kind.ANSWER
    assert kind(200, answer(content=None, reason="length")) is Kind.ANSWER
    assert kind(200, answer(reason="SAFETY")) is Kind.FILTERED
    assert kind(200, answer(reason="content_filter")) is Kind.FILTERED
    assert kind(200, answer(content=None, refusal="I can't")) is Kind.FILTERED


@given(st.binary(max_size=200), st.integers(200, 599), st.booleans())
def test_any_response_is_classified(body: bytes, status: int, formatted: bool) -> None:
    outcome = classify(status, {}, body, formatted=formatted, now=0.0)
    assert (outcome.kind is Kind.ANSWER) == (outcome.answer is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "code", "x"]),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON, st.sampled_from([200, 400, 429, 500]))
def test_any_json_is_classified(body: object, status: int) -> None:
    classify(status, {}, json.dumps(body).encode(), formatted=True, now=0.0)


def test_retry_after_in_seconds_milliseconds_and_as_a_date() -> None:
    now = NOW.timestamp()
    later = format_datetime(NOW + timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": "7"}, now) == 7.0
    assert retry_after_s({"retry-after": "0.5"}, now) == 0.5
    assert retry_after_s({"retry-after": "7", "retry-after-ms": "250"}, now) == 0.25
    assert retry_after_s({"retry-after": later}, now) == 30.0
    # The server's clock is an hour ahead: only the difference to its own Date counts.
    assert retry_after_s({"retry-after": later, "date": later}, now) == 0.0
    past = format_datetime(NOW - timedelta(seconds=30), usegmt=True)
    assert retry_after_s({"retry-after": past}, now) == 0.0


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1e999", "Mon, 99 Foo 2026"])
def test_a_retry_after_that_says_nothing_is_none(text: str) -> None:
    assert retry_after_s({"retry-after": text}, 0.0) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_breaks_it(value: str, date: str) -> None:
    wait = retry_after_s({"retry-after": value, "retry-after-ms": value, "date": date}, 0.0)
    assert wait is None or (wait >= 0 and math.isfinite(wait))
