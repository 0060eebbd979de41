"""From a checked context to the body of its answer, through the engine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, check_plan, latent_valid, parse_plan
from gplan_jax.inference.engine.requests import (
    DeadlineExceeded,
    Draining,
    Engine,
    Overloaded,
    PlanAnswer,
    PlanRequest,
)
from gplan_jax.reasoning import LatentVocabulary
from gplan_jax.serving.http.errors import ApiError, draining, overloaded
from gplan_jax.serving.http.metrics import ServerMetrics
from gplan_jax.serving.planning.schemas import PlanResult, Timings, Usage, ViolationAnswer

# The engine keeps deadlines; this much later the server gives up waiting for it to say so.
DEADLINE_GRACE_S = 0.25


class HungUp(Exception):
    """The client has gone before its answer was there."""


@dataclass(frozen=True)
class Planning:
    """What turns a request into an answer's body.

    Attributes:
        latents: the latent vocabulary of responses; None where the model writes no latent prefix.
        model: the name that answers carry.
    """

    engine: Engine
    library: IntentLibrary
    latents: LatentVocabulary | None
    metrics: ServerMetrics
    model: str

    async def answer(
        self,
        request: PlanRequest,
        *,
        request_id: str,
        started: float,
        hung_up: asyncio.Future[None],
    ) -> PlanResult:
        """Plans for one request.

        Args:
            request_id: the answer's id.
            started: when the request arrived, by ``time.monotonic``.
            hung_up: done once the client has gone; the engine's slot is freed then.

        Raises:
            ApiError: there is no plan; the error says why.
            HungUp: the client has gone.
        """
        try:
            answer = await self._plan(request, hung_up)
        except GplanError as error:
            raise as_api_error(error) from None
        result = self._result(answer, request_id, started)
        self.metrics.observe(answer, passed=result.passed, total_ms=result.timings_ms.total)
        return result

    async def _plan(self, request: PlanRequest, hung_up: asyncio.Future[None]) -> PlanAnswer:
        if hung_up.done():
            raise HungUp
        # Submitting renders and encodes the prompt: milliseconds that others need not wait for.
        submitted = await asyncio.to_thread(self.engine.submit, request)
        future: asyncio.Future[PlanAnswer] = asyncio.wrap_future(submitted)
        timeout = None if request.deadline_s is None else request.deadline_s + DEADLINE_GRACE_S
        try:
            either: set[asyncio.Future[Any]] = {future, hung_up}
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                if future.cancelled():
                    raise Draining("The engine was closed.")
                return future.result()
            if hung_up.done():
                raise HungUp
            raise DeadlineExceeded("The answer was not ready in time.")
        finally:
            future.cancel()

    def _result(self, answer: PlanAnswer, request_id: str, started: float) -> PlanResult:
        text = answer.text
        violations = check_plan(text, self.library)
        valid = latent_valid(text, self.latents, self.library) if self.latents else None
        plan = parse_plan(text, self.library)
        return PlanResult(
            id=request_id,
            model=self.model,
            plan=[{_sound(key): _sound(value) for key, value in i.items()} for i in plan],
            text=text,
            latent_valid=valid,
            passed=not violations,
            violations=[
                ViolationAnswer(tier=v.tier, code=v.code, message=_sound(v.message))
                for v in violations
            ],
            timings_ms=Timings(
                queue=round(answer.queue_ms, 3),
                prefill=round(answer.prefill_ms, 3),
                decode=round(answer.decode_ms, 3),
                total=round(1000 * (time.monotonic() - started), 3),
            ),
            usage=Usage(
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                response_tokens=answer.tokens,
                passes=answer.passes,
                drafted_tokens=answer.drafted,
                accepted_tokens=answer.accepted,
            ),
        )


def _sound(text: str) -> str:
    """Text that UTF-8 can carry: a model may write the escape of half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def as_api_error(error: GplanError) -> ApiError:
    """What a client is told of an engine's refusal."""
    match error:
        case Overloaded():
            return overloaded(error.retry_after_s)
        case Draining():
            return draining()
        case DeadlineExceeded():
            return ApiError(504, "deadline", "The answer was not ready in time.")
        case _:
            column = next((name for name in reversed(COLUMNS) if name in str(error)), None)
            return ApiError(422, "bad_context", str(error), column=column)
