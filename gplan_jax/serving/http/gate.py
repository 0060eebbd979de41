"""Whether a server lets requests in."""

from __future__ import annotations

from dataclasses import dataclass

from gplan_jax.inference.engine.requests import Engine
from gplan_jax.serving.http.errors import (
    RETRY_AFTER_S,
    ApiError,
    draining,
    failed,
    overloaded,
    starting,
)


@dataclass
class Gate:
    """The server's own state beside its engine's.

    Attributes:
        draining: the server is about to stop.
        started: the engine has been ready before; where it no longer is, it has failed.
        inside: plan requests that were let in and are not answered yet. Those whose bodies are
            still read are in no queue, and under an overload they are the most.
    """

    engine: Engine
    draining: bool = False
    started: bool = False
    inside: int = 0

    def check(self) -> None:
        """Raises ApiError (503) where no plans are made now."""
        problem = self._problem()
        if problem is not None:
            raise problem

    def check_room(self, deadline_s: float) -> None:
        """As ``check``, also where the queue is full, or longer than a deadline.

        It costs little, and is asked before any work is done for a request.
        """
        self.check()
        state = self.engine.snapshot()
        room = state.queue_limit + state.slots
        if (
            max(self.inside, state.queued + state.active) >= room
            or state.expected_wait_s > deadline_s
        ):
            raise overloaded(max(RETRY_AFTER_S, state.expected_wait_s))

    def failed(self) -> bool:
        """Whether the engine has come to an end by itself; only a new process helps."""
        problem = self._problem()
        return problem is not None and problem.code == "failed"

    def _problem(self) -> ApiError | None:
        if self.draining:
            return draining()
        if self.engine.snapshot().ready:
            self.started = True
            return None
        return failed() if self.started else starting()
