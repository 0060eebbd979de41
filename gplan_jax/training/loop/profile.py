"""Traces of some steps for TensorBoard: asked for in the config, or by SIGUSR1 during a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

SIGNALLED_STEPS = 3
StepTrace = Callable[[int], AbstractContextManager[Any]]


@contextmanager
def profiled_steps(
    steps: list[int] | None, directory: Path, flush: Callable[[], None]
) -> Iterator[StepTrace]:
    """Yields what each step is dispatched in; it traces steps a to b where ``steps`` is [a, b].

    SIGUSR1 traces the next three. Traces lie under RUN/tensorboard, those of other processes than
    the first in a folder of their own there. ``flush`` waits until all steps dispatched have ended.
    """
    first, last = steps or (0, -1)
    process, tracing = jax.process_index(), False
    folder = directory / "tensorboard" / (f"process-{process}" if process else "")
    asked = threading.Event()

    def end() -> None:
        nonlocal tracing
        tracing = False
        jax.profiler.stop_trace()
        text = f"the profile of steps {first} to {last} is in {folder}/plugins/profile"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)

    def step(number: int) -> AbstractContextManager[Any]:
        nonlocal first, last, tracing
        if tracing and number > last:
            flush()
            end()
        if asked.is_set() and not tracing:
            asked.clear()
            first, last = number, number + SIGNALLED_STEPS - 1
        if first <= number <= last and not tracing:
            flush()
            tracing = True
            jax.profiler.start_trace(str(folder))
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    # Python lets only the main thread set handlers.
    main = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGUSR1, lambda *_: asked.set()) if main else None
    try:
        yield step
    finally:
        if main:
            signal.signal(signal.SIGUSR1, earlier)
        if tracing:
            end()
