"""Requests and answers on the wire: the body of POST /chat/completions, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from gplan_jax.chat.config import ChatConfig
from gplan_jax.chat.messages import ChatRequest

# From the strictest to none; "auto" goes down until the server takes one.
FORMATS = ("json_schema", "json_object", "none")
# Words by which a refusal is known to be about the response format. (OpenAI: "response_format";
# vLLM: "guided", "grammar", "structured"; SGLang: "json_schema", "grammar".)
ABOUT_FORMAT = ("response_format", "json_schema", "json_object", "grammar", "guided", "structured")
MOST_ERROR_CHARACTERS = 500


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


def request_fields(config: ChatConfig, request: ChatRequest, structured: str) -> dict[str, Any]:
    """The fields of the body; ``structured`` is json_schema, json_object or none."""
    fields: dict[str, Any] = {
        "model": config.model,
        "messages": [message._asdict() for message in request.messages],
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": None if config.seed is None else config.seed + request.draw,
        "response_format": _response_format(request, structured),
    } | config.extra
    return {name: value for name, value in fields.items() if value is not None}


def encode(fields: Mapping[str, Any]) -> bytes:
    """Compact JSON; a lone surrogate, which UTF-8 can't carry, is sent escaped."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(fields, separators=(",", ":")).encode()


def _response_format(request: ChatRequest, structured: str) -> dict[str, Any] | None:
    if request.schema is None or structured == "none":
        return None
    if structured == "json_object":
        return {"type": "json_object"}
    schema = {"name": request.schema_name, "strict": True, "schema": request.schema}
    return {"type": "json_schema", "json_schema": schema}


def parse_answer(body: bytes) -> Answer:
    """Reads the body of a 200.

    Raises:
        ValueError: it is no JSON (cut short, a proxy's page), or holds no choice.
    """
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


def lower_format(structured: str) -> str | None:
    """The next weaker format; None after the last."""
    rank = FORMATS.index(structured)
    return FORMATS[rank + 1] if rank + 1 < len(FORMATS) else None


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
