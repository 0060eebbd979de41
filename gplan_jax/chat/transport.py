"""One attempt over HTTP: a body is posted, and whatever happens comes back as an Outcome."""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from gplan_jax import __version__
from gplan_jax.chat.server_config import ChatConfig, is_loopback, read_api_key
from gplan_jax.chat.wire import Kind, Outcome, classify
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.extras import load_extra

CONNECT_TIMEOUT_S = 10.0
# Idle connections are dropped before servers do it (uvicorn, and so vLLM and SGLang, after 5 s):
# a request sent into a connection that is just being closed would have to be sent again.
KEEPALIVE_S = 3.0


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
