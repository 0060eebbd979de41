"""Structured reasoning and its latent form, for any task whose answers follow named blocks."""

from gplan_jax.reasoning.compression import (
    PLAN_SECTION,
    REASONING_SECTION,
    block_count,
    compress_response,
    latent_prefix,
    response_sections,
)
from gplan_jax.reasoning.latents import GSISR_LATENTS, LatentVocabulary
from gplan_jax.reasoning.traces import (
    ReasoningTrace,
    parse_trace,
    split_response,
    write_trace,
)
