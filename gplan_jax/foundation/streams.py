"""Many asynchronous calls over a stream: so many at once, results in order, memory bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

# Items held for each call at a time: with one slow call at the head, so many others still go on.
WINDOW = 16


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
