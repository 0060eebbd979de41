"""Asks a chat server, many requests at once: answers come from the cache, or are paid for once.

One attempt over HTTP is a body that is posted; whatever happens comes back as an Outcome.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gplan_jax import __version__
from gplan_jax.chat.cache import Cache
from gplan_jax.chat.ledger import Account, Ledger, cost_of
from gplan_jax.chat.messages import (
    ASK_AGAIN,
    ChatReply,
    ChatRequest,
    Message,
    RequestFailed,
    ServerUnavailable,
    request_key,
    same_model,
)
from gplan_jax.chat.pacing import Fail, GiveUp, Limiter, Stop, Wait, decide, pause_s
from gplan_jax.chat.server_config import ChatConfig, is_loopback, read_api_key
from gplan_jax.chat.wire import FORMATS, Kind, Outcome, classify, encode, request_fields
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.errors import load_extra

CONNECT_TIMEOUT_S = 10.0
# Idle connections are dropped before servers do it (uvicorn, and so vLLM and SGLang, after 5 s):
# a request sent into a connection that is just being closed would have to be sent again.
KEEPALIVE_S = 3.0
log = logging.getLogger(__name__)

# How long close() waits for answers on the wire, which are paid for.
DRAIN_S = 30.0
PROBES = 3
PROBE = ChatRequest((Message("user", "OK?"),))


class Transport:
    """Connections to one server, one for each request under way; used in one event loop.

    Each connection is a client of its own: httpx's pool looks at all its connections for every
    request, which at 64 connections takes as long as the rest of the request.

    Proxies and certificates come from the environment (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE), but
    for this machine itself, which no proxy could reach. Redirects are not followed: the key goes
    to ``base_url`` only.
    """

    def __init__(self, config: ChatConfig) -> None:
        self._httpx2 = load_extra("httpx2", "chat", "chat servers")
        self._config = config
        self._key = read_api_key(config)
        self._url = self._httpx2.URL(config.base_url.rstrip("/") + "/chat/completions")
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"gplan-jax/{__version__} Python/{platform.python_version()}",
        }
        if self._key is not None:
            self._headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        self._trust_env = not is_loopback(urlsplit(config.base_url).hostname or "")
        self._clients: list[Any] = []
        self._idle: list[Any] = []
        try:
            self._certificates = self._httpx2.create_ssl_context(trust_env=self._trust_env)
            self._idle.append(self._new_client())
        except Exception as error:
            # Its message is not repeated: a proxy's address may hold a password.
            raise GplanError(
                f"The proxy or certificate settings of the environment ({type(error).__name__}) "
                "are not valid: check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and "
                "SSL_CERT_FILE."
            ) from None

    async def send(self, body: bytes, key: str, *, formatted: bool) -> Outcome:
        """Posts ``body`` once; never raises for what a server or network does.

        ``key`` goes along as Idempotency-Key, so that servers that know it bill it once.
        """
        httpx2, url, headers = self._httpx2, self._url, {"Idempotency-Key": key}
        # The one used last: its connection is the likeliest to be still open.
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                response = await client.post(url, content=body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            outcome = Outcome(Kind.UNREACHABLE, f"no connection ({error or type(error)})")
        except (TimeoutError, httpx2.TimeoutException):
            outcome = Outcome(Kind.CUT, f"no answer within {self._config.timeout_s:g} s")
        except (httpx2.HTTPError, OSError) as error:
            outcome = Outcome(Kind.CUT, f"the connection broke ({error or type(error)})")
        else:
            status, found, content = response.status_code, response.headers, response.content
            outcome = classify(status, found, content, formatted=formatted, now=time.time())
        finally:
            self._idle.append(client)
        if self._key is None:
            return outcome
        # A server's message may repeat the key.
        message = outcome.message.replace(self._key.get_secret_value(), "[API key]")
        return replace(outcome, message=message)

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()

    def _new_client(self) -> Any:
        httpx2, timeout_s = self._httpx2, self._config.timeout_s
        client = httpx2.AsyncClient(
            headers=self._headers,
            # The whole attempt is bounded in send(): a server may drip bytes for ever.
            timeout=httpx2.Timeout(None, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx2.Limits(max_connections=1, keepalive_expiry=KEEPALIVE_S),
            verify=self._certificates,
            trust_env=self._trust_env,
            follow_redirects=False,
        )
        self._clients.append(client)
        return client


@dataclass
class _Session:
    """What belongs to one event loop."""

    loop: asyncio.AbstractEventLoop
    transport: Transport
    limiter: Limiter
    flights: dict[str, asyncio.Task[ChatReply]] = field(default_factory=dict)
    on_the_wire: set[str] = field(default_factory=set)
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class ChatClient:
    """An OpenAI-compatible server behind a cache, with retries, a pace and a budget.

    A paid answer is committed to ``cache``, an SQLite file made where it is missing, before anybody
    sees it, so a run that was stopped at any moment is continued by repeating it. Used in one event
    loop at a time. GplanError where the cache can't be used (see ``Cache``).
    """

    def __init__(self, config: ChatConfig, cache: Path) -> None:
        self._config = config
        self._cache = Cache(Path(cache), config.currency)
        self._account = Account(config, self._cache.totals(), self._cache.whole)
        self._session: _Session | None = None
        self._formats: dict[str, str] = {}
        self._got_through = 0
        self._stopped = ""

    @property
    def at_once(self) -> int:
        """The most requests that it sends at once."""
        return self._config.concurrency

    @property
    def ledger(self) -> Ledger:
        return self._account.ledger

    async def ask(self, request: ChatRequest) -> ChatReply:
        """The answer to ``request``: from the cache, from the same request under way, or paid for.

        RequestFailed where this request has no answer but others may; ServerUnavailable where
        nothing gets through; BudgetSpent where it could overrun the budget; GplanError where the
        cache, the key's variable or the budget can't be used. After the last three nothing more is
        sent.
        """
        key = request_key(self._config, request)
        kept = self._cache.get(key)
        name = self._config.expected_model
        if kept and (kept.finish_reason == "error" or not same_model(name, kept.model)):
            # Older versions kept errors, and another model's answer under the name asked for.
            key = request_key(self._config, request, f"{name}, asked again")
            kept = self._cache.get(key)
        if kept is not None:
            self._account.count(from_cache=1)
            return kept
        session = self._open()
        flight = session.flights.get(key)
        if flight is not None:
            reply = replace(await asyncio.shield(flight), cached=True)
            self._account.count(from_cache=1)
            return reply
        flight = asyncio.create_task(self._answer(session, key, request))
        session.flights[key] = flight
        flight.add_done_callback(lambda done: _land(session, key, done))
        # Shielded: what is on the wire is paid for, and is kept even if nobody waits any more.
        return await asyncio.shield(flight)

    async def close(self) -> None:
        """Waits for the answers on the wire (at most 30 s), then lets go of everything.

        Requests that wait for their turn or their next attempt end at once.
        """
        self._stopped = self._stopped or "the client was closed"
        session, self._session = self._session, None
        try:
            # The connections of a loop that is closed went with it.
            if session is not None and session.loop is asyncio.get_running_loop():
                for key, flight in session.flights.items():
                    if key not in session.on_the_wire:
                        flight.cancel()
                if flights := list(session.flights.values()):
                    _, waiting = await asyncio.wait(flights, timeout=1.0)
                    if waiting:
                        log.warning(
                            "Waiting up to %.0f s for %d answers that are paid for; "
                            "Ctrl-C leaves them.",
                            DRAIN_S,
                            len(waiting),
                        )
                        await asyncio.wait(waiting, timeout=DRAIN_S)
                    for flight in flights:
                        flight.cancel()
                    await asyncio.gather(*flights, return_exceptions=True)
                await session.transport.close()
        finally:
            await self._cache.close()

    def _open(self) -> _Session:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:
            limiter = Limiter(self._config.concurrency)
            self._session = _Session(loop, Transport(self._config), limiter)
        return self._session

    async def _answer(self, session: _Session, key: str, request: ChatRequest) -> ChatReply:
        config, formats, name = self._config, self._formats, request.schema_name

        def failed(reason: str, mend: str = ASK_AGAIN) -> RequestFailed:
            self._account.count(failed=1)
            said = f"Request {key[:12]} to {config.base_url} ({config.model}): {reason}."
            return RequestFailed(said, mend)

        structured = "none"
        if request.schema is not None:
            auto = config.structured == "auto"
            structured = formats.get(name, FORMATS[0]) if auto else config.structured
        sent = faults = throttles = before = 0
        async with self._account.reserved(request):
            while True:
                sent += 1
                outcome, reply = await self._attempt(session, key, request, structured, sent)
                if reply is not None:
                    return reply
                if self._stopped:
                    raise self._stop(self._stopped)
                format_refused = outcome.kind is Kind.FORMAT_REFUSED
                if format_refused and config.structured == "auto" and structured != FORMATS[-1]:
                    # At once with the next weaker one, or with what others found to work by now.
                    found = FORMATS.index(formats.get(name, FORMATS[0]))
                    structured = FORMATS[max(found, FORMATS.index(structured) + 1)]
                    continue
                if not faults + throttles:
                    before = self._got_through
                throttled = outcome.kind is Kind.THROTTLED
                throttles, faults = throttles + throttled, faults + (not throttled)
                decision = decide(
                    outcome,
                    faults=faults,
                    throttles=throttles,
                    attempts=config.attempts,
                    backoff_s=config.backoff_s,
                    jitter=random.random(),
                )
                match decision:
                    case Wait(seconds):
                        self._account.count(retries=1)
                        await asyncio.sleep(seconds)
                    case Stop(reason):
                        raise self._stop(reason)
                    case Fail(reason):
                        # Is it this request, or would the server refuse any?
                        if format_refused and name not in formats:
                            raise self._stop(f"{reason} (structured: auto does without)")
                        if not self._got_through and await self._probe(session, 0) is Kind.REFUSED:
                            raise self._stop(f"it refuses every request: {reason}")
                        raise failed(reason, "Mend that; the server would refuse it again")
                    case GiveUp(reason):
                        if await self._probe(session, before) is not Kind.ANSWER:
                            raise self._stop(reason)
                        raise failed(reason)

    async def _attempt(
        self, session: _Session, key: str, request: ChatRequest, structured: str, sent: int
    ) -> tuple[Outcome, ChatReply | None]:
        """Sends the request once; an answer is committed and booked before it is returned.

        What is filtered, and a probe's answer, is booked without being kept: its reply is None.
        """
        config, limiter = self._config, session.limiter
        async with limiter.slot(first=sent > 1 or request is PROBE) as round_:
            if self._stopped:
                raise self._stop(self._stopped)
            self._account.check_usage()
            body = encode(request_fields(config, key, request, structured))
            formatted = request.schema is not None and structured != "none"
            # Servers bill a body by its key once, and refuse (409) a key with another body: the
            # format that a request fell back to is part of it.
            fell_back = request.schema is not None and structured != FORMATS[0]
            idempotency_key = f"{key}-{structured}" if fell_back else key
            session.on_the_wire.add(key)
            try:
                outcome = await session.transport.send(body, idempotency_key, formatted=formatted)
                answer = outcome.answer
                if outcome.kind in (Kind.THROTTLED, Kind.OVERLOADED):
                    limiter.refused(round_, pause_s(outcome))
                elif outcome.kind is Kind.CUT:
                    self._account.count(unanswered=1)
                if answer is None:
                    return outcome, None
                self._got_through += 1
                limiter.answered()
                model, kept_as = answer.model or config.expected_model, key
                if not same_model(config.expected_model, model):
                    if not self._account.ledger.by_others:
                        log.warning(
                            "%s was asked for %s, and %s answered. Its answers are used, and kept "
                            "under its own name: a rerun asks %s again. Mend model or the server; "
                            "if %s is what you mean, say server.answers_as=%s.",
                            *(config.base_url, config.model, model, config.model, model, model),
                        )
                    self._account.count(by_others=1)
                    if request is not PROBE:
                        kept_as = request_key(config, request, model)
                reply = ChatReply(
                    text=answer.text,
                    finish_reason=answer.finish_reason,
                    key=kept_as,
                    model=model,
                    prompt_tokens=answer.prompt_tokens,
                    completion_tokens=answer.completion_tokens,
                    cached=False,
                    attempts=sent,
                    structured=structured,
                    cost=cost_of(config, answer.prompt_tokens, answer.completion_tokens),
                )
                unusable = outcome.message or ("probe" if request is PROBE else "")
                reply = await self._cache.keep(reply, unusable=unusable)
                self._account.paid(reply)
            finally:
                session.on_the_wire.discard(key)
        if unusable:
            return outcome, None
        if request.schema is not None:
            self._formats[request.schema_name] = structured
        return outcome, reply

    async def _probe(self, session: _Session, since: int) -> Kind:
        """ANSWER where anything has got through after the first ``since`` answers, or does now.

        When a request gives up, the fault may be the request's or the server's. So the simplest
        request is sent, with the same model and parameters: up to PROBES times, since a server that
        fails now and then is still there. It is booked, but never kept as an answer.
        """
        async with session.probing:
            for tried in range(PROBES):
                if self._got_through == since:
                    await asyncio.sleep(random.random() * self._config.backoff_s * 2**tried)
                if self._got_through > since:
                    break
                key = f"probe-{uuid.uuid4().hex}"
                outcome, _ = await self._attempt(session, key, PROBE, "none", 1)
                if outcome.answer is not None:
                    break
                if outcome.kind in (Kind.REFUSED, Kind.DENIED) or self._stopped:
                    return outcome.kind
            else:
                return outcome.kind
        return Kind.ANSWER

    def _stop(self, reason: str) -> ServerUnavailable:
        self._stopped = self._stopped or reason
        if self._session is not None:
            self._session.limiter.resume()
        return ServerUnavailable(
            f"{self._config.base_url} ({self._config.model}) answers no more requests: {reason}. "
            f"Mend that and run the same command again: every answer so far is in "
            f"{self._cache.whole}."
        )


# Makes what a teacher or judge asks by, over a cache's file.
Connect = Callable[[ChatConfig, Path], ChatClient]


def _land(session: _Session, key: str, flight: asyncio.Task[ChatReply]) -> None:
    del session.flights[key]
    if not flight.cancelled():
        flight.exception()  # Seen here, so that asyncio doesn't complain where nobody waits.
