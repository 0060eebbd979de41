"""What is asked of a chat server, what it answers or why it doesn't, and the key of an answer."""

from __future__ import annotations

import hashlib
import json
import re
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
    draw: int = 0  # which of several answers to the same request; it changes the seed


@dataclass(frozen=True, slots=True)
class ChatReply:
    """An answer that is in the cache."""

    text: str  # the message's content, see ``wire.Answer``; ``reading.read_object`` reads it
    finish_reason: str  # "stop", "length" where ``max_tokens`` cut it, or a server's own word
    # the key it is cached by, hexadecimal: the request's, asked of the model that answered; it
    # stands in the provenance of a row
    key: str
    model: str  # the model as the server calls it
    # as the server reports them; None where it doesn't
    prompt_tokens: int | None
    completion_tokens: int | None
    cached: bool  # the answer was in the cache, nothing was sent
    attempts: int  # how often the request was sent until this answer came
    structured: str  # what held the reply to the schema: json_schema, json_object or none
    cost: float | None  # in the config's currency; None without prices or without reported tokens


ASK_AGAIN = "Run the command again, which asks again"


class RequestFailed(GplanError):
    """This one request has no answer of use; others can go on, and the caller records its row.

    The server refused it (400, 413, 422), filtered it, or its attempts were used up while others
    got through. Failures are never cached: the request is sent again when the run is repeated.
    ``mend`` is what the user can do, a sentence without its full stop.
    """

    def __init__(self, message: str, mend: str = ASK_AGAIN) -> None:
        super().__init__(message)
        self.mend = mend


class ServerUnavailable(GplanError):
    """No request gets through: the run stops, and goes on from the cache when it is repeated."""


class BudgetSpent(GplanError):
    """The next request could overrun the budget: the run stops; what is paid for is cached."""


# What servers add to the name of one and the same model: a date, a version, ":latest".
_VERSION = re.compile(r"[-@:](\d{4}-\d{2}-\d{2}|\d{3,8}|latest)", re.ASCII)


def same_model(asked: str, answered: str) -> bool:
    """Whether a server that calls its model ``answered`` is taken for the one ``asked`` for.

    Case doesn't count, nor a folder (``Qwen/``) that one of the names lacks, nor a date or version
    behind the name that was asked for.
    """
    a, b = asked.casefold(), answered.casefold()
    if ("/" in a) != ("/" in b):
        a, b = a.rpartition("/")[2], b.rpartition("/")[2]
    return b == a or (b.startswith(a) and _VERSION.fullmatch(b[len(a) :]) is not None)


def request_key(config: ChatConfig, request: ChatRequest, model: str = "") -> str:
    """SHA-256 (hex) over all that determines an answer, in canonical JSON.

    Model (the one that the config expects where ""), messages, sampling parameters, further fields,
    schema and draw count. The server's address, the key, prices, concurrency and how a schema is
    enforced don't: the same question to the same model has one answer in the cache, wherever and
    however it was asked.
    """
    determines = {
        "version": 1,
        "model": model or config.expected_model,
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
