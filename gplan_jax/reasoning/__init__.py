"""Prompts, structured reasoning and its latent form, for any task with named blocks."""

from gplan_jax.reasoning.compression import (
    PLAN_SECTION,
    REASONING_SECTION,
    compress_response,
    latent_prefix,
    read_response,
    response_sections,
    write_response,
)
from gplan_jax.reasoning.latents import GSISR_LATENTS, LatentVocabulary, check_block_name
from gplan_jax.reasoning.prompt import Prompt
from gplan_jax.reasoning.traces import ReasoningTrace, parse_trace, split_response, write_trace
