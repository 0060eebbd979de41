"""Requests and answers on the wire: the body of POST /chat/completions, and what comes back.

Pure functions: no clock, no network.
"""

from __future__ import annotations

import hashlib
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
from gplan_jax.foundation.files import whole

# From the strictest to none; "auto" goes down until the server takes one.
FORMATS = ("json_schema", "json_object", "none")
# Words by which a refusal is known to be about the response format. (OpenAI: "response_format";
# vLLM: "guided", "grammar", "structured"; SGLang: "json_schema", "grammar".)
ABOUT_FORMAT = ("response_format", "json_schema", "json_object", "grammar", "guided", "structured")
MOST_ERROR_CHARACTERS = 500
TOO_LONG = (
    "the prompt and max_tokens are longer than the model's context: lower max_tokens, show fewer "
    "examples, or serve the model with a longer one (vLLM: --max-model-len, llama.cpp: -c)"
)
STREAMED = (
    "the reply is a stream (text/event-stream) though none was asked for: have the server, or the "
    "gateway before it, obey a request without stream: true"
)
HINTS = {
    401: "check the API key that api_key_env names",
    403: "check what the API key may do",
    404: "check base_url, which ends with /v1 at most servers, and model",
}
QUOTA_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
# The same for the prompt's length. (vLLM: "maximum context length", llama.cpp: "context size".)
ABOUT_LENGTH = ("context length", "context_length", "context size", "context window", "too long")
# What servers call a reply's end in their own words -> ours; any other word is left as it is, for
# the reader of the text decides.
FINISH = {
    **dict.fromkeys(("eos", "eos_token", "end_turn", "stop_sequence", "completed"), "stop"),
    **dict.fromkeys(("max_tokens", "max_length", "max_output_tokens"), "length"),
    **dict.fromkeys(("safety", "sensitive", "blocklist", "prohibited_content"), "content_filter"),
    **dict.fromkeys(("abort", "aborted", "canceled", "cancelled", "failed", "timeout"), "error"),
}


class Answer(NamedTuple):
    """A whole answer of the server; tokens are None where it reports none.

    Where ``content`` has no text, but another field has, ``text`` is that in a tag of the field's
    name: ``<reasoning_content>...</reasoning_content>``, as other servers write ``<think>``.
    """

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


def request_fields(
    config: ChatConfig, key: str, request: ChatRequest, structured: str
) -> dict[str, Any]:
    """The fields of the body; ``structured`` is json_schema, json_object or none."""
    # One seed for all rows would draw the same openings for all; with the key in it, rows differ,
    # and a request has the same one in every run.
    mixed = hashlib.sha256(f"{config.seed}:{key}".encode()).digest()
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
        "seed": None if config.seed is None else int.from_bytes(mixed[:4]) >> 1,
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


def parse_answer(reply: Any) -> Answer:
    """Reads the JSON of a 200; ValueError where it holds no answer."""
    try:
        choice = reply["choices"][0]
        message = choice["message"]
        text, tools = _text(message.get("content")), message.get("tool_calls")
        elsewhere = {
            "reasoning_content": _text(message.get("reasoning_content")),
            "reasoning": _text(message.get("reasoning")),
            "tool_calls": json.dumps(tools, ensure_ascii=False) if tools else "",
        }
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("it holds no choices[0].message") from None
    for where, found in elsewhere.items():
        text = f"<{where}>{found}</{where}>" if found and not text.strip() else text
    usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
    reason, refusal = _finish(choice) or "stop", whole(str(message.get("refusal") or ""))
    tokens = _count(usage.get("completion_tokens"))
    if not (text or tokens or refusal or reason in ("length", "content_filter")):
        raise ValueError("its message is empty")
    return Answer(
        text=whole(text),
        finish_reason=whole(reason),
        model=whole(str(reply.get("model") or "")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=tokens,
        refusal=refusal,
    )


def _text(content: Any) -> str:
    """The text of a field that is a text, or a list of parts of which those of text count."""
    parts = content if isinstance(content, list) else [content]
    texts = (p.get("text") if isinstance(p, dict) and p.get("type") == "text" else p for p in parts)
    return "".join(text for text in texts if isinstance(text, str))


def _finish(choice: Mapping[str, Any]) -> str:
    reason = str(choice.get("finish_reason") or "").casefold()
    return FINISH.get(reason, reason)


def parse_error(value: Any) -> ErrorBody:
    """What the JSON of an error (or its text) says.

    Servers differ: ``{"error": {"message", "code", "type"}}``, ``{"error": "text"}``, the bare
    ``{"message", "code"}``, ``{"detail": ...}``, or no JSON at all.
    """
    if isinstance(value, dict):
        value = value.get("error") or value
    code = param = ""
    if isinstance(value, dict):
        code = str(value.get("code") or value.get("type") or "")
        param = str(value.get("param") or "")
        value = value.get("message") or value.get("detail") or ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(whole(text).split()).rstrip(".")
    return ErrorBody(text[:MOST_ERROR_CHARACTERS], code, param)


def inner_error(reply: Any) -> Any:
    """The error in a 200, None where there is none: gateways answer so when their upstream fails
    after they have begun, with ``error`` beside ``choices`` or in one, or as ``finish_reason``.
    """
    try:
        choice = (reply.get("choices") or [{}])[0]
        error, ended = reply.get("error") or choice.get("error"), _finish(choice)
    except (AttributeError, KeyError, TypeError):
        return None
    if not error and ended == "error":
        return f"the reply ended with finish_reason {choice['finish_reason']!r}"
    return error or (reply if not choice and parse_error(reply).message else None)


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
    value: Any
    try:
        value = _load(body)
    except ValueError as error:
        value = body.decode("utf-8", "replace")
        if status == 200:
            if value.lstrip().startswith(("data:", "event:", ":")):
                return Outcome(Kind.DENIED, STREAMED)
            page = "is a web page: check base_url" if value.lstrip().startswith("<") else ""
            return Outcome(Kind.FAULT, f"the reply's body {page or f'is broken ({error})'}")
    inside = ""
    if status == 200:
        fault = inner_error(value)
        if fault is None:
            try:
                answer = parse_answer(value)
            except ValueError as error:
                return Outcome(Kind.FAULT, f"the reply's body is broken ({error})")
            withheld = ""
            if answer.refusal:
                withheld = f"the model refused: {answer.refusal[:200]}"
            elif answer.finish_reason == "content_filter":
                withheld = "the server's content filter cut the answer"
            return Outcome(Kind.FILTERED if withheld else Kind.ANSWER, withheld, answer=answer)
        value, inside = fault, " inside a 200"
    error_body = parse_error(value)
    if inside:
        code = error_body.code
        throttled = "rate_limit" in code or code in QUOTA_CODES
        known = code.isdecimal() and 400 <= int(code[:9]) < 600
        status = int(code) if known else 429 if throttled else 502
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
    said = f"HTTP {status}{inside}" + (f": {error_body.message}" if error_body.message else "")
    said += f"; {HINTS[status]}" if status in HINTS else ""
    if kind is Kind.REFUSED and any(word in " ".join(error_body).lower() for word in ABOUT_LENGTH):
        said += f"; {TOO_LONG}"
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


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if is_count else None
