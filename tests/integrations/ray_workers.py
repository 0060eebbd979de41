"""Workers of the Ray cluster that a test has started, to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def killed(task: str, *, when: Callable[[], bool], times: int = 1) -> Iterator[None]:
    """Kills so many workers of this process's cluster that are at ``task``, one after the other,
    from the moment on that ``when`` is true; fails where the block ends before all are killed."""
    pids: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(pids) < times and not over.wait(0.05):
            for pid in children(*children(os.getpid(), name="raylet"), name=f"ray::{task}"):
                if pid not in pids and when():
                    os.kill(pid, signal.SIGKILL)
                    pids.append(pid)
                    over.wait(0.5)
                    break

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()
    assert len(pids) == times


def children(*parents: int, name: str) -> list[int]:
    """Processes started by ``parents`` whose command line holds ``name``."""
    of = ",".join(map(str, parents))
    found = subprocess.run(["pgrep", "-P", of, "-f", name], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]
