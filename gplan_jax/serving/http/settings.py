"""What bounds a server: sizes, times, and who may ask."""

from __future__ import annotations

from pydantic import Field, SecretStr

from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.config import Config


class ServerSettings(Config):
    """Options of the HTTP side; those of decoding are in ``EngineConfig``.

    Attributes:
        model: the name that answers carry.
        mode: how the engine decodes, shown on the page.
        deadline_ms: time for an answer where a request names none, from its arrival.
        max_deadline_ms: the longest deadline that a request may name.
        max_body_kib: largest request body; more is refused before it is read to its end.
        body_timeout_s: seconds within which a body must have arrived.
        drain_s: seconds for what is accepted to finish once the server is told to stop.
        api_key: where set, `/v1/` answers only those who send it as a bearer token.
        log_contexts: write the contexts of requests to the log; they are users' data.
        examples: simulated contexts offered to the page.
        experiment: where set, answers name the arm of their user, and the log their exposure.
    """

    model: str = "model"
    mode: str = "drafted"
    deadline_ms: int = Field(default=10_000, ge=1)
    max_deadline_ms: int = Field(default=60_000, ge=1)
    max_body_kib: int = Field(default=1024, ge=1)
    body_timeout_s: float = Field(default=10.0, gt=0)
    drain_s: float = Field(default=30.0, ge=0)
    api_key: SecretStr | None = None
    log_contexts: bool = False
    examples: int = Field(default=6, ge=0, le=50)
    experiment: Experiment | None = None
