from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary

vocabularies = st.builds(
    LatentVocabulary,
    context_blocks=st.lists(
        st.from_regex(r"[A-R][A-Z0-9_]{0,5}", fullmatch=True), unique=True, max_size=3
    ).map(tuple),
    max_steps=st.integers(1, 12),
    width=st.integers(1, 26),
)


def test_gsisr_has_the_33_tokens_in_the_agreed_order() -> None:
    tokens = GSISR_LATENTS.tokens
    assert len(tokens) == 33
    assert tokens[:3] == ("<THOUGHT_CONTEXT_a>", "<THOUGHT_CONTEXT_b>", "<THOUGHT_CONTEXT_c>")
    assert tokens[3:6] == ("<THOUGHT_STRATEGY_a>", "<THOUGHT_STRATEGY_b>", "<THOUGHT_STRATEGY_c>")
    assert tokens[6:9] == ("<T_1_a>", "<T_1_b>", "<T_1_c>")
    assert tokens[-3:] == ("<T_9_a>", "<T_9_b>", "<T_9_c>")


def test_another_task_chooses_its_own_blocks() -> None:
    vocabulary = LatentVocabulary(("SITUATION",), max_steps=2, width=1)
    assert vocabulary.tokens == ("<THOUGHT_SITUATION_a>", "<T_1_a>", "<T_2_a>")


@given(vocabularies)
def test_tokens_are_distinct_and_as_many_as_blocks_times_width(
    vocabulary: LatentVocabulary,
) -> None:
    blocks = len(vocabulary.context_blocks) + vocabulary.max_steps
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens) == blocks * vocabulary.width


@given(vocabularies)
def test_a_vocabulary_survives_json(vocabulary: LatentVocabulary) -> None:
    assert LatentVocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary


@pytest.mark.parametrize("name", ["STEP_10", "STEP_0", "STEP_01", "PLAN", "THOUGHT"])
def test_a_block_without_tokens_is_named(name: str) -> None:
    with pytest.raises(GplanError, match=name):
        GSISR_LATENTS.block_tokens(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0},
        {"width": 27},
        {"max_steps": -1},
        {"context_blocks": (), "max_steps": 0},
        {"context_blocks": ("A", "A")},
        {"context_blocks": ("context",)},
        {"context_blocks": ("STEP_1",)},
        {"context_blocks": ("THOUGHT",)},
        {"context_blocks": ("A>B",)},
    ],
)
def test_an_impossible_vocabulary_is_refused(arguments: dict) -> None:
    with pytest.raises(GplanError):
        LatentVocabulary(**arguments)
