"""SIGTERM and Ctrl-C: the run finishes its step, writes a checkpoint and stops in order.

One process handles them itself. Several must stop at the same step: JAX's preemption service
spreads the notice through the coordinator and names the step (``reached_preemption_sync_point``),
and it wants SIGTERM for itself, so nothing is installed there.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class RunStopped(SystemExit):
    """A run that a signal stopped and that has written its checkpoint: no failure, so a SystemExit.

    ``exit_code`` is 128 + the signal's number: 143 for SIGTERM, 130 for Ctrl-C; schedulers requeue
    on it.
    """

    def __init__(self, name: str, exit_code: int, step: int, total: int) -> None:
        written = f"; the checkpoint of step {step} is written" if step else ""
        super().__init__(exit_code)
        self.exit_code = exit_code
        self._message = (
            f"Stopped by {name} after step {step} of {total}{written}. Go on with --resume."
        )

    def __str__(self) -> str:
        return self._message


class StopSignals:
    """Handles SIGTERM and SIGINT inside a ``with`` block; a second SIGINT aborts."""

    def __init__(self) -> None:
        self._number: signal.Signals | None = None
        self._at_once: tuple[int, int] | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python lets only the main thread set handlers; elsewhere signals keep their usual effect.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    @property
    def received(self) -> bool:
        return self._number is not None

    def reached(self, step: int) -> bool:
        """True at the step after which all processes stop; every process asks at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.received

    @contextmanager
    def interruptible(self, step: int, total: int) -> Iterator[None]:
        """A block whose work a resumed run makes up: a signal ends it by RunStopped at once.

        The checkpoint of ``step`` must have been handed to the writer.
        """
        if self._number is not None:
            raise self.stopped(step, total)
        self._at_once = step, total
        try:
            yield
        finally:
            self._at_once = None

    def stopped(self, step: int, total: int) -> RunStopped:
        """What to raise once the checkpoint of ``step`` is written."""
        # Of several processes, only the one that got the signal knows it: it is SIGTERM there.
        number = self._number or signal.SIGTERM
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        return RunStopped(name, 128 + number, step, total)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._number == signal.SIGINT:
            raise KeyboardInterrupt
        self._number = signal.Signals(number)
        if self._at_once:
            raise self.stopped(*self._at_once)
        print(
            f"\n{self._number.name}: finishing the step and writing a checkpoint"
            + (" (Ctrl-C again aborts)" if number == signal.SIGINT else ""),
            file=sys.stderr,
        )
