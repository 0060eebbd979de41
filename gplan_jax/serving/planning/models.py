"""The models that a server plans with: loaded behind an open port, replaced while it serves, and
side by side for the arms of an A/B test.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import Response

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, parse_plan
from gplan_jax.inference.engine import requests
from gplan_jax.inference.engine.replicas import close_all, sum_of
from gplan_jax.reasoning import LatentVocabulary
from gplan_jax.serving.http.telemetry import log

MAIN = ""  # in the place of an arm's name: the model of all who have none of their own
TRIAL_S = 60.0  # for one example of a new model


@dataclass(frozen=True)
class LoadedModel:
    """An engine with what its answers are read by."""

    name: str
    revision: str  # hash of the model directory
    engine: requests.Engine
    library: IntentLibrary
    latents: LatentVocabulary | None  # None where the model writes no latent prefix


class NoEngineYet:
    """The engine of a model that is still being loaded."""

    def submit(self, request: requests.PlanRequest) -> Future[requests.PlanAnswer]:
        """Refuses everything."""
        raise requests.Draining("The engine is not there yet.")

    def snapshot(self) -> requests.EngineSnapshot:
        """Of nothing, and not ready."""
        return requests.EngineSnapshot(ready=False, queued=0, active=0, slots=0, queue_limit=0)

    def close(self, *, drain_s: float = 0.0) -> None:
        """Nothing is to be done."""


@dataclass
class ModelSet:
    """The models that plan at one time, by arm; ``inside`` requests are being answered by them."""

    by_arm: Mapping[str, LoadedModel]
    inside: int = 0

    @property
    def main(self) -> LoadedModel:
        """The model of all who have none of their own."""
        return self.by_arm[MAIN]

    def of(self, arm: str | None) -> LoadedModel:
        """An arm's own model; the main one where it has none, or its engine has failed."""
        own = self.by_arm.get(arm or MAIN, self.main)
        return own if own.engine.snapshot().ready else self.main


class Models:
    """The models of a server; to the rest of it one engine, ready while the main model is.

    ``current`` are those that plan now. A request stays with the ones that it began with.

    Args:
        main: what is said of the main model until it is loaded.
        load: makes a model of a directory; it is called in threads.
        directories: of the main model (``MAIN``) and of the arms that have one of their own.
        examples: that a model has to plan for before it takes another one's place.
        drain_s: seconds that requests have to be answered by the model that they began with.
    """

    def __init__(
        self,
        main: LoadedModel,
        load: Callable[[Path], LoadedModel],
        directories: Mapping[str, Path],
        examples: Sequence[Sample] = (),
        *,
        drain_s: float = 0.0,
    ) -> None:
        self.current = ModelSet({MAIN: main})
        self._load, self._directories = load, directories
        self._examples, self._drain_s = examples, drain_s
        self._lock, self._busy, self._closed = threading.Lock(), threading.Lock(), False
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None  # what kept a model from being loaded

    def start(self, on_ready: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Loads all models in a thread, which calls one of the two at its end; ``failure`` is set
        before the second.
        """

        def run() -> None:
            loaded: dict[str, LoadedModel] = {}
            try:
                try:
                    for arm, directory in self._directories.items():
                        loaded[arm] = self._load_for(arm, directory)
                    self._put(loaded)
                except BaseException:
                    close_all([model.engine for model in loaded.values()])
                    raise
                on_ready()
            except requests.Draining:
                return
            except BaseException as error:  # the main thread raises it again
                self.failure = error
                on_failure()

        self._thread = threading.Thread(target=run, name="gplan-load", daemon=True)
        self._thread.start()

    @property
    def loading(self) -> bool:
        """Whether the loading thread still runs; it can't be stopped from outside."""
        return self._thread is not None and self._thread.is_alive()

    def handler(
        self, endpoint: Callable[[Request, ModelSet], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint with the models that plan when its request comes."""

        async def handle(request: Request) -> Response:
            models = self.current
            models.inside += 1
            try:
                return await endpoint(request, models)
            finally:
                models.inside -= 1

        handle.__doc__ = endpoint.__doc__
        return handle

    def submit(self, request: requests.PlanRequest) -> Future[requests.PlanAnswer]:
        """Asks the main model's engine."""
        return self.current.main.engine.submit(request)

    def snapshot(self) -> requests.EngineSnapshot:
        """State and counts of all engines together."""
        states = {arm: model.engine.snapshot() for arm, model in self.current.by_arm.items()}
        main = states[MAIN]
        return main if len(states) == 1 else replace(sum_of(states), ready=main.ready)

    def close(self, *, drain_s: float = 0.0) -> None:
        """Closes all engines; one that comes later is closed at once."""
        with self._lock:
            self._closed = True
        close_all([model.engine for model in self.current.by_arm.values()], drain_s=drain_s)

    def reload(self, path: Path | None = None, arm: str = MAIN) -> dict[str, Any]:
        """Loads, compiles and tries a model beside the current one of ``arm``, which answers
        meanwhile, and lets it take over between two requests. On any fault the current one stays.

        Without a ``path`` it is the directory that the server was started with: it may hold another
        model by now, or be a link to another directory.

        Raises:
            BadOption: the arm has no model of its own.
            GplanError: another reload is at work, or the model can't be loaded or fails its trial.
        """
        if arm not in self._directories:
            known = ", ".join(filter(None, self._directories)) or "none"
            raise requests.BadOption(
                "arm", f"{arm!r} has no model of its own; those that have: {known}."
            )
        if not self._busy.acquire(blocking=False):
            raise GplanError("Another reload is at work; ask again once it is done.")
        started = time.monotonic()
        try:
            if not self.snapshot().slots:
                raise GplanError("There is no model yet that another could replace.")
            loaded = self._load_for(arm, path or self._directories[arm])
            try:
                prove(loaded, self._examples)
                before = self._put({arm: loaded})
            except BaseException:
                loaded.engine.close()
                raise
            # Who began with the model before is answered by it.
            end = time.monotonic() + self._drain_s
            while True:
                time.sleep(0.05)  # also for one that has taken it this instant and isn't counted
                if not before.inside or time.monotonic() >= end:
                    break
            before.by_arm[arm].engine.close(drain_s=max(0.0, end - time.monotonic()))
        except BaseException as error:
            told = str(error) if isinstance(error, GplanError) else None
            log("reload_failed", arm=arm or None, error=type(error).__name__, message=told)
            raise
        finally:
            self._busy.release()
        seconds = round(time.monotonic() - started, 1)
        now = {"model": loaded.name, "revision": loaded.revision, "seconds": seconds}
        log("reloaded", **now)
        return {**now, "examples": len(self._examples)}

    def reload_and_tell(self) -> None:
        """Reloads all models, in a thread of its own; the log says what came of it."""

        def run() -> None:
            for arm in self._directories:
                with contextlib.suppress(Exception):
                    self.reload(arm=arm)

        threading.Thread(target=run, name="gplan-reload", daemon=True).start()

    def _load_for(self, arm: str, directory: Path) -> LoadedModel:
        loaded, known = self._load(directory), self.current.main.library
        if loaded.library.form != known.form:
            loaded.engine.close()
            raise GplanError(
                f"{loaded.name} is a model of the service {loaded.library.name}, and requests have "
                f"the columns of {known.name}; start another server for it."
            )
        # Directories of two runs are often called alike.
        return replace(loaded, name=f"{loaded.name}@{arm}") if arm else loaded

    def _put(self, loaded: Mapping[str, LoadedModel]) -> ModelSet:
        """Requests that come from now on go to ``loaded``; the models before. Draining where the
        server is being stopped.
        """
        with self._lock:
            if self._closed:
                raise requests.Draining("The server is being stopped.")
            before, self.current = self.current, ModelSet({**self.current.by_arm, **loaded})
            return before


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
