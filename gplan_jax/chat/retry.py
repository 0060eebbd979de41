"""What one attempt came to, and what follows from it: pure functions, no clock, no network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

from gplan_jax.chat.body import (
    Answer,
    ErrorBody,
    embedded_error,
    is_about_format,
    parse_answer,
    parse_error,
)

LONGEST_BACKOFF_S = 60.0
# A server that wants a longer pause (a daily quota) stops the run.
LONGEST_PAUSE_S = 900.0
# A refusal with 429 is the server's way to pace its clients, so it is forgiven more often.
THROTTLES_PER_ATTEMPT = 5
HINTS = {
    401: "check the API key that api_key_env names",
    403: "check what the API key may do",
    404: "check base_url, which ends with /v1 at most servers, and model",
}
QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


class Kind(Enum):
    """The ways in which one attempt ends."""

    ANSWER = "answered"
    FILTERED = "filtered"  # an answer that the server withholds
    REFUSED = "refused"  # this request, however often
    FORMAT_REFUSED = "response format refused"
    THROTTLED = "throttled"  # 429
    OVERLOADED = "overloaded"  # 503
    FAULT = "fault"  # another 5xx, a broken body
    CUT = "cut"  # sent, and no whole reply came: a time-out, a connection that broke
    UNREACHABLE = "unreachable"  # no connection at all
    DENIED = "denied"  # any request: a wrong key, path or model, an empty account


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt; ``answer`` stands where the server gave one (and bills it)."""

    kind: Kind
    message: str = ""
    retry_after_s: float | None = None
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Send it again after so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """This request has no answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """No request will have an answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Its attempts are used up: a Fail where others get through, else a Stop."""

    reason: str


def classify(
    status: int, headers: Mapping[str, str], body: bytes, *, formatted: bool, now: float
) -> Outcome:
    """What a complete HTTP response amounts to.

    Args:
        formatted: the request asked for a response format.
        now: seconds since 1970.
    """
    if status == 200:
        embedded = embedded_error(body)
        if embedded is None:
            return _classify_answer(body)
        status = embedded
    error = parse_error(body)
    said = f"HTTP {status}" + (f": {error.message}" if error.message else "")
    said += f"; {HINTS[status]}" if status in HINTS else ""
    wait = retry_after_s(headers, now)
    return Outcome(_kind(status, error, formatted), said, wait)


def _classify_answer(body: bytes) -> Outcome:
    try:
        answer = parse_answer(body)
    except ValueError as error:
        return Outcome(Kind.FAULT, f"the reply's body is broken ({error})")
    if answer.refusal:
        return Outcome(Kind.FILTERED, f"the model refused: {answer.refusal[:200]}", answer=answer)
    if answer.finish_reason == "content_filter":
        return Outcome(Kind.FILTERED, "the server's content filter cut the answer", answer=answer)
    return Outcome(Kind.ANSWER, answer=answer)


def _kind(status: int, error: ErrorBody, formatted: bool) -> Kind:
    if status == 429:
        return Kind.DENIED if error.code in QUOTA_CODES else Kind.THROTTLED
    if status == 503:
        return Kind.OVERLOADED
    if formatted and is_about_format(status, error):
        return Kind.FORMAT_REFUSED
    if status >= 500 or status in (408, 409, 425):
        return Kind.FAULT
    if status < 400 or status in (401, 402, 403, 404, 405, 407, 410):
        return Kind.DENIED
    return Kind.REFUSED


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """How long the server asks to wait: ``retry-after-ms``, or Retry-After in seconds or a date.

    A date counts from the response's own Date where it has one, so that clocks may differ. What is
    no number of seconds from 0 on is None.

    Source: RFC 9110, section 10.2.3; ``retry-after-ms`` as OpenAI's servers send it.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    until = _timestamp(value)
    if until is None:
        return None
    sent = _timestamp(headers.get("date", ""))
    return max(0.0, until - (now if sent is None else sent))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _timestamp(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def decide(
    outcome: Outcome, *, faults: int, throttles: int, attempts: int, backoff_s: float, jitter: float
) -> Wait | Fail | Stop | GiveUp:
    """What follows from an attempt that brought no answer.

    The wait has full jitter: uniform in [0, min(60 s, backoff_s 2^(n-1))] after the n-th failure,
    and never below what the server asked for.

    Args:
        outcome: the attempt's end, anything but ANSWER and FORMAT_REFUSED.
        faults, throttles: failures of this request so far, this one included; throttles are the
            429s among them, faults the rest.
        attempts: most attempts of a request; 429s may come THROTTLES_PER_ATTEMPT times as often.
        jitter: a random number in [0, 1).

    Source: "Exponential Backoff And Jitter", M. Brooker, AWS Architecture Blog, 2015.
    """
    if outcome.kind in (Kind.REFUSED, Kind.FILTERED, Kind.FORMAT_REFUSED):
        return Fail(outcome.message)
    if outcome.kind is Kind.DENIED:
        return Stop(outcome.message)
    asked = outcome.retry_after_s
    if asked is not None and asked > LONGEST_PAUSE_S:
        return Stop(f"{outcome.message} (it asks to wait {asked / 60:.0f} minutes)")
    if faults >= attempts or throttles >= attempts * THROTTLES_PER_ATTEMPT:
        return GiveUp(f"{outcome.message} (attempt {faults + throttles})")
    # The exponent is capped because 2.0**1024 overflows.
    ceiling = min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(faults + throttles - 1, 32))
    return Wait(max(jitter * ceiling, asked or 0.0))


def pause_s(outcome: Outcome) -> float:
    """How long nothing at all is sent after ``outcome``: what an overloaded server asks for."""
    asked = outcome.retry_after_s or 0.0
    paced = outcome.kind in (Kind.THROTTLED, Kind.OVERLOADED)
    return asked if paced and asked <= LONGEST_PAUSE_S else 0.0
