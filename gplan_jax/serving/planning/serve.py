"""`gplan serve`: a model directory behind HTTP."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gplan_jax
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import folder_hash
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.replicas import load_replicas
from gplan_jax.inference.engine.requests import EngineConfig
from gplan_jax.models.checkpoints.hub import hub_name
from gplan_jax.reasoning import LatentVocabulary
from gplan_jax.serving.http.server import DrainingServer, listen
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.http.telemetry import configure_logging, load_tracer, log
from gplan_jax.serving.planning.app import create_app, example_samples
from gplan_jax.serving.planning.models import MAIN, LoadedModel, Models, NoEngineYet

SWITCH_INTERVAL_S = 5e-4
TRIAL_EXAMPLES = 6  # that a new model has to plan for before it takes over
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    model_dir: Path,
    engine_config: EngineConfig,
    settings: ServerSettings,
    *,
    arms: Mapping[str, Path] | None = None,
    host: str,
    port: int,
    replicas: int | None = 1,
    traces: bool = False,
    **prompts: Any,
) -> None:
    """Serves a model until SIGTERM or Ctrl-C, and returns once it has drained.

    The port opens at once; ``/readyz`` says 503 until the model is loaded and compiled. Port 0
    takes a free one; ``prompts`` are those of ``PlanEngine.load``. ``replicas`` engines, one a
    device, share the requests; None takes all devices.
    ``arms`` of the A/B test in ``settings`` have models of their own in these directories.
    With ``traces``, spans go to an OpenTelemetry collector.

    Raises:
        GplanError: a directory is broken, the port is taken, or the A/B test has no such arm.
    """
    known = settings.experiment.arms if settings.experiment else {}
    for arm in arms or {}:
        if arm not in known:
            mend = f"the arms are {', '.join(known)}" if known else "name --experiment too"
            raise GplanError(f"--arm {arm}: there is no such arm; {mend}.")

    def read_by(directory: Path) -> tuple[IntentLibrary, LatentVocabulary | None]:
        task = GsisrTask.load(directory, **prompts)
        latent = (engine_config.response or task.response) == "latent"
        return task.library, ChatEncoder.load(directory).latents if latent else None

    def load(directory: Path) -> LoadedModel:
        revision, answers = folder_hash(directory)[:16], read_by(directory)
        engine = load_replicas(
            lambda: PlanEngine.load(directory, engine_config, **prompts), replicas
        )
        return LoadedModel(display_name(directory), revision, engine, *answers)

    # What is wrong with a directory is said before the port opens.
    directories = {MAIN: model_dir, **(arms or {})}
    answers, *_ = [read_by(directory) for directory in directories.values()]
    listener = listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    configure_logging()
    # The engine's thread computes in Python between passes; requests need not wait 5 ms for it.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    started = time.monotonic()

    def ready() -> None:
        seconds = time.monotonic() - started
        names = ", ".join(model.name for model in models.current.by_arm.values())
        state = models.snapshot()
        grammar = f"  grammar              {state.grammar}\n" if state.grammar else ""
        on = f" of {len(state.replicas)} engines" if state.replicas else ""
        say(
            f"Ready: {url} serves {names}, {settings.mode}, with {state.slots} slots{on}; "
            f"loading and compiling {state.compilations} programs took {seconds:.1f} s.\n"
            f"{grammar}"
            f"  try it in a browser  {url}/\n"
            f"  describe the API     {url}/docs\n"
            "  stop                 Ctrl-C; accepted requests are finished first"
        )
        log("ready", seconds=round(seconds, 1))

    examples = example_samples(TRIAL_EXAMPLES, answers[0])
    main = LoadedModel(display_name(model_dir), "", NoEngineYet(), *answers)
    models = Models(main, load, directories, examples, drain_s=settings.drain_s)
    tracer = load_tracer(gplan_jax.__version__) if traces else None
    app = create_app(models, settings=settings, tracer=tracer)
    server = DrainingServer(app, drain_s=settings.drain_s, on_hangup=models.reload_and_tell)
    say(f"Loading {', '.join(map(str, directories.values()))}; {url}/readyz says when it is done.")
    if host not in LOOPBACK and settings.api_key is None:
        say(f"Mind: whoever reaches {url} may ask for plans; see --api-key-env.")
    models.start(ready, on_failure=server.stop)
    server.run(sockets=[listener])
    if models.failure is not None:
        raise models.failure
    state = models.snapshot()
    say(f"Stopped. Answered {state.answered:,} requests in {time.monotonic() - started:,.0f} s.")
    if models.loading:
        # The thread that compiles can't be stopped, and an interpreter can't end around it.
        sys.stdout.flush()
        os._exit(0)


def allowed_hosts(host: str, named: Sequence[str]) -> tuple[str, ...]:
    """Host headers that are answered: ``named`` ones, and loopback names where it listens there.

    A page that rebinds its own name to this machine is then refused. Empty, any is answered.
    """
    here = ("localhost", "127.0.0.1", "[::1]") if host in LOOPBACK else ()
    return (*here, *(name.lower() for name in named))


def display_name(model_dir: Path) -> str:
    """A model's name in answers: its directory, after its run's where training named it."""
    folder = model_dir.resolve()
    if name := hub_name(folder):
        return name
    of_run = folder.name in ("model", "best") and folder.parent.name
    return f"{folder.parent.name}/{folder.name}" if of_run else folder.name


def say(text: str) -> None:
    """Prints at once, also into a pipe."""
    print(text, flush=True)
