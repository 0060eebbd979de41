"""What is asked of a planning engine, how it decodes, what it answers, and why it may refuse."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import Field

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample

DecodingMode = Literal["unconstrained", "constrained", "drafted"]


class EngineConfig(Config):
    """Options of an engine.

    Attributes:
        mode: "unconstrained" is plain greedy decoding over the whole vocabulary; "constrained"
            follows the plan grammar; "drafted" gives the same tokens in fewer passes.
        slots: requests decoded together.
        queue: requests that may wait for a slot; more are refused.
        response: what a response holds where the grammar has to know: "plan" alone, or "latent"
            tokens and the plan; None takes what training stored beside the model.
        response_room: tokens of the model's ``max_length`` that prompts are cut to leave free; a
            response may go on beyond.
        max_new_tokens: longest response of the unconstrained mode, in tokens.
        draft_tokens: tokens of one pass, shared by the rows that decode together.
        prefix_cache_mib: memory for the keys and values of users' profiles and histories.
        weights: "stored" keeps them as they are on disk; "int8" rounds each matrix to 8 bits with
            one scale for each output channel.
        compute_dtype: dtype of matrix products and of the cache.
    """

    mode: DecodingMode = "drafted"
    slots: int = Field(default=8, ge=1, le=256)
    queue: int = Field(default=64, ge=0)
    response: Literal["plan", "latent"] | None = None
    response_room: int = Field(default=160, ge=1)
    max_new_tokens: int = Field(default=512, ge=1)
    draft_tokens: int = Field(default=64, ge=1, le=1024)
    prefix_cache_mib: int = Field(default=256, ge=0)
    weights: Literal["stored", "int8"] = "stored"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


class Overloaded(GplanError):
    """The queue is full; ``retry_after_s`` says when there should be room again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(GplanError):
    """The engine is finishing what it has accepted and takes nothing new."""


class DeadlineExceeded(GplanError):
    """The answer was not ready in time; its slot is free again."""


@dataclass(frozen=True)
class PlanRequest:
    """One context to plan for.

    Attributes:
        sample: the context; its ``raw_labels`` are not looked at.
        deadline_s: seconds from submission after which the answer is of no use.
        temperature: 0 is greedy; above, tokens are drawn from softmax(logits / temperature) over
            what the grammar allows.
        seed: of those draws; one seed gives one plan.
    """

    sample: Sample
    deadline_s: float | None = None
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class PlanAnswer:
    """A response and what it cost.

    Attributes:
        text: the model's whole response, its reasoning included.
        tokens: tokens of the response, the end token left out.
        prompt_tokens: tokens of the prompt.
        cached_tokens: of those, how many came from the prefix cache.
        passes: sequential passes over the weights, the prefill included.
        drafted: tokens that were offered to a pass without being known.
        accepted: how many of them turned out right.
        queue_ms, prefill_ms, decode_ms: from submission to a slot, to the end of the prefill, and
            from there to the last token.
    """

    text: str
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    passes: int
    drafted: int
    accepted: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float


@dataclass(frozen=True)
class EngineSnapshot:
    """An engine's state and its counts since it started.

    Attributes:
        ready: whether all programs are compiled.
        queued, active: requests that wait, and that hold a slot.
        slots, queue_limit: how many of each there may be.
        answered, cancelled, expired, refused: requests by how they ended.
        passes: passes over the weights, prefills included.
        rows_of_passes: rows that were decoded together -> how many passes had so many.
        prefix_hits, prefix_misses: requests that found a cached user prefix, and that did not.
        prefix_bytes: what the cached user prefixes take up now.
        compilations: programs compiled; it must not grow after the start.
        expected_wait_s: how long a request that came now would probably wait for a slot.
    """

    ready: bool
    queued: int
    active: int
    slots: int
    queue_limit: int
    answered: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    passes: int = 0
    rows_of_passes: Mapping[int, int] = field(default_factory=dict)
    prefix_hits: int = 0
    prefix_misses: int = 0
    prefix_bytes: int = 0
    compilations: int = 0
    expected_wait_s: float = 0.0


class Engine(Protocol):
    """What a server needs of an engine; all methods may be called from any thread."""

    def submit(self, request: PlanRequest) -> Future[PlanAnswer]:
        """Queues a request. ``cancel()`` on the future frees its slot at once.

        The future raises DeadlineExceeded, or GplanError where the prompt can't be made.

        Raises:
            Overloaded: the queue is full, or so long that the request would miss its deadline.
            Draining: the engine is being closed.
            GplanError: the context can't be turned into a prompt; the message says why.
        """

    def snapshot(self) -> EngineSnapshot:
        """State and counts, for readiness and metrics."""

    def close(self, *, drain_s: float = 0.0) -> None:
        """Takes nothing new, waits up to ``drain_s`` for what is accepted, cancels the rest."""
