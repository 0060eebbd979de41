"""What is asked of a chat server, what it answers or why it doesn't, and the key of an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gplan_jax.chat.server_config import ChatConfig
from gplan_jax.foundation import GplanError


class Message(NamedTuple):
    """One turn of a conversation; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question to the model."""

    messages: tuple[Message, ...]  # the conversation so far; the reply is its next turn
    # the JSON schema the reply should have; servers that can are held to it, others not: the
    # prompt should say it too, and the caller checks what it gets
    schema: Mapping[str, Any] | None = None
    schema_name: str = "answer"  # letters, digits, _ and - (OpenAI's servers want a name)
    draw: int = 0  # which of several answers to the same request; it shifts the config's seed


@dataclass(frozen=True, slots=True)
class ChatReply:
    """An answer that is in the cache."""

    text: str  # the message's content; "" where the model wrote none (all of it was reasoning)
    finish_reason: str  # "stop", or "length" where ``max_tokens`` cut it short
    key: str  # the request's key, hexadecimal; it stands in the provenance of a row
    model: str  # the model as the server calls it
    # as the server reports them; None where it doesn't
    prompt_tokens: int | None
    completion_tokens: int | None
    cached: bool  # the answer was in the cache, nothing was sent
    attempts: int  # how often the request was sent until this answer came
    structured: str  # what held the reply to the schema: json_schema, json_object or none
    cost: float | None  # in the config's currency; None without prices or without reported tokens


class RequestFailed(GplanError):
    """This one request has no answer; the others can go on, and the caller records its row.

    The server refused it (400, 413, 422), filtered it, or its attempts were used up while others
    got through. Failures are never cached: the request is sent again when the run is repeated.
    """


class ServerUnavailable(GplanError):
    """No request gets through: the run stops, and goes on from the cache when it is repeated."""


class BudgetSpent(GplanError):
    """The next request could overrun the budget: the run stops; what is paid for is cached."""


def request_key(config: ChatConfig, request: ChatRequest) -> str:
    """SHA-256 (hex) over all that determines an answer, in canonical JSON.

    Model, messages, sampling parameters, further fields, schema and draw count. The server's
    address, the key, prices, concurrency and how a schema is enforced don't: the same question to
    the same model has one answer in the cache, wherever and however it was asked.
    """
    determines = {
        "version": 1,
        "model": config.model,
        "messages": request.messages,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "extra": config.extra,
        "schema": request.schema,
        "schema_name": request.schema_name if request.schema is not None else None,
        "draw": request.draw,
    }
    text = json.dumps(determines, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
