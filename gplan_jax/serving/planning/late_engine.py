"""An engine that is still being loaded, behind the same calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from gplan_jax.inference.engine.requests import (
    Draining,
    Engine,
    EngineSnapshot,
    PlanAnswer,
    PlanRequest,
)

_NOTHING = EngineSnapshot(ready=False, queued=0, active=0, slots=0, queue_limit=0)


class LateEngine:
    """Loads an engine in a thread and is that engine from then on; until then it is not ready.

    Args:
        load: makes the engine; it may take minutes.
        on_loaded: called with the engine once it stands, in the loading thread.
    """

    def __init__(self, load: Callable[[], Engine], on_loaded: Callable[[Engine], None]) -> None:
        self._load, self._on_loaded = load, on_loaded
        self._engine: Engine | None = None
        self._lock, self._closed = threading.Lock(), False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, on_failure: Callable[[], None]) -> None:
        """Begins to load; where that fails, ``on_failure`` is called and ``failure`` is set."""
        self._thread = threading.Thread(
            target=self._run, args=(on_failure,), name="gplan-load", daemon=True
        )
        self._thread.start()

    @property
    def failure(self) -> BaseException | None:
        """What kept the engine from being loaded, None so far."""
        return self._failure

    @property
    def loading(self) -> bool:
        """Whether the loading thread still runs; it can't be stopped from outside."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, request: PlanRequest) -> Future[PlanAnswer]:
        """As ``Engine.submit``; before the engine stands it refuses everything."""
        if self._engine is None:
            raise Draining("The engine is not there yet.")
        return self._engine.submit(request)

    def snapshot(self) -> EngineSnapshot:
        """As ``Engine.snapshot``."""
        return _NOTHING if self._engine is None else self._engine.snapshot()

    def close(self, *, drain_s: float = 0.0) -> None:
        """As ``Engine.close``; an engine that comes later is closed at once."""
        with self._lock:
            self._closed = True
        if self._engine is not None:
            self._engine.close(drain_s=drain_s)

    def _run(self, on_failure: Callable[[], None]) -> None:
        try:
            engine = self._load()
            with self._lock:
                if not self._closed:
                    self._engine = engine
            if self._engine is None:
                engine.close()
            else:
                self._on_loaded(engine)
        except BaseException as error:  # the main thread raises it again
            self._failure = error
            on_failure()
