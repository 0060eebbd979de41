from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat.retry import (
    LONGEST_BACKOFF_S,
    LONGEST_PAUSE_S,
    THROTTLES_PER_ATTEMPT,
    Fail,
    GiveUp,
    Kind,
    Outcome,
    Stop,
    Wait,
    classify,
    decide,
    pause_s,
    retry_after_s,
)

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TRANSIENT = (Kind.THROTTLED, Kind.OVERLOADED, Kind.FAULT, Kind.CUT, Kind.UNREACHABLE)


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
        answer(content=["parts"]),  # type: ignore[arg-type]
        b"\xff\xfe\x00",
    ],
)
def test_broken_bodies_are_faults(body: bytes) -> None:
    assert kind(200, body) is Kind.FAULT


def test_an_error_in_a_200_counts_as_the_error() -> None:
    assert kind(200, {"error": {"message": "upstream", "code": 502}}) is Kind.FAULT
    assert kind(200, {"error": {"message": "slow down", "code": 429}}) is Kind.THROTTLED


def test_answers_and_what_is_withheld() -> None:
    assert kind(200, answer()) is Kind.ANSWER
    assert kind(200, answer(content=None, reason="length")) is Kind.ANSWER
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


FAILURES = {
    "faults": st.integers(0, 2000),
    "throttles": st.integers(0, 2000),
    "attempts": st.integers(1, 100),
    "backoff_s": st.floats(0.001, 100),
    "jitter": st.floats(0, 1, exclude_max=True),
}


@given(
    st.sampled_from(TRANSIENT),
    st.none() | st.floats(0, 2 * LONGEST_PAUSE_S),
    st.fixed_dictionaries(FAILURES).filter(lambda given: given["faults"] + given["throttles"] > 0),
)
def test_a_passing_fault_waits_within_bounds_until_its_attempts_are_used_up(
    kind: Kind, asked: float | None, given: dict[str, float]
) -> None:
    decision = decide(Outcome(kind, "it failed", asked), **given)  # type: ignore[arg-type]
    used_up = (
        given["faults"] >= given["attempts"]
        or given["throttles"] >= THROTTLES_PER_ATTEMPT * given["attempts"]
    )
    if asked is not None and asked > LONGEST_PAUSE_S:
        assert isinstance(decision, Stop)
    elif used_up:
        assert isinstance(decision, GiveUp)
    else:
        assert isinstance(decision, Wait)
        failures = given["faults"] + given["throttles"]
        ceiling = min(LONGEST_BACKOFF_S, given["backoff_s"] * 2 ** min(failures - 1, 100))
        assert (asked or 0.0) <= decision.seconds <= max(ceiling, asked or 0.0)


def test_the_ceiling_doubles_up_to_a_minute() -> None:
    def wait(faults: int) -> float:
        decision = decide(
            Outcome(Kind.FAULT), faults=faults, throttles=0, attempts=99, backoff_s=0.5, jitter=0.5
        )
        assert isinstance(decision, Wait)
        return decision.seconds

    assert [wait(n) for n in (1, 2, 3, 7, 8, 20)] == [0.25, 0.5, 1.0, 16.0, 30.0, 30.0]


@given(st.fixed_dictionaries(FAILURES))
def test_what_no_repetition_mends_is_not_repeated(given: dict[str, float]) -> None:
    for kind, expected in [
        (Kind.REFUSED, Fail),
        (Kind.FILTERED, Fail),
        (Kind.FORMAT_REFUSED, Fail),
        (Kind.DENIED, Stop),
    ]:
        decision = decide(Outcome(kind, "why"), **given)  # type: ignore[arg-type]
        assert isinstance(decision, expected) and decision.reason == "why"


def test_only_an_overloaded_server_pauses_everybody() -> None:
    for kind in Kind:
        paused = kind in (Kind.THROTTLED, Kind.OVERLOADED)
        assert pause_s(Outcome(kind, "", 3.0)) == (3.0 if paused else 0.0)
    assert pause_s(Outcome(Kind.THROTTLED)) == 0.0
    assert pause_s(Outcome(Kind.THROTTLED, "", LONGEST_PAUSE_S + 1)) == 0.0
