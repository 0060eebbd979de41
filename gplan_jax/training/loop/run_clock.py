"""Where the wall time of a run goes.

Time in which a step is on the devices is "step", whatever the host does meanwhile. The time between
two steps is split among what the host did in it: "data" (waiting for a batch, moving it to the
devices), "compile" (the first step of a shape), "checkpoint", "evaluation" and "restart" (all that
comes before the first step of a process); what is left is "other". "lost" are steps that a killed
process took beyond the checkpoint that the next one went on from. Goodput is the share of "step".
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import jax

from gplan_jax.training.steps.objectives import Metrics

PHASES = ("step", "compile", "data", "checkpoint", "evaluation", "restart", "lost", "other")
_PAID_BY_STEPS = ("step", "data", "other")  # what the throughput of a step is measured over
_RECENT = 100


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
