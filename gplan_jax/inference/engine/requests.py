"""What is asked of a planning engine, how it decodes, what it answers, and why it may refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import Field

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, Sample
from gplan_jax.reasoning import Prompt

# Beginnings of a first intent that are less probable are not looked into; see ``FoundPlans``.
LEAST_FIRST = 1e-4
Weights = Literal["stored", "bf16", "int8", "fp8"]
DecodingMode = Literal["unconstrained", "constrained", "drafted"]


class EngineConfig(Config):
    """Options of an engine."""

    # "unconstrained" is plain greedy decoding over the whole vocabulary; "constrained" follows
    # the plan grammar; "drafted" gives the same tokens in fewer passes
    mode: DecodingMode = "drafted"
    slots: int = Field(default=8, ge=1, le=256)  # requests decoded together
    queue: int = Field(default=64, ge=0)  # requests that may wait for a slot; more are refused
    # what a response holds where the grammar has to know: "plan" alone, or "latent" tokens and
    # the plan; None takes what training stored beside the model
    response: Literal["plan", "latent"] | None = None
    # longest response of the unconstrained mode, in tokens; it takes nothing from the prompt
    max_new_tokens: int = Field(default=512, ge=1)
    # tokens of one pass, shared by the rows that decode together
    draft_tokens: int = Field(default=64, ge=1, le=1024)
    # where prompts may be more than twice as long, they are prefilled in parts of so many tokens,
    # between the passes of other rows; 0 prefills them whole
    prefill_chunk: int = Field(default=1024, ge=0)
    # memory for the keys and values of users' profiles and histories
    prefix_cache_mib: int = Field(default=256, ge=0)
    # what weights are held in: "stored" is ``compute_dtype``; "int8" and "fp8" round each matrix to
    # 8 bits with one scale for each output channel
    weights: Weights = "stored"
    # dtype of matrix products and of the cache
    compute_dtype: Literal["float32", "bfloat16"] = "float32"


class Overloaded(GplanError):
    """The queue is full; ``retry_after_s`` says when there should be room again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(GplanError):
    """The engine is finishing what it has accepted and takes nothing new."""


class NotFinite(GplanError):
    """The model's logits are NaN or infinite: what would be decoded from them is no plan."""

    def __init__(self) -> None:
        super().__init__(
            "The model's logits are NaN or infinite, so they decide nothing; its weights or its "
            "compute dtype are at fault: compute in float32, or convert the model again."
        )


class BadOption(GplanError):
    """A request asks for what can't be done; ``path`` is the option at fault, as a JSON path."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path} {message}")
        self.path = path


class DeadlineExceeded(GplanError):
    """The answer was not ready in time; its slot is free again."""


@dataclass(frozen=True)
class PlanRequest:
    """One context to plan for."""

    # the context, whose ``raw_labels`` are not looked at; or the whole prompt in the layout of a
    # chat, as text or as tokens
    sample: Sample | Prompt | str | tuple[int, ...]
    deadline_s: float | None = None  # seconds from submission after which the answer is of no use
    # 0 is greedy; above, tokens are drawn from softmax(logits / temperature) over what the
    # grammar allows
    temperature: float = 0.0
    seed: int = 0  # of those draws; one seed gives one plan
    # the likeliest whole plans to search for; 0 decodes one plan token by token
    best: int = 0
    # what the user made of earlier plans: the plan begins with what was accepted and holds nothing
    # that was dismissed; both were shown, unless nobody says what was
    accepted: tuple[Intent, ...] = ()
    dismissed: tuple[Intent, ...] = ()
    shown: tuple[Intent, ...] = ()


@dataclass(frozen=True)
class FoundPlan:
    """One of the likeliest plans."""

    text: str  # the whole response
    log_probability: float  # natural, of the plan among all that the grammar allows


@dataclass(frozen=True)
class FoundPlans:
    """What a search for the likeliest plans has found."""

    plans: tuple[FoundPlan, ...]  # the likeliest first; fewer than wanted where there are no more
    exact: bool  # whether it is proven that none that lacks is likelier
    # intents and the probabilities that a plan begins with them, the likeliest first; what lacks
    # to 1 is that of beginnings less probable than LEAST_FIRST
    first: tuple[tuple[Intent, float], ...]


@dataclass(frozen=True)
class PlanAnswer:
    """A response and what it cost."""

    text: str  # the model's whole response, its reasoning included
    tokens: int  # tokens of the response, the end token left out
    prompt_tokens: int  # tokens of the prompt
    cached_tokens: int  # of those, how many came from the prefix cache
    passes: int  # sequential passes over the weights, the prefill included
    drafted: int  # tokens that were offered to a pass without being known
    accepted: int  # how many of them turned out right
    # from submission to a slot, to the end of the prefill, and from there to the last token
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    # from the end of the prefill, or of the pass before, to the end of each pass
    pass_ms: tuple[float, ...] = ()
    cut: bool = False  # whether the response ended because it became too long
    # to be worked out by whoever wants it: what each token adds to the text, and its
    # log-probability among what the grammar allows
    by_token: Callable[[], tuple[tuple[str, float], ...]] = tuple
    found: FoundPlans | None = None  # where the request asked for the best plans; ``text`` is first


ENDS = ("answered", "cancelled", "expired", "refused", "failed")  # how a request can end


@dataclass(frozen=True)
class EngineSnapshot:
    """An engine's state and its counts since it started."""

    ready: bool  # whether all programs are compiled
    # requests that wait, and that hold a slot
    queued: int
    active: int
    # how many of each there may be
    slots: int
    queue_limit: int
    # requests by how they ended
    answered: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    failed: int = 0
    passes: int = 0  # passes over the weights, prefills included
    # rows that were decoded together -> how many passes had so many
    rows_of_passes: Mapping[int, int] = field(default_factory=dict)
    # requests that found a cached user prefix, and that did not
    prefix_hits: int = 0
    prefix_misses: int = 0
    prefix_bytes: int = 0  # what the cached user prefixes take up now
    compilations: int = 0  # programs compiled; it must not grow after the start
    expected_wait_s: float = 0.0  # how long a request that came now would probably wait for a slot
    grammar: str = ""  # size of the responses' grammar; empty where there is none
    # which of several engines work, by their names; empty for one
    replicas: Mapping[str, bool] = field(default_factory=dict)


class Engine(Protocol):
    """What a server needs of an engine; all methods may be called from any thread."""

    def submit(self, request: PlanRequest) -> Future[PlanAnswer]:
        """Queues a request. ``cancel()`` on the future frees its slot at once.

        The future raises DeadlineExceeded, NotFinite, or GplanError where the prompt can't be made.

        Raises:
            BadOption: the engine can't do what an option asks for.
            Overloaded: the queue is full, or so long that the request would miss its deadline.
            Draining: the engine is being closed.
            GplanError: the context can't be turned into a prompt; the message says why.
        """

    def snapshot(self) -> EngineSnapshot:
        """State and counts, for readiness and metrics."""

    def close(self, *, drain_s: float = 0.0) -> None:
        """Takes nothing new, waits up to ``drain_s`` for what is accepted, cancels the rest."""
