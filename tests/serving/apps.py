"""Apps around engines without a model, called in the process and over a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fake_engine import FakeEngine
from fastapi import FastAPI
from opentelemetry.trace import Tracer

from gplan_jax.gsisr import IntentLibrary
from gplan_jax.inference.engine.requests import Engine
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.serving.http.server import DrainingServer, listen
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.planning.app import create_app
from gplan_jax.serving.planning.models import LoadedModel, Models


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns once ``condition`` holds; fails where it does not come to hold."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.005)


def loaded_model(engine: Engine, name: str = "model", revision: str = "") -> LoadedModel:
    """A model around ``engine`` with the shipped library."""
    return LoadedModel(name, revision, engine, IntentLibrary.load(), GSISR_LATENTS)


def models_of(engine: Engine, name: str = "model") -> Models:
    """One model that is there from the start."""
    return Models(loaded_model(engine, name), lambda path: pytest.fail("not asked for"), {})


def make_app(
    engine: Engine, tracer: Tracer | None = None, model: str = "model", **settings: Any
) -> FastAPI:
    """An app around ``engine`` with the shipped library."""
    options = ServerSettings(**({"examples": 2} | settings))
    return create_app(models_of(engine, model), settings=options, tracer=tracer)


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client that calls the app without a socket."""
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@dataclass
class Running:
    """A server on a real socket, in a thread."""

    server: DrainingServer
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running(engine: FakeEngine, *, drain_s: float = 5.0, **settings: Any) -> Iterator[Running]:
    """Serves an app on a free port, and stops it."""
    server = DrainingServer(make_app(engine, **settings), drain_s=drain_s)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Running(server, port, thread)
    finally:
        server.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()
