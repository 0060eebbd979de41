"""The model that a server plans with: loaded behind an open port, and replaced while it serves."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import Response

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, parse_plan
from gplan_jax.inference.engine import requests
from gplan_jax.reasoning import LatentVocabulary
from gplan_jax.serving.http.telemetry import log
from gplan_jax.serving.planning.endpoints import PlanEndpoints
from gplan_jax.serving.planning.openai_routes import OpenAiEndpoints

TRIAL_S = 60.0  # for one example of a new model
_NOTHING = requests.EngineSnapshot(ready=False, queued=0, active=0, slots=0, queue_limit=0)


@dataclass(frozen=True)
class LoadedModel:
    """An engine with what its answers are read by."""

    name: str
    revision: str  # hash of the model directory
    engine: requests.Engine
    library: IntentLibrary
    latents: LatentVocabulary | None  # None where the model writes no latent prefix


class LateEngine:
    """Loads an engine in a thread and is that engine from then on; until then it is not ready.

    ``on_loaded`` is called with the model, in the loading thread. ``replace`` puts another one in
    its place.
    """

    def __init__(
        self, load: Callable[[], LoadedModel], on_loaded: Callable[[LoadedModel], None]
    ) -> None:
        self._load, self._on_loaded = load, on_loaded
        self._engine: requests.Engine | None = None
        self._lock, self._closed = threading.Lock(), False
        self.failure: BaseException | None = None  # What kept the engine from being loaded.
        self._thread: threading.Thread | None = None

    def start(self, on_failure: Callable[[], None]) -> None:
        """Begins to load; where that fails, ``on_failure`` is called and ``failure`` is set."""
        self._thread = threading.Thread(
            target=self._run, args=(on_failure,), name="gplan-load", daemon=True
        )
        self._thread.start()

    @property
    def loading(self) -> bool:
        """Whether the loading thread still runs; it can't be stopped from outside."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, request: requests.PlanRequest) -> Future[requests.PlanAnswer]:
        """As ``Engine.submit``; before the engine stands it refuses everything."""
        if self._engine is None:
            raise requests.Draining("The engine is not there yet.")
        return self._engine.submit(request)

    def snapshot(self) -> requests.EngineSnapshot:
        """As ``Engine.snapshot``."""
        return _NOTHING if self._engine is None else self._engine.snapshot()

    def close(self, *, drain_s: float = 0.0) -> None:
        """As ``Engine.close``; an engine that comes later is closed at once."""
        with self._lock:
            self._closed = True
        if self._engine is not None:
            self._engine.close(drain_s=drain_s)

    def replace(self, engine: requests.Engine) -> None:
        """Is ``engine`` from now on; Draining where the server is being stopped."""
        with self._lock:
            if not self._closed:
                self._engine = engine
                return
        engine.close()
        raise requests.Draining("The server is being stopped.")

    def _run(self, on_failure: Callable[[], None]) -> None:
        try:
            loaded = self._load()
            try:
                self.replace(loaded.engine)
            except requests.Draining:
                return
            self._on_loaded(loaded)
        except BaseException as error:  # the main thread raises it again
            self.failure = error
            on_failure()


@dataclass
class ServedModel:
    """A model's endpoints; ``inside`` requests are being answered by them."""

    planning: PlanEndpoints
    openai: OpenAiEndpoints
    revision: str = ""
    inside: int = 0


class Models:
    """``current`` is the model that plans now. A request stays with the one that it began with."""

    def __init__(self, planning: PlanEndpoints) -> None:
        self.current = ServedModel(planning, OpenAiEndpoints(planning))

    def handler(
        self, pick: Callable[[ServedModel], Callable[[Request], Awaitable[Response]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that is the current model's."""

        async def handle(request: Request) -> Response:
            served = self.current
            served.inside += 1
            try:
                return await pick(served)(request)
            finally:
                served.inside -= 1

        handle.__doc__ = pick(self.current).__doc__
        return handle

    def take_over(self, loaded: LoadedModel) -> ServedModel:
        """Requests that come from now on go to ``loaded``; the model before."""
        before = self.current
        planning = replace(
            before.planning,
            engine=loaded.engine,
            library=loaded.library,
            latents=loaded.latents,
            settings=before.planning.settings.model_copy(update={"model": loaded.name}),
        )
        self.current = ServedModel(planning, OpenAiEndpoints(planning), loaded.revision)
        return before


class Reloader:
    """Puts another model directory in the place of the one that is served."""

    def __init__(
        self,
        load: Callable[[Path], LoadedModel],
        path: Path,
        engine: LateEngine,
        models: Models,
        examples: Sequence[Sample],
        *,
        drain_s: float,
    ) -> None:
        self._load, self._path, self._engine, self._models = load, path, engine, models
        self._examples, self._drain_s = examples, drain_s
        self._busy = threading.Lock()

    def reload(self, path: Path | None = None) -> dict[str, Any]:
        """Loads, compiles and tries a model beside the current one, which answers meanwhile, and
        lets it take over between two requests. On any fault the current one stays.

        Without a ``path`` it is the directory that the server was started with: it may hold another
        model by now, or be a link to another directory.

        Raises:
            GplanError: another reload is at work, or the model can't be loaded or fails its trial.
        """
        if not self._busy.acquire(blocking=False):
            raise GplanError("Another reload is at work; ask again once it is done.")
        started = time.monotonic()
        try:
            if not self._engine.snapshot().ready:
                raise GplanError("There is no model yet that another could replace.")
            loaded = self._load(path or self._path)
            try:
                prove(loaded, self._examples)
                before = self._models.current.planning.engine
                self._engine.replace(loaded.engine)
            except BaseException:
                loaded.engine.close()
                raise
            served = self._models.take_over(loaded)
            # Who began with the model before is answered by it.
            end = time.monotonic() + self._drain_s
            while served.inside and time.monotonic() < end:
                time.sleep(0.05)
            before.close(drain_s=max(0.0, end - time.monotonic()))
        except BaseException as error:
            told = str(error) if isinstance(error, GplanError) else None
            log("reload_failed", error=type(error).__name__, message=told)
            raise
        finally:
            self._busy.release()
        seconds = round(time.monotonic() - started, 1)
        now = {"model": loaded.name, "revision": loaded.revision, "seconds": seconds}
        log("reloaded", **now)
        return {**now, "examples": len(self._examples)}

    def reload_and_tell(self) -> None:
        """Reloads in a thread of its own; the log says what came of it."""

        def run() -> None:
            with contextlib.suppress(Exception):
                self.reload()

        threading.Thread(target=run, name="gplan-reload", daemon=True).start()


def prove(loaded: LoadedModel, examples: Sequence[Sample]) -> None:
    """Plans for examples one by one, then for all at once: other drafts and other neighbours, and
    the answers must be the same, finite, and plans.

    Raises:
        GplanError: which example got what.
    """

    def text(future: Future[requests.PlanAnswer], number: int) -> str:
        try:
            return future.result(timeout=TRIAL_S).text
        except GplanError as error:
            raise GplanError(f"{loaded.name} has no plan for example {number}: {error}") from None

    asked = [requests.PlanRequest(example) for example in examples]
    alone = [text(loaded.engine.submit(request), n) for n, request in enumerate(asked, 1)]
    futures = [loaded.engine.submit(request) for request in asked]
    for number, (one, future) in enumerate(zip(alone, futures, strict=True), 1):
        if not parse_plan(one, loaded.library):
            raise GplanError(f"{loaded.name} answers example {number} with no plan: {one[:200]}")
        if (other := text(future, number)) != one:
            raise GplanError(
                f"{loaded.name} answers example {number} differently beside others: "
                f"{one[:200]} and {other[:200]}"
            )
