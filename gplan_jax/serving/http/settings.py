"""Limits of a server: sizes, times, access."""

from __future__ import annotations

from pydantic import Field, SecretStr

from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.config import Config


class Labels(Config):
    """What codes in contexts mean, as the page shows them to people."""

    labels: dict[str, str]  # code -> words, such as act_7, pf_23, p_9001893, profile_feat_2:3


class ServerSettings(Config):
    """Options of the HTTP side; those of decoding are in ``EngineConfig``."""

    mode: str = "drafted"  # How the engine decodes, shown on the page.
    deadline_ms: int = Field(default=10_000, ge=1)  # From arrival, where a request names none.
    max_deadline_ms: int = Field(default=60_000, ge=1)  # The longest that a request may name.
    max_body_kib: int = Field(default=1024, ge=1)
    body_timeout_s: float = Field(default=10.0, gt=0)  # Within which a body must have arrived.
    drain_s: float = Field(default=30.0, ge=0)  # For accepted requests to finish at the end.
    api_key: SecretStr | None = None  # Where set, `/v1/` wants it as a bearer token.
    admin_key: SecretStr | None = None  # Where set, `/admin/` is there and wants it.
    # The names that a request's Host header may hold; any where it is empty.
    hosts: tuple[str, ...] = ()
    log_contexts: bool = False  # Write contexts to the log; they are users' data.
    examples: int = Field(default=6, ge=0, le=50)  # Simulated contexts offered to the page.
    labels: dict[str, str] = Field(default={})  # Words for codes in contexts, for the page.
    # Where set, answers name the arm of their user, and the log their exposure.
    experiment: Experiment | None = None
