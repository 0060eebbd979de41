"""Prompts, structured reasoning and its latent form, for any task with named blocks."""

from gplan_jax.reasoning.traces import (
    GSISR_LATENTS,
    PLAN_SECTION,
    REASONING_SECTION,
    LatentVocabulary,
    Prompt,
    ReasoningTrace,
    check_block_name,
    compress_response,
    latent_prefix,
    parse_trace,
    read_response,
    response_sections,
    split_response,
    write_response,
    write_trace,
)
