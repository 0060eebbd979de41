"""Engines of one model on the devices of a host, used as one engine."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample
from gplan_jax.inference.engine import requests

USERS = 100_000  # whose replica is remembered
_STATE = ("queued", "active", "slots", "queue_limit", "prefix_bytes")
_COUNTS = (*requests.ENDS, "passes", "prefix_hits", "prefix_misses", "compilations")


def user_of(request: requests.PlanRequest) -> Hashable:
    """What a user's requests have in common: profile and history, whose prompt is cached."""
    sample = request.sample
    if not isinstance(sample, Sample):
        return str(sample)
    return hash(sample.with_texts({"id": ""}).texts_of(("profile", "history")))


class Replicas:
    """Sends each request to one of ``engines``, all of the same model.

    That is the one that served the user last, whose cache holds the user's prompt, unless it has no
    free slot while another has; else the one with the fewest requests. An engine that fails takes
    nothing any more, and what it had accepted goes to another, until the request's deadline.
    """

    def __init__(self, engines: Sequence[requests.Engine]) -> None:
        self.engines = tuple(engines)
        self._homes: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()

    def submit(self, request: requests.PlanRequest) -> Future[requests.PlanAnswer]:
        """Queues a request; see ``requests.Engine``."""
        answer: Future[requests.PlanAnswer] = Future()
        self._send(request, answer, time.monotonic())
        return answer

    def snapshot(self) -> requests.EngineSnapshot:
        """The state of the engines that work, and the counts of all; ready while one is."""
        return sum_of({str(n): engine.snapshot() for n, engine in enumerate(self.engines)})

    def close(self, *, drain_s: float = 0.0) -> None:
        """Closes all at once; see ``requests.Engine``."""
        close_all(self.engines, drain_s=drain_s)

    def _send(
        self, request: requests.PlanRequest, answer: Future[requests.PlanAnswer], arrived: float
    ) -> None:
        """Submits to the best engine, or the next where that refuses; raises what the last says."""
        user = user_of(request)
        order = self._order(user, [engine.snapshot() for engine in self.engines])
        if not order:
            raise GplanError("All replicas have failed; the server must be restarted.")
        left_s = request.deadline_s
        if left_s is not None:
            left_s = max(0.0, left_s - (time.monotonic() - arrived))
        for number in order:
            try:
                inner = self.engines[number].submit(dataclasses.replace(request, deadline_s=left_s))
                break
            except GplanError as refusal:
                # Another may have room; what is wrong with the request is wrong everywhere.
                broken = not self.engines[number].snapshot().ready
                if number == order[-1] or not (broken or isinstance(refusal, requests.Overloaded)):
                    raise
        with self._lock:
            self._homes[user] = number
            self._homes.move_to_end(user)
            if len(self._homes) > USERS:
                self._homes.popitem(last=False)

        def settle(done: Future[requests.PlanAnswer]) -> None:
            if done.cancelled():
                answer.cancel()
                return
            fault = done.exception()
            # The engine broke, not the request: another one makes the plan.
            if fault and not isinstance(fault, GplanError):
                try:
                    return self._send(request, answer, arrived)
                except GplanError as refusal:
                    fault = refusal
            if answer.set_running_or_notify_cancel():
                if fault is None:
                    answer.set_result(done.result())
                else:
                    answer.set_exception(fault)

        inner.add_done_callback(settle)
        # A client that went away frees its slot.
        answer.add_done_callback(lambda given: given.cancelled() and inner.cancel())

    def _order(self, user: Hashable, states: Sequence[requests.EngineSnapshot]) -> list[int]:
        """Numbers of the engines that work, the one to ask first in front."""
        load = {n: state.queued + state.active for n, state in enumerate(states) if state.ready}
        with self._lock:
            home = self._homes.get(user)
        stays = home in load and load[home] < states[home].slots
        return sorted(load, key=lambda n: (not (n == home and stays), load[n], n != home, n))


def sum_of(states: Mapping[str, requests.EngineSnapshot]) -> requests.EngineSnapshot:
    """The state of the engines that work, and the counts of all, by their names."""
    works = {
        # a sum's own names below its name, and "main" where neither has one
        "/".join(filter(None, (name, part))) or "main": ready
        for name, state in states.items()
        for part, ready in (state.replicas or {"": state.ready}).items()
    }
    working = [state for state in states.values() if state.ready] or [*states.values()]
    rows: Counter[int] = Counter()
    for state in states.values():
        rows.update(state.rows_of_passes)
    return requests.EngineSnapshot(
        ready=any(state.ready for state in states.values()),
        rows_of_passes=dict(rows),
        expected_wait_s=min(state.expected_wait_s for state in working),
        grammar=next(state.grammar for state in states.values()),
        replicas=works,
        **{name: sum(getattr(state, name) for state in working) for name in _STATE},
        **{name: sum(getattr(state, name) for state in states.values()) for name in _COUNTS},
    )


def close_all(engines: Sequence[requests.Engine], *, drain_s: float = 0.0) -> None:
    """Closes engines at once; see ``requests.Engine``."""
    with ThreadPoolExecutor(max(1, len(engines))) as pool:
        list(pool.map(lambda engine: engine.close(drain_s=drain_s), engines))


def load_replicas(load: Callable[[], requests.Engine], count: int | None = None) -> requests.Engine:
    """Calls ``load`` once for each of the first ``count`` local devices (all, if None), at once.

    Raises:
        GplanError: there are fewer devices than ``count``.
    """
    devices = jax.local_devices()
    count = len(devices) if count is None else count
    if count > len(devices):
        kind = devices[0].device_kind
        raise GplanError(
            f"--replicas {count}: this process sees {len(devices)} device(s) ({kind}); a replica "
            "has a device of its own. Say auto for all of them."
        )

    def on(device: jax.Device) -> requests.Engine:
        with jax.default_device(device):
            return load()

    if count == 1:
        return on(devices[0])
    with ThreadPoolExecutor(count) as pool:
        return Replicas(list(pool.map(on, devices[:count])))
