"""An engine without a model: settable delay, slots and queue; it keeps the Engine protocol."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial

from gplan_jax.inference.engine.requests import (
    DeadlineExceeded,
    Draining,
    EngineSnapshot,
    FoundPlan,
    FoundPlans,
    Overloaded,
    PlanAnswer,
    PlanRequest,
)

PLAN = '[{"工具名称":"tool_8"},{"工具名称":"tool_9"},{"工具名称":"tool_10"}]'
LATENT = "".join(
    f"<{name}_{letter}>"
    for name in ("THOUGHT_CONTEXT", "THOUGHT_STRATEGY", "T_1", "T_2", "T_3")
    for letter in "abc"
)
TEXT = f"<THOUGHT>{LATENT}</THOUGHT>{PLAN}"


@dataclass
class _Job:
    request: PlanRequest
    future: Future[PlanAnswer]
    submitted: float
    admitted: float = 0.0

    def expired(self, now: float) -> bool:
        deadline = self.request.deadline_s
        return deadline is not None and now >= self.submitted + deadline


class FakeEngine:
    """Answers each request ``delay_s`` after it got a slot, with ``respond(request)``.

    Attributes:
        delay_s: time in a slot; may be changed at any time.
        respond: gives the text of the answer; what it raises, the future raises.
        refuse: called first in ``submit``; what it raises, ``submit`` raises.
        ready: what the snapshot says.
        requests: all that were accepted, in order.
    """

    def __init__(
        self,
        *,
        delay_s: float = 0.0,
        slots: int = 4,
        queue: int = 16,
        respond: Callable[[PlanRequest], str] = lambda request: TEXT,
        ready: bool = True,
    ) -> None:
        self.delay_s, self.slots, self.queue_limit = delay_s, slots, queue
        self.respond, self.ready = respond, ready
        self.refuse: Callable[[PlanRequest], None] = lambda request: None
        self.requests: list[PlanRequest] = []
        self._queue: list[_Job] = []
        self._active: list[_Job] = []
        self._counts = dict.fromkeys(("answered", "cancelled", "expired", "refused"), 0)
        self._closing, self._stopped = False, False
        self._change = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, request: PlanRequest) -> Future[PlanAnswer]:
        self.refuse(request)
        with self._change:
            if self._closing:
                raise Draining("closing")
            if len(self._queue) >= self.queue_limit and len(self._active) >= self.slots:
                self._counts["refused"] += 1
                raise Overloaded("full", retry_after_s=self.delay_s)
            job = _Job(request, Future(), time.monotonic())
            job.future.add_done_callback(lambda _: self._wake())
            self._queue.append(job)
            self.requests.append(request)
            self._admit(time.monotonic())
            self._change.notify_all()
        return job.future

    def snapshot(self) -> EngineSnapshot:
        with self._change:
            self._sweep(time.monotonic())
            answered = self._counts["answered"]
            return EngineSnapshot(
                ready=self.ready,
                queued=len(self._queue),
                active=len(self._active),
                slots=self.slots,
                queue_limit=self.queue_limit,
                **self._counts,
                passes=5 * answered,
                rows_of_passes={1: 3 * answered, 2: answered},
                compilations=7,
            )

    def close(self, *, drain_s: float = 0.0) -> None:
        with self._change:
            self._closing = True
            self._change.wait_for(lambda: not self._queue and not self._active, timeout=drain_s)
            for job in [*self._queue, *self._active]:
                job.future.cancel()
            self._stopped = True
            self._change.notify_all()
        self._thread.join()

    def _wake(self) -> None:
        with self._change:
            self._change.notify_all()

    def _run(self) -> None:
        with self._change:
            while not self._stopped:
                now = time.monotonic()
                self._sweep(now)
                self._admit(now)
                for job in [j for j in self._active if now >= j.admitted + self.delay_s]:
                    self._active.remove(job)
                    self._finish(job, now)
                self._admit(now)
                self._change.notify_all()
                busy = self._active or self._queue
                self._change.wait(min(self.delay_s, 0.005) if busy else None)

    def _sweep(self, now: float) -> None:
        """Drops what was cancelled or has expired."""
        for jobs in (self._queue, self._active):
            for job in [*jobs]:
                if job.future.cancelled():
                    jobs.remove(job)
                    self._counts["cancelled"] += 1
                elif job.expired(now):
                    jobs.remove(job)
                    self._counts["expired"] += 1
                    _settle(job.future, DeadlineExceeded("late"))

    def _admit(self, now: float) -> None:
        while self._queue and len(self._active) < self.slots:
            job = self._queue.pop(0)
            job.admitted = now
            self._active.append(job)

    def _finish(self, job: _Job, now: float) -> None:
        try:
            text = self.respond(job.request)
        except Exception as error:
            _settle(job.future, error)
            return
        self._counts["answered"] += 1
        _settle(
            job.future,
            PlanAnswer(
                text=text,
                tokens=40,
                prompt_tokens=300,
                cached_tokens=200,
                passes=5,
                drafted=30,
                accepted=20,
                queue_ms=1000 * (job.admitted - job.submitted),
                prefill_ms=1000 * (now - job.admitted) / 2,
                decode_ms=1000 * (now - job.admitted) / 2,
                pass_ms=(250 * (now - job.admitted),) * 2,
                by_token=partial(by_character, text),
                found=found_plans(text, job.request.best) if job.request.best else None,
            ),
        )


def by_character(text: str) -> tuple[tuple[str, float], ...]:
    """Every character a token, the first of them a decision."""
    return tuple((letter, 0.0 if place else -0.25) for place, letter in enumerate(text))


def found_plans(text: str, count: int) -> FoundPlans:
    """So many plans, the one half as likely as the one before."""
    plans = tuple(FoundPlan(text, -math.log(2) * rank) for rank in range(1, count + 1))
    return FoundPlans(plans, False, (({"工具名称": "tool_8"}, 0.75),))


def _settle(future: Future[PlanAnswer], outcome: PlanAnswer | Exception) -> None:
    """Sets the outcome, unless the future was cancelled just now."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
