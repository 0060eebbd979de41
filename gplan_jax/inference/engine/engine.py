"""A planning engine: one thread that decodes, and a bounded queue of requests in front of it.

Prompts are rendered in the thread that submits. Between two passes the engine looks for requests
that were cancelled or have run out of time, frees their slots, and admits one more where a slot is
free; so a pass is the longest that anything waits to be noticed.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine import decoder_setup, requests
from gplan_jax.inference.engine.best_plans import SearchRow
from gplan_jax.inference.engine.continuous import ContinuousDecoder, Prompted
from gplan_jax.inference.engine.decoder_setup import start_after
from gplan_jax.inference.engine.sequences import SequenceState

_LOG = logging.getLogger(__name__)
_LEAST_RETRY_S = 1.0


@dataclass
class _Request:
    """A request on its way: when it was submitted and admitted, and its row once it has one."""

    prompted: Prompted
    deadline: float
    submitted: float
    future: Future[requests.PlanAnswer] = field(default_factory=Future)
    # the rest of its prefill, while it is admitted
    admission: Generator[None, None, tuple[SequenceState, int]] | None = None
    row: SequenceState | None = None
    cached: int = 0
    admitted: float = 0.0
    prefilled: float = 0.0
    passed: list[float] = field(default_factory=list)  # when each pass after the prefill ended


class PlanEngine:
    """Answers requests from any number of threads; ``load`` makes one that is running.

    Attributes:
        name: of the model's directory.
        encoder, template, library: what the model reads and writes.
    """

    def __init__(
        self,
        name: str,
        decoder: ContinuousDecoder,
        prompter: decoder_setup.Prompter,
        *,
        queue: int,
        slots: int,
    ) -> None:
        self.name = name
        assert isinstance(prompter.task, GsisrTask)
        self.encoder, self.library = prompter.encoder, prompter.task.library
        self._decoder, self._prompter = decoder, prompter
        self._queue_limit, self._slots = queue, slots
        self._queue: deque[_Request] = deque()
        self._admitting: list[_Request] = []  # in order of arrival
        self._active: dict[int, _Request] = {}
        self._changed = threading.Condition()
        self._closing = self._abandon = False
        self._fault: Exception | None = None
        self._ends: Counter[str] = Counter()
        self._seconds_between_answers = 0.0
        self._last_answer = time.monotonic()
        # What a thread has chosen is its own: the engine's thread computes where it was loaded.
        self._device = jax.config.jax_default_device  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._run, name="planning-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls, model_dir: str | Path, config: requests.EngineConfig | None = None, **prompts: Any
    ) -> PlanEngine:
        """Loads a model directory, compiles all programs and starts.

        Template, library, prompt_length and the form of responses are those that training stored
        in the directory, unless ``prompts`` or ``config`` name others.

        Raises:
            GplanError: the directory is broken, the form of its responses is not known or can't be
                constrained, or the library can't be compiled into a grammar.
        """
        config = config or requests.EngineConfig()
        parts = decoder_setup.load_parts(Path(model_dir), config, **prompts)
        prompter = decoder_setup.build_prompter(parts.task, parts.encoder, config)
        decoder = decoder_setup.build_decoder(parts, config, prompter)
        return cls(parts.name, decoder, prompter, queue=config.queue, slots=config.slots)

    def submit(self, request: requests.PlanRequest) -> Future[requests.PlanAnswer]:
        """Queues a request; see ``requests.Engine``."""
        with self._changed:
            self._check_room(request)  # Before any work is done for what would be refused.
        grammar, start = self._decoder.grammar, None
        if request.best and request.temperature > 0:
            raise requests.BadOption(
                "temperature", "is for draws, and a search draws nothing; leave out one."
            )
        if grammar is not None:
            start = start_after(grammar, request)
        else:
            for option in ("temperature", "best", "accepted", "dismissed", "shown"):
                if getattr(request, option):
                    raise requests.BadOption(option, "works under the grammar alone; see --mode.")
        prompted = self._prompter.prompted(request)
        prompted = replace(prompted, start=start, least_first=requests.LEAST_FIRST)
        now = time.monotonic()
        deadline = float("inf") if request.deadline_s is None else now + request.deadline_s
        entry = _Request(prompted, deadline, now)
        with self._changed:
            self._check_room(request)
            self._queue.append(entry)
            self._changed.notify()
        return entry.future

    def snapshot(self) -> requests.EngineSnapshot:
        """State and counts; see ``requests.Engine``."""
        decoder = self._decoder
        with self._changed:
            return requests.EngineSnapshot(
                ready=not self._closing and self._fault is None,
                queued=len(self._queue),
                active=len(self._active) + len(self._admitting),
                slots=self._slots,
                queue_limit=self._queue_limit,
                passes=decoder.counts.passes,
                rows_of_passes=dict(decoder.counts.rows_of_passes),
                prefix_hits=decoder.pages.hits,
                prefix_misses=decoder.pages.misses,
                prefix_bytes=decoder.pages.bytes,
                compilations=decoder.programs.count,
                expected_wait_s=self._expected_wait_s(),
                grammar=str(decoder.grammar or ""),
                replicas={},
                **{end: self._ends[end] for end in requests.ENDS},
            )

    def close(self, *, drain_s: float = 0.0) -> None:
        """Ends the engine; see ``requests.Engine``. A second call does no harm."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(drain_s)
        self._abandon = True
        self._thread.join()

    def _expected_wait_s(self) -> float:
        return len(self._queue) * self._seconds_between_answers

    def _check_room(self, request: requests.PlanRequest) -> None:
        if self._fault is not None:
            raise GplanError(f"The engine has failed and must be restarted: {self._fault}.")
        if self._closing:
            raise requests.Draining("The engine is being closed and takes no new requests.")
        idle = self._slots - len(self._active) - len(self._admitting)
        wait_s = self._expected_wait_s()
        full = len(self._queue) >= self._queue_limit + max(0, idle)
        # What could only expire would take the place of what can still be answered.
        if full or (request.deadline_s is not None and wait_s > request.deadline_s):
            self._ends["refused"] += 1
            waiting = f"{len(self._queue)} requests are waiting already, for about {wait_s:.2g} s."
            raise requests.Overloaded(waiting, max(_LEAST_RETRY_S, wait_s))

    def _run(self) -> None:
        try:
            with jax.default_device(self._device):
                turns = itertools.cycle((True, False))
                while True:
                    with self._changed:
                        while not (self._queue or self._admitting or self._active or self._closing):
                            self._changed.wait()
                        busy = self._queue or self._admitting or self._active
                        if self._abandon or not busy:
                            break
                    self._free_abandoned()
                    # A short prompt need not wait for a long one, nor a long one for many short.
                    new = self._queue and self._decoder.free_slots
                    if self._admitting and not (new and next(turns)):
                        self._prefill(self._admitting[0])
                    elif new:
                        self._admit()
                    finished, now = self._decoder.step(), time.monotonic()
                    for entry in self._active.values():
                        entry.passed.append(now)
                    for row in finished:
                        self._answer(row)
        except Exception as fault:  # Whatever the device runs into: nobody may wait for ever.
            _LOG.exception("The planning engine has failed")
            self._fault = fault
        with self._changed:
            left = [*self._queue, *self._admitting, *self._active.values()]
            self._queue.clear()
            self._admitting.clear()
            self._active.clear()
        for entry in left:
            _settle(entry.future, self._fault or requests.Draining("The engine was closed."))

    def _free_abandoned(self) -> None:
        """Frees what was cancelled or is too late, queued or active."""
        now = time.monotonic()

        def abandoned(entry: _Request) -> bool:
            if entry.future.cancelled():
                self._ends["cancelled"] += 1
                return True
            if now < entry.deadline:
                return False
            self._ends["expired"] += 1
            late = f"No answer within {entry.deadline - entry.submitted:.3g} s."
            _settle(entry.future, requests.DeadlineExceeded(late))
            return True

        with self._changed:
            waiting = [entry for entry in self._queue if not abandoned(entry)]
            self._queue.clear()
            self._queue.extend(waiting)
            for entry in [*self._admitting]:
                if abandoned(entry):
                    assert entry.admission is not None
                    entry.admission.close()  # gives its slot back
                    self._admitting.remove(entry)
            for slot, entry in list(self._active.items()):
                if abandoned(entry):
                    assert entry.row is not None
                    self._decoder.release(entry.row)
                    del self._active[slot]

    def _admit(self) -> None:
        """Begins the prefill of the request that has waited longest."""
        with self._changed:
            entry = self._queue.popleft()
            self._admitting.append(entry)
        entry.admitted = time.monotonic()
        entry.admission = self._decoder.admission(entry.prompted)
        self._prefill(entry)

    def _prefill(self, entry: _Request) -> None:
        """Runs the next part of a prefill; after the last one the request has a row."""
        assert entry.admission is not None
        try:
            next(entry.admission)
            return
        except StopIteration as ended:
            entry.row, entry.cached = ended.value
        except GplanError as error:
            with self._changed:
                self._admitting.remove(entry)
                self._ends["failed"] += 1
            _settle(entry.future, error)
            return
        entry.prefilled = time.monotonic()
        assert entry.row is not None
        with self._changed:
            self._admitting.remove(entry)
            self._active[entry.row.slot] = entry
        if entry.row.finished:
            self._answer(entry.row)

    def _answer(self, row: SequenceState) -> None:
        entry = self._active[row.slot]
        self._decoder.release(row)
        if row.fault is not None:
            with self._changed:
                del self._active[row.slot]
                self._ends["failed"] += 1
            _settle(entry.future, row.fault)
            return
        now, decode = time.monotonic(), self.encoder.decode

        def by_token() -> tuple[tuple[str, float], ...]:
            """A character may take several tokens: the last one writes it."""
            begun = [decode(row.response[:end]) for end in range(len(row.response))]
            whole = decode(row.response)
            ends = [*(len(text.rstrip("\ufffd")) for text in begun), len(whole)]
            pieces = (whole[start:end] for start, end in pairwise(ends))
            return tuple((piece, row.logs.get(place, 0.0)) for place, piece in enumerate(pieces))

        answer = requests.PlanAnswer(
            text=decode(row.response),
            tokens=len(row.response),
            prompt_tokens=len(entry.prompted.ids),
            cached_tokens=entry.cached,
            passes=row.passes,
            drafted=row.drafted,
            accepted=row.accepted,
            queue_ms=1e3 * (entry.admitted - entry.submitted),
            prefill_ms=1e3 * (entry.prefilled - entry.admitted),
            decode_ms=1e3 * (now - entry.prefilled),
            pass_ms=tuple(
                1e3 * (end - start) for start, end in pairwise([entry.prefilled, *entry.passed])
            ),
            found=self._found(row) if isinstance(row, SearchRow) else None,
            cut=row.cut,
            by_token=by_token,
        )
        with self._changed:
            del self._active[row.slot]
            self._ends["answered"] += 1
            if self._queue:  # Only then is the time between two answers what the engine needs.
                apart = now - self._last_answer
                self._seconds_between_answers += 0.1 * (apart - self._seconds_between_answers)
            self._last_answer = now
        _settle(entry.future, answer)

    def _found(self, row: SearchRow) -> requests.FoundPlans:
        grammar, found = self._decoder.grammar, row.found
        assert grammar is not None and found is not None
        decode = self.encoder.decode
        return requests.FoundPlans(
            tuple(requests.FoundPlan(decode(plan.tokens), plan.score) for plan in found.plans),
            found.exact,
            tuple(
                (grammar.intents[intent], probability)
                for intent, probability in sorted(found.first.items(), key=lambda pair: -pair[1])
            ),
        )


def _settle(future: Future[requests.PlanAnswer], outcome: requests.PlanAnswer | Exception) -> None:
    """Gives a future its outcome, unless somebody has cancelled it meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
