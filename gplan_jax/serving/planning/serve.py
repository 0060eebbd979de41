"""`gplan serve`: a model directory behind HTTP."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import gplan_jax
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.replicas import load_replicas
from gplan_jax.inference.engine.requests import (
    Draining,
    Engine,
    EngineConfig,
    EngineSnapshot,
    PlanAnswer,
    PlanRequest,
)
from gplan_jax.serving.http.server import DrainingServer, listen
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import configure_logging, log
from gplan_jax.serving.http.traces import load_tracer
from gplan_jax.serving.planning.app import create_app

SWITCH_INTERVAL_S = 5e-4
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NOTHING = EngineSnapshot(ready=False, queued=0, active=0, slots=0, queue_limit=0)


class LateEngine:
    """Loads an engine in a thread and is that engine from then on; until then it is not ready.

    ``on_loaded`` is called with the engine, in the loading thread.
    """

    def __init__(self, load: Callable[[], Engine], on_loaded: Callable[[Engine], None]) -> None:
        self._load, self._on_loaded = load, on_loaded
        self._engine: Engine | None = None
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
            self.failure = error
            on_failure()


def serve(
    model_dir: Path,
    engine_config: EngineConfig,
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    template: str | None = None,
    library: str | None = None,
    prompt_length: int | None = None,
    replicas: int | None = 1,
    traces: bool = False,
) -> None:
    """Serves a model until SIGTERM or Ctrl-C, and returns once it has drained.

    The port opens at once; ``/readyz`` says 503 until the model is loaded and compiled. Port 0
    takes a free one; ``template``, ``library`` and ``prompt_length`` are those of ``Planner.load``.
    ``replicas`` engines, one a device, share the requests; None takes all devices.
    With ``traces``, spans go to an OpenTelemetry collector.
    """
    task = GsisrTask.load(
        model_dir, template=template, library=library, prompt_length=prompt_length
    )
    encoder = ChatEncoder.load(model_dir)
    latents = encoder.latents if (engine_config.response or task.response) == "latent" else None
    listener = listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    configure_logging()
    # The engine's thread computes in Python between passes; requests need not wait 5 ms for it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    started = time.monotonic()

    def load_one() -> Engine:
        return PlanEngine.load(
            model_dir,
            engine_config,
            template=template,
            library=library,
            prompt_length=prompt_length,
        )

    def load() -> Engine:
        return load_replicas(load_one, replicas)

    def loaded(engine: Engine) -> None:
        seconds = time.monotonic() - started
        say(ready_message(url, settings, engine.snapshot(), seconds))
        log("ready", seconds=round(seconds, 1))

    engine = LateEngine(load, loaded)
    tracer = load_tracer(gplan_jax.__version__) if traces else None
    app = create_app(engine, task.library, latents, settings=settings, tracer=tracer)
    server = DrainingServer(app, engine, drain_s=settings.drain_s)
    say(f"Loading {model_dir}; {url}/readyz says when it is done.")
    if host not in LOOPBACK and settings.api_key is None:
        say(f"Mind: whoever reaches {url} may ask for plans; see --api-key-env.")
    engine.start(on_failure=server.stop)
    server.run(sockets=[listener])
    if engine.failure is not None:
        raise engine.failure
    state = engine.snapshot()
    say(f"Stopped. Answered {state.answered:,} requests in {time.monotonic() - started:,.0f} s.")
    if engine.loading:
        # The thread that compiles can't be stopped, and an interpreter can't end around it.
        sys.stdout.flush()
        os._exit(0)


def ready_message(url: str, settings: ServerSettings, state: EngineSnapshot, seconds: float) -> str:
    """What the terminal shows once plans are taken."""
    grammar = f"  grammar              {state.grammar}\n" if state.grammar else ""
    on = f" on {len(state.replicas)} devices" if state.replicas else ""
    return (
        f"Ready: {url} serves {settings.model}, {settings.mode}, with {state.slots} slots{on}; "
        f"loading and compiling {state.compilations} programs took {seconds:.1f} s.\n"
        f"{grammar}"
        f"  try it in a browser  {url}/\n"
        f"  describe the API     {url}/docs\n"
        f"  stop                 Ctrl-C; accepted requests are finished first"
    )


LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def allowed_hosts(host: str, named: Sequence[str]) -> tuple[str, ...]:
    """Host headers that are answered: ``named`` ones, and loopback names where it listens there.

    A page that rebinds its own name to this machine is then refused. Empty, any is answered.
    """
    here = LOOPBACK if host in (*LOOPBACK, "::1") else ()
    return (*here, *(name.lower() for name in named))


def display_name(model_dir: Path) -> str:
    """A model's name in answers: its directory, after its run's where training named it."""
    folder = model_dir.resolve()
    of_run = folder.name in ("model", "best") and folder.parent.name
    return f"{folder.parent.name}/{folder.name}" if of_run else folder.name


def read_api_key(variable: str | None) -> str | None:
    """The API key from an environment variable, None where none is named."""
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise GplanError(f"{variable} is not set; put the API key into it.")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise GplanError(f"{variable} may hold visible ASCII characters only: a header carries it.")
    return key


def say(text: str) -> None:
    """Prints at once, also into a pipe."""
    print(text, flush=True)
