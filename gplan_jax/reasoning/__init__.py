"""Prompts, structured reasoning and its latent form, for any task with named blocks."""

from gplan_jax.reasoning.latents import GSISR_LATENTS, LatentVocabulary, check_block_name
from gplan_jax.reasoning.traces import (
    PLAN_SECTION,
    REASONING_SECTION,
    Prompt,
    ReasoningTrace,
    compress_response,
    latent_prefix,
    parse_trace,
    read_response,
    response_sections,
    split_response,
    write_response,
    write_trace,
)
