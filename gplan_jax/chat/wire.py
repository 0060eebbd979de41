"""Requests and answers on the wire: the body of POST /chat/completions, and what comes back.

Pure functions: no clock, no network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, NamedTuple

from gplan_jax.chat.messages import ChatRequest
from gplan_jax.chat.server_config import ChatConfig

# From the strictest to none; "auto" goes down until the server takes one.
FORMATS = ("json_schema", "json_object", "none")
# Words by which a refusal is known to be about the response format. (OpenAI: "response_format";
# vLLM: "guided", "grammar", "structured"; SGLang: "json_schema", "grammar".)
ABOUT_FORMAT = ("response_format", "json_schema", "json_object", "grammar", "guided", "structured")
MOST_ERROR_CHARACTERS = 500
HINTS = {
    401: "check the API key that api_key_env names",
    403: "check what the API key may do",
    404: "check base_url, which ends with /v1 at most servers, and model",
}
QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")


class Answer(NamedTuple):
    """A whole answer of the server; tokens are None where it reports none."""

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    refusal: str


class ErrorBody(NamedTuple):
    """What a server says of a request that it didn't answer; "" where it says nothing."""

    message: str
    code: str
    param: str


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


def request_fields(config: ChatConfig, request: ChatRequest, structured: str) -> dict[str, Any]:
    """The fields of the body; ``structured`` is json_schema, json_object or none."""
    response_format: dict[str, Any] | None = None
    if request.schema is not None and structured == "json_schema":
        schema = {"name": request.schema_name, "strict": True, "schema": request.schema}
        response_format = {"type": "json_schema", "json_schema": schema}
    elif request.schema is not None and structured == "json_object":
        response_format = {"type": "json_object"}
    fields: dict[str, Any] = {
        "model": config.model,
        "messages": [message._asdict() for message in request.messages],
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": None if config.seed is None else config.seed + request.draw,
        "response_format": response_format,
    } | config.extra
    return {name: value for name, value in fields.items() if value is not None}


def encode(fields: Mapping[str, Any]) -> bytes:
    """Compact JSON; a lone surrogate, which UTF-8 can't carry, is sent escaped."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":")).encode()


def parse_answer(body: bytes) -> Answer:
    """Reads the body of a 200; ValueError where it is no JSON, or holds no choice."""
    reply = _load(body)
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        usage = reply.get("usage") or {}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("it holds no choices[0].message") from None
    if not isinstance(text, str) or not isinstance(usage, dict):
        raise ValueError("its content is not a text")
    return Answer(
        text=_whole(text),
        finish_reason=_whole(str(choice.get("finish_reason") or "stop")),
        model=_whole(str(reply.get("model") or "")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        refusal=_whole(str(message.get("refusal") or "")),
    )


def parse_error(body: bytes) -> ErrorBody:
    """What an error body says.

    Servers differ: ``{"error": {"message", "code", "type"}}``, ``{"error": "text"}``, the bare
    ``{"message", "code"}``, ``{"detail": ...}``, or no JSON at all.
    """
    value: Any
    try:
        value = _load(body)
    except ValueError:
        value = body.decode("utf-8", "replace")
    if isinstance(value, dict):
        value = value.get("error") or value
    code = param = ""
    if isinstance(value, dict):
        code = str(value.get("code") or value.get("type") or "")
        param = str(value.get("param") or "")
        value = value.get("message") or value.get("detail") or ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(_whole(text).split()).rstrip(".")
    return ErrorBody(text[:MOST_ERROR_CHARACTERS], code, param)


def embedded_error(body: bytes) -> int | None:
    """The status in the error of a 200 (gateways answer so once they have begun), else None."""
    try:
        value = _load(body)
        if "choices" in value:
            return None
        status = int(value["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None
    return status if 400 <= status < 600 else None


def is_about_format(status: int, error: ErrorBody) -> bool:
    """True where a refusal complains of the response format rather than of the request.

    Some servers (llama.cpp's in Python) answer 500 to a format they don't know; there only the
    format's own name counts, for a 500 is most often a passing fault.
    """
    if status not in (400, 422, 500, 501):
        return False
    complaint = " ".join(error).lower()
    words = ABOUT_FORMAT if status < 500 else ABOUT_FORMAT[:3]
    return any(word in complaint for word in words)


def classify(
    status: int, headers: Mapping[str, str], body: bytes, *, formatted: bool, now: float
) -> Outcome:
    """What a complete HTTP response amounts to; ``formatted``: it asked for a response format."""
    embedded = embedded_error(body) if status == 200 else None
    if status == 200 and embedded is None:
        try:
            answer = parse_answer(body)
        except ValueError as error:
            return Outcome(Kind.FAULT, f"the reply's body is broken ({error})")
        withheld = ""
        if answer.refusal:
            withheld = f"the model refused: {answer.refusal[:200]}"
        elif answer.finish_reason == "content_filter":
            withheld = "the server's content filter cut the answer"
        return Outcome(Kind.FILTERED if withheld else Kind.ANSWER, withheld, answer=answer)
    status = embedded or status
    error_body = parse_error(body)
    if status == 429:
        kind = Kind.DENIED if error_body.code in QUOTA_CODES else Kind.THROTTLED
    elif status == 503:
        kind = Kind.OVERLOADED
    elif formatted and is_about_format(status, error_body):
        kind = Kind.FORMAT_REFUSED
    elif status >= 500 or status in (408, 409, 425):
        kind = Kind.FAULT
    elif status < 400 or status in (401, 402, 403, 404, 405, 407, 410):
        kind = Kind.DENIED
    else:
        kind = Kind.REFUSED
    said = f"HTTP {status}" + (f": {error_body.message}" if error_body.message else "")
    said += f"; {HINTS[status]}" if status in HINTS else ""
    return Outcome(kind, said, retry_after_s(headers, now))


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """How long the server asks to wait: ``retry-after-ms``, or Retry-After in seconds or a date.

    A date counts from the response's own Date where it has one, so that clocks may differ (RFC
    9110, section 10.2.3; ``retry-after-ms`` as OpenAI's servers send it).
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


def _load(body: bytes) -> Any:
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(text: str) -> str:
    """``text`` with lone surrogates, which no file can hold, replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None
