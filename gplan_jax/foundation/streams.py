"""Work side by side: many asynchronous calls over a stream, so many at once, results in order,
memory bounded; and processes for all cores that end with their parent, results in the items' order.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, TypeVar

from gplan_jax.foundation.errors import GplanError

T = TypeVar("T")
R = TypeVar("R")

# Items held for each call at a time: with one slow call at the head, so many others still go on.
WINDOW = 16
QUEUED = 3  # items a process, done or to be done; more would only be held in memory


def map_ordered(
    function: Callable[[T], Awaitable[R]],
    items: Iterable[T],
    *,
    at_once: int = 1,
    window: int = WINDOW,
    close: Callable[[], Awaitable[None]] | None = None,
) -> Generator[R, None, None]:
    """Yields ``await function(item)`` for each item, in the order of the items.

    At most ``at_once`` calls run at a time, in an event loop of their own in this thread, while the
    consumer waits for the next result; at most ``window * at_once`` items are held. The first
    exception ends the stream; calls under way are then cancelled and awaited. A consumer that may
    leave early wraps the stream in ``contextlib.closing``. ``close`` is awaited at the end, however
    the stream ends.
    """
    if at_once < 1:
        raise ValueError(f"at_once is {at_once}; at least one call runs at a time.")
    with asyncio.Runner() as runner:
        results = _results(function, items, at_once, window)
        waiting: asyncio.Task[object] | None = None

        async def following() -> tuple[R] | None:
            nonlocal waiting
            waiting = asyncio.current_task()
            async for result in results:
                return (result,)
            return None

        async def finish() -> None:
            try:
                if waiting is not None:  # SIGTERM's SystemExit leaves the loop, but not this task.
                    waiting.cancel()
                    await asyncio.wait([waiting])
                await results.aclose()
            finally:
                if close is not None:
                    await close()

        try:
            while result := runner.run(following()):
                yield result[0]
        finally:
            runner.run(finish())


async def _results(
    function: Callable[[T], Awaitable[R]], items: Iterable[T], at_once: int, window: int
) -> AsyncGenerator[R, None]:
    slots = asyncio.Semaphore(at_once)

    async def call(item: T) -> R:
        async with slots:
            return await function(item)

    calls: deque[asyncio.Task[R]] = deque()
    stream = iter(items)
    try:
        while True:
            for item in islice(stream, window * at_once - len(calls)):
                calls.append(asyncio.create_task(call(item)))
            if not calls:
                return
            yield await calls[0]
            calls.popleft()
    finally:
        for unfinished in calls:
            unfinished.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


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


def cores() -> int:
    """Processor cores that this process may use; on macOS, which knows no affinity, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
