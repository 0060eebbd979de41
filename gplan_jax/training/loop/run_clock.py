"""Where the wall time of a run goes.

Time in which a step is on the devices is "step", whatever the host does meanwhile. The time between
two steps is split among what the host did in it: "data" (waiting for a batch, moving it to the
devices), "compile" (the first step of a shape), "checkpoint", "evaluation" and "restart" (all that
comes before the first step of a process); what is left is "other". "lost" are steps that a killed
process took beyond the checkpoint that the next one went on from. Goodput is the share of "step".

What the devices of a run can multiply is measured: the whole that a utilisation is a share of.
Traces of some steps for TensorBoard are asked for in the config, or by SIGUSR1 during a run.
"""

from __future__ import annotations

import functools
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from gplan_jax.training.steps.objectives import Metrics

PHASES = ("step", "compile", "data", "checkpoint", "evaluation", "restart", "lost", "other")
_PAID_BY_STEPS = ("step", "data", "other")  # what the throughput of a step is measured over
_RECENT = 100
SIGNALLED_STEPS = 3
StepTrace = Callable[[int], AbstractContextManager[Any]]
SMALLEST, LARGEST = 512, 8192
# A product must take this long, for the time to start it not to count.
LONG_SECONDS, ROUND_SECONDS, ROUNDS = 0.005, 0.02, 5


class WallTime:
    """Divides the time since it was made; ``seconds`` are those of a run so far, by phase."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.phase = "restart"  # what the host does now
        self._spans: list[tuple[str, float, float]] = []
        self._divided = self._begin = now()  # all before it has been divided

    @contextmanager
    def spending(self, phase: str) -> Iterator[None]:
        """What the host does in the block is ``phase``."""
        begin, before, self.phase = self.now(), self.phase, phase
        try:
            yield
        finally:
            self.phase = before
            self._spans.append((phase, begin, self.now()))

    def first_step(self, earlier: Mapping[str, float]) -> None:
        """All so far was "restart"; ``earlier`` are the seconds of processes before this one."""
        self.phase = "other"
        self._spans = [("restart", self._begin, self.now())]
        for phase in PHASES:
            self.seconds[phase] += earlier.get(phase, 0.0)

    def step(self, begin: float, end: float) -> float:
        """A step was on the devices; returns seconds since the last one that steps must pay for.

        They are those of the step and of what the devices waited for, a batch, say, but not of a
        compilation, a checkpoint, an evaluation or the start.
        """
        before = dict(self.seconds)
        begin = max(begin, self._divided)
        self.idle(begin)
        self.seconds["step"] += max(0.0, end - begin)
        self._divided = max(begin, end)
        return sum(self.seconds[phase] - before[phase] for phase in _PAID_BY_STEPS)

    def idle(self, until: float) -> None:
        """No step was on the devices since the last one ended."""
        left = max(0.0, until - self._divided)
        for phase, begin, end in self._spans:
            shared = max(0.0, min(end, until) - max(begin, self._divided))
            self.seconds[phase] += shared
            left -= shared
        self.seconds["other"] += max(0.0, left)
        self._spans = [span for span in self._spans if span[2] > until]
        self._divided = max(self._divided, until)


class RunClock(WallTime):
    """A ``WallTime`` that notes in the background when each dispatched step ends.

    Attributes:
        dispatched: steps that were handed to the devices, counted over the run.
        ended: and those of them that have ended.
        progress: when a step last ended, or the host last went from one thing to the next.
        recent: seconds of the last steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dispatched = self.ended = 0
        self.progress = self.now()
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self._waiting: queue.SimpleQueue[tuple[int, float, Metrics] | None] = queue.SimpleQueue()
        self._times: queue.SimpleQueue[tuple[float, float]] = queue.SimpleQueue()

    def first_step(self, earlier: Mapping[str, float]) -> None:
        super().first_step(earlier)
        threading.Thread(target=self._note_ends, name="gplan-clock", daemon=True).start()

    @contextmanager
    def spending(self, phase: str) -> Iterator[None]:
        self.progress = self.now()
        with super().spending(phase):
            yield
        self.progress = self.now()

    def dispatch(self, taken: int, begin: float, metrics: Metrics) -> None:
        """Step ``taken`` was handed to the devices at ``begin``; it ends when ``metrics`` do."""
        self.dispatched = taken
        self._waiting.put((taken, begin, metrics))

    def step_ended(self) -> float:
        """Waits for the oldest step not yet asked for; returns seconds as ``step`` does."""
        seconds = self.step(*self._times.get())
        self.recent.append(seconds)
        return seconds

    def close(self) -> None:
        """Ends the thread, once the steps dispatched have ended."""
        self._waiting.put(None)

    def _note_ends(self) -> None:
        while (step := self._waiting.get()) is not None:
            taken, begin, metrics = step
            with suppress(Exception):  # Whoever reads the metrics gets the error.
                jax.block_until_ready(metrics)
            self.ended, self.progress = taken, self.now()
            self._times.put((begin, self.progress))


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


@functools.lru_cache(maxsize=4)
def measured_peak(dtype: str = "bfloat16") -> float:
    """Operations a second of all devices of a run, in products of square matrices of ``dtype``.

    A product of size n counts 2 n^3. Every local device multiplies at the same time, so simulated
    devices that share cores, and chips that share a power limit, count what they reach together;
    hosts are taken to be alike. The best of some rounds of random matrices, up to 8192 wide; it
    takes about a second, and half a GB a device.
    """
    devices = jax.local_devices()
    apart = NamedSharding(Mesh(np.asarray(devices), ("device",)), PartitionSpec("device"))
    product = jax.jit(jnp.matmul)

    def seconds_of(x: jax.Array, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):  # All are started before the last is waited for.
            found = product(x, x)
        jax.block_until_ready(found)
        return (time.perf_counter() - begin) / repeats

    size = SMALLEST
    while True:
        values = np.random.default_rng(0).standard_normal((1, size, size), np.float32)
        x = jax.device_put(jnp.repeat(values.astype(dtype), len(devices), axis=0), apart)
        seconds_of(x, 1)  # compiles
        seconds = seconds_of(x, 1)
        if seconds >= LONG_SECONDS or size == LARGEST:
            break
        size *= 2
    repeats = max(1, round(ROUND_SECONDS / seconds))
    best = min(seconds_of(x, repeats) for _ in range(ROUNDS))
    return 2 * size**3 * len(devices) * jax.process_count() / best
