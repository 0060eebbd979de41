"""How an engine decodes and how much it holds: what `gplan serve` passes on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gplan_jax.foundation.config import Config
from gplan_jax.inference.engine.requests import DecodingMode


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
