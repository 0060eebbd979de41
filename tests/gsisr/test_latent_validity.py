from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.gsisr import IntentLibrary, latent_failure, latent_valid
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary

PLAN = '[{"工具名称":"tool_6"},{"工具名称":"tool_9"}]'
CONTEXT, STRATEGY, STEP_1, STEP_2, STEP_3 = (
    "".join(GSISR_LATENTS.block_tokens(name))
    for name in ("CONTEXT", "STRATEGY", "STEP_1", "STEP_2", "STEP_3")
)
PREFIX = CONTEXT + STRATEGY + STEP_1 + STEP_2


def response(inner: str, plan: str = PLAN) -> str:
    return f"<THOUGHT>{inner}</THOUGHT>{plan}"


GOOD = response(PREFIX)


def test_a_well_formed_prefix_is_valid() -> None:
    assert latent_valid(GOOD)
    assert latent_failure(GOOD) is None
    assert latent_valid(GOOD + "<|im_end|>")


@given(st.integers(1, 9))
def test_valid_for_every_length(steps: int) -> None:
    inner = "".join(GSISR_LATENTS.tokens[: 6 + 3 * steps])
    plan = "[" + ",".join(['{"工具名称":"tool_9"}'] * steps) + "]"
    assert latent_valid(response(inner, plan))


FAULTS = {
    "no block": (PLAN, "block"),
    "empty text": ("", "block"),
    "never closed": (GOOD.replace("</THOUGHT>", ""), "block"),
    "two blocks": (GOOD + GOOD, "block"),
    "closed before opened": (f"</THOUGHT>{PREFIX}<THOUGHT>{PLAN}", "block"),
    "a pair swapped": (response(STRATEGY + CONTEXT + STEP_1 + STEP_2), "order"),
    "steps swapped": (response(CONTEXT + STRATEGY + STEP_2 + STEP_1), "order"),
    "first block missing": (response(STRATEGY + STEP_1 + STEP_2), "order"),
    "token missing": (response(PREFIX.replace("<T_1_b>", "")), "order"),
    "last token missing": (response(PREFIX.replace("<T_2_c>", "")), "order"),
    "token of no vocabulary": (response(PREFIX + "<T_10_a>"), "order"),
    "token outside": (GOOD + "<T_3_a>", "order"),
    "token repeated": (response(PREFIX.replace("<T_1_b>", "<T_1_b><T_1_b>")), "repeat"),
    "block repeated": (response(CONTEXT + STRATEGY + STEP_1 + STEP_2 + STEP_1), "repeat"),
    "raw tag": (response(CONTEXT + STRATEGY + STEP_1 + "<STEP_2>提醒</STEP_2>"), "residue"),
    "raw tag left open": (response(PREFIX + "</STEP_2>"), "residue"),
    "raw tag outside": (GOOD + "<STRATEGY>", "residue"),
    "words between": (response(PREFIX.replace("<T_1_a>", "打车<T_1_a>")), "residue"),
    "all in words": (response("<CONTEXT>a</CONTEXT>"), "residue"),
    "a step too many": (response(PREFIX + STEP_3), "steps"),
    "a step too few": (response(CONTEXT + STRATEGY + STEP_1), "steps"),
    "no plan": (response(PREFIX, ""), "steps"),
    "nothing latent": (response("", "[]"), "steps"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_its_reason(fault: str) -> None:
    text, code = FAULTS[fault]
    failure = latent_failure(text)
    assert failure is not None and failure.split(": ")[0] == code
    assert not latent_valid(text)


@given(st.permutations(GSISR_LATENTS.tokens[:12]))
def test_only_one_order_is_valid(tokens: list[str]) -> None:
    assert latent_valid(response("".join(tokens))) == (tuple(tokens) == GSISR_LATENTS.tokens[:12])


def test_another_vocabulary_and_library(english: IntentLibrary) -> None:
    vocabulary = LatentVocabulary(("SITUATION",), max_steps=2, width=1)
    text = '<THOUGHT><THOUGHT_SITUATION_a><T_1_a></THOUGHT>[{"action":"rest"}]'
    assert latent_valid(text, vocabulary, english)
    assert not latent_valid(text, vocabulary)
    assert not latent_valid(text, library=english)
