"""Work for all cores: processes that end with their parent, results in the order of the items."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from gplan_jax.foundation.errors import GplanError

QUEUED = 3  # items a process, done or to be done; more would only be held in memory


def map_in_processes(
    work: Callable[[Any], Any], items: Iterable[Any], *, processes: int
) -> Iterator[Any]:
    """``work``, which is sent to each process once, of every item, in order.

    Few items are taken ahead, so a stream stays one. What either raises is raised here; GplanError
    where a process is killed.
    """
    waiting: deque[Future[Any]] = deque()
    context = multiprocessing.get_context("spawn")  # JAX's threads don't survive a fork
    pool = ProcessPoolExecutor(processes, context, _begin, (work,))
    try:
        for item in items:
            waiting.append(pool.submit(_do, item))
            if len(waiting) > QUEUED * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise GplanError(f"One of {processes} processes was killed; is memory short?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, however it did."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a child process"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# What follows runs in the worker's process.
_work: Callable[[Any], Any]


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process is to keep one core busy
    end_with_parent()


def _do(item: Any) -> Any:
    return _work(item)
