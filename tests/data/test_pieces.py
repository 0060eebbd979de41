"""Responses put together from pieces are, token for token, what tokenizing their texts gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from gplan_jax.data import ChatEncoder, Example, Mode, TrainingSet
from gplan_jax.data.pieces import (
    cut_row,
    parts_of,
    response_layout,
    response_text,
    shown_blocks,
)
from gplan_jax.data.tasks.text_task import TextTask
from gplan_jax.foundation import GplanError
from gplan_jax.models.checkpoints.tiny import SPECIAL_TOKENS
from gplan_jax.objectives.curriculum import BlockOrder
from gplan_jax.reasoning import GSISR_LATENTS, PLAN_SECTION, LatentVocabulary, Prompt
from gplan_jax.reasoning.traces import check_plain

USER_IDS = np.arange(3, dtype=np.int32)


def is_plain(text: str) -> bool:
    try:
        check_plain(text, "text")
    except GplanError:
        return False
    return True


# What merges, normalizes or splits in ways of its own; "\u0338" makes one character of a ">".
odd = st.sampled_from(
    [
        *(">", "<", "</", "><", ">[", "]", "'s", "9", "12", "_", "STEP", "吃", "🍜", "<|", "|>"),
        *("\u0338", "e\u0301", "\u3000", " ", "  ", "\n", "\t", "\x00", "。", "ﬁ"),
        *("<think>", "</tool_call>"),
    ]
)
words = st.lists(odd | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
texts = words.map("".join).filter(is_plain)
blocks = st.integers(1, 9).flatmap(
    lambda steps: st.lists(texts, min_size=2 + steps, max_size=2 + steps)
)


def example(texts: list[str], answer: str) -> Example:
    names = GSISR_LATENTS.block_names[: len(texts)]
    return Example("r", Prompt("", ""), tuple(zip(names, texts, strict=True)), names, answer)


@pytest.fixture(scope="module", params=["qwen3", "tiny"])
def encoder(request: pytest.FixtureRequest) -> ChatEncoder:
    if request.param == "qwen3":
        return ChatEncoder(request.getfixturevalue("qwen3_json"))
    return ChatEncoder.load(request.getfixturevalue("tiny_model_dir"))


@settings(max_examples=60)
@given(texts=blocks, answer=texts, number=st.integers(0, 40), data=st.data())
def test_any_response_of_any_row(
    encoder: ChatEncoder, texts: list[str], answer: str, number: int, data: st.DataObject
) -> None:
    row = example(texts, answer)
    pieces = cut_row(row, USER_IDS, encoder, number=number)
    assert pieces[0] is USER_IDS
    assert len(pieces) == 4 + len(texts)
    # Each block in words, latent or gone: more than any curriculum shows.
    fates = data.draw(st.lists(st.integers(0, 2), min_size=len(texts), max_size=len(texts)))
    shown = tuple(
        (name, i if fate == 0 else None)
        for i, (name, fate) in enumerate(zip(row.block_names, fates, strict=True))
        if fate < 2
    )
    due = encoder.response(response_text(row, shown, encoder))
    *reasoning, plan = parts_of(response_layout(encoder, shown), pieces)
    np.testing.assert_array_equal(np.concatenate([*reasoning, plan]), due.ids[:-1])
    assert len(plan) + 1 == (due.sections == PLAN_SECTION).sum()


def test_an_answer_without_its_reasoning(encoder: ChatEncoder) -> None:
    row = Example("r", Prompt("", ""), (), ("CONTEXT", "STRATEGY", "STEP_1"), '[{"a": 1}]')
    pieces = cut_row(row, USER_IDS, encoder, number=0)
    for mode in (Mode.DIRECT_SFT, Mode.PAUSE):
        shown = shown_blocks(mode, BlockOrder(), row.block_names, 0)
        found = np.concatenate(parts_of(response_layout(encoder, shown), pieces))
        text = response_text(row, shown, encoder)
        np.testing.assert_array_equal(found, encoder.response(text).ids[:-1])


def crafted(
    merges: list[tuple[str, str]],
    words: pre_tokenizers.PreTokenizer | None = None,
    latents: LatentVocabulary = GSISR_LATENTS,
) -> ChatEncoder:
    """Single characters, joined only as ``merges`` say."""
    alphabet = sorted(map(chr, range(32, 127)))
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if words:
        tokenizer.pre_tokenizer = words
    special = [AddedToken(t, special=True) for t in (*SPECIAL_TOKENS, *latents.tokens)]
    tokenizer.add_special_tokens(special)
    return ChatEncoder(tokenizer.to_str(), latents=latents)


@pytest.mark.parametrize(
    "other",
    [
        crafted([("T", ">")]),  # a token across a border
        crafted([("x", ">"), ("P", "_"), (">", "<")], pre_tokenizers.Split("1>", "removed")),
        # only where latent tokens follow a block, since ">" is joined with "<" before
        crafted([(">", "<"), *(("/CONTEXT"[:n], "/CONTEXT>"[n]) for n in range(1, 9))]),
    ],
)
def test_a_row_that_can_not_be_cut_is_found(other: ChatEncoder) -> None:
    row = example(["ab", "x", "<"], "[1]")
    found = [len(cut_row(row, USER_IDS, other, number=number)) for number in range(12)]
    assert 1 in found


def test_rows_that_are_not_cut_are_tokenized_whole(text_file: Path, tmp_path: Path) -> None:
    latents = LatentVocabulary(("BIT_1", "BIT_2", "BIT_3"), max_steps=0, width=2)
    other = crafted([("T", ">"), ("e", "v")], latents=latents)
    for mode in (Mode.PICD, Mode.ICOT, Mode.PAUSE, Mode.DIRECT_SFT):
        task = TextTask(response=mode.response)
        rows = TrainingSet.read(text_file, encoder=other, task=task, mode=mode, cache=tmp_path)
        assert {cut for *_, cut in rows.examples.kinds} == {False}
        lengths_NxGx2 = rows.lengths(5)
        for row, stage in ((0, 0), (3, 2), (11, 4)):
            prompt_ids, response = rows.tokenize(row, stage)
            due = other.response(rows.response_text(row, stage))
            np.testing.assert_array_equal(response.ids, due.ids)
            assert lengths_NxGx2[row, stage].tolist() == [len(prompt_ids), len(due.ids)]
