"""Ends a run that takes no step any more, and says where every thread of every host stands.

A host that hangs leaves the others waiting in a collective: no error, no end, and JAX's heartbeats
go on. So every process looks at its own clock. A process that is stopped as a whole can't: of
several, each has a small guard, a process that wakes it when its time is over, or ends it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from gplan_jax.training.hosts import processes
from gplan_jax.training.hosts.startup import STALLED_EXIT, announce, announced
from gplan_jax.training.loop.run_clock import RunClock
from gplan_jax.training.steps.train_config import WatchdogConfig

TICK_SECONDS, ANNOUNCE_SECONDS, SAVE_SECONDS = 1.0, 5.0, 60.0
# For the others to come to their own end before this one's leaves them alone; the coordinator last.
LEAVE_SECONDS, COORDINATOR_SECONDS = 8.0, 15.0
# It is told until when all is well (CLOCK_MONOTONIC, which all processes of a machine share).
_GUARD = """
import os, select, signal, sys, time
parent, until = int(sys.argv[1]), None
def heard(seconds):
    return bool(select.select([0], [], [], seconds)[0])
while True:
    if heard(until and max(0.0, until - time.monotonic())):
        told = os.read(0, 65536).split()
        if not told:
            sys.exit()  # It has ended.
        until = float(told[-1])
        continue
    for number, seconds in ((signal.SIGCONT, 10), (signal.SIGABRT, 10), (signal.SIGKILL, 1)):
        os.kill(parent, number)
        if heard(seconds):
            break
"""


class Watchdog:
    """Watches a run inside a ``with`` block; ``save`` saves what it can, and may never return."""

    def __init__(
        self, config: WatchdogConfig, clock: RunClock, directory: Path, save: Callable[[], object]
    ) -> None:
        self._config, self._clock, self._save = config, clock, save
        self._stacks = directory / f"stalled-{jax.process_index()}.txt"
        self._over = threading.Event()
        self._ending = threading.Lock()
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Watchdog:
        if self._config.minutes:
            self._clock.progress = self._clock.now()
            if jax.process_count() > 1:
                self._guard = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", _GUARD, str(os.getpid())],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            threading.Thread(target=self._look, name="gplan-watchdog", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        # Of a process that was stopped and goes on, the main thread may find first that the others
        # have left.
        if isinstance(error, Exception) and self._config.minutes and self._quiet() > self._bound():
            self._end()
        self._over.set()
        if self._guard and self._guard.stdin:
            self._guard.stdin.close()
            self._guard.wait()

    def _bound(self) -> float:
        """Seconds without a step: ``minutes``, or more where steps take long."""
        recent = self._clock.recent
        usual = statistics.median(recent) if recent else 0.0
        return max(60 * self._config.minutes, self._config.medians * usual)

    def _quiet(self) -> float:
        """Seconds without a step; an evaluation, which is in one process only, is no silence."""
        clock = self._clock
        return 0.0 if clock.phase == "evaluation" else clock.now() - clock.progress

    def _tell_guard(self, seconds: float) -> None:
        if self._guard and self._guard.stdin:
            with suppress(OSError):
                os.write(self._guard.stdin.fileno(), f"{time.monotonic() + seconds} ".encode())

    def _look(self) -> None:
        before, alone = self._clock.now(), jax.process_count() == 1
        while not self._over.wait(TICK_SECONDS):
            now, bound = self._clock.now(), self._bound()
            stopped, before = now - before, now  # longer than a tick: the whole process was
            if alone and stopped > 10 * TICK_SECONDS:
                self._clock.progress += stopped  # Ctrl-Z and fg: nobody has waited for it.
            # Others have, and are leaving, even if this process could go on now.
            if self._quiet() > bound or (stopped > bound and not alone):
                self._end()
            self._tell_guard(bound)

    def _end(self) -> None:
        """Says where all stands, saves, and leaves the process; does not return."""
        self._ending.acquire()  # The thread and a failing main thread may both come here.
        self._tell_guard(ANNOUNCE_SECONDS + SAVE_SECONDS + COORDINATOR_SECONDS)
        clock, process = self._clock, jax.process_index()
        message = (
            f"no step for {self._quiet():.0f} s (at most {self._bound():.0f}, see watchdog in the "
            f"config). Process {process}: step {clock.ended} was the last to end, step "
            f"{clock.dispatched} the last to be handed to the devices, '{processes.last_barrier}' "
            f"the last barrier; the host is at: {clock.phase}"
        )
        print(f"error: {message}. All threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        with suppress(OSError), self._stacks.open("w", encoding="utf-8") as out:
            out.write(f"{message}\n")
            out.flush()
            faulthandler.dump_traceback(out, all_threads=True)
        if jax.process_count() > 1:
            _at_most(ANNOUNCE_SECONDS, lambda: announce(message, STALLED_EXIT))
        _at_most(SAVE_SECONDS, self._save)
        print(
            f"The stacks are in {self._stacks} too; --resume goes on from the newest checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        until = time.monotonic() + (LEAVE_SECONDS if process else COORDINATOR_SECONDS)
        while jax.process_count() > 1 and time.monotonic() < until:
            if len(_at_most(TICK_SECONDS, announced) or ()) == jax.process_count():
                break
            time.sleep(TICK_SECONDS / 4)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(STALLED_EXIT)


def _at_most(seconds: float, work: Callable[[], Any]) -> Any:
    """What ``work`` returns; None where it takes longer or raises: this process ends anyway."""
    found: list[Any] = []

    def do() -> None:
        with suppress(Exception):
            found.append(work())

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None
