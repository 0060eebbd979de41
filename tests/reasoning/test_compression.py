from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError
from gplan_jax.reasoning import (
    GSISR_LATENTS,
    LatentVocabulary,
    compress_response,
    read_response,
    response_sections,
)

RESPONSE = (
    "<THOUGHT>\n<CONTEXT>a\nb</CONTEXT> <STRATEGY>c</STRATEGY>\n"
    "<STEP_1>d</STEP_1><STEP_2>e</STEP_2></THOUGHT>\n"
    '[{"工具名称": "tool_6"}, {"工具名称": "tool_7", "tag": "美食"}]'
)
PLAN = '[{"工具名称":"tool_6"},{"工具名称":"tool_7","tag":"美食"}]'
END_OF_TURN = 151645
words = st.text("酒店去吃饭，ab 1", min_size=1, max_size=8).map(str.strip).filter(bool)


@st.composite
def responses(draw: st.DrawFn) -> tuple[str, int]:
    """A loosely written response and its number of blocks."""
    steps = draw(st.integers(1, 9))
    names = ["CONTEXT", "STRATEGY", *(f"STEP_{i}" for i in range(1, steps + 1))]
    gap = st.sampled_from(["", " ", "\n", "\n\t "])
    blocks = "".join(f"{draw(gap)}<{name}>{draw(words)}</{name}>" for name in names)
    plan = [{"tool": draw(words)} for _ in range(steps)]
    indent = draw(st.sampled_from([None, 1]))
    text = f"<THOUGHT>{blocks}{draw(gap)}</THOUGHT>{draw(gap)}{json.dumps(plan, indent=indent)}"
    return text, len(names)


def golden_rows(shared: Path) -> list[dict]:
    lines = (shared / "golden/compression.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_golden_texts(shared: Path) -> None:
    for row in golden_rows(shared):
        for stage in row["stages"]:
            text = compress_response(row["raw_label"], stage["compressed_blocks"])
            assert text == stage["text"]


def test_golden_token_ids(shared: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(shared / "qwen3_tokenizer/tokenizer.json"))
    tokenizer.add_special_tokens(list(GSISR_LATENTS.tokens))
    assert tokenizer.token_to_id(GSISR_LATENTS.tokens[0]) == 151669
    for row in golden_rows(shared):
        for stage in row["stages"]:
            text = compress_response(row["raw_label"], stage["compressed_blocks"])
            encoded = tokenizer.encode(text, add_special_tokens=False)
            assert [*encoded.ids, END_OF_TURN] == stage["ids"]


def test_golden_sections_part_reasoning_from_plan(shared: Path) -> None:
    # The golden file's own section lists hold zeros only, so the plan is found another way here:
    # as the JSON array that the text ends with.
    for row in golden_rows(shared):
        for stage in row["stages"]:
            text = stage["text"]
            plan = json.dumps(
                json.loads(row["raw_label"].split("</THOUGHT>")[1]),
                ensure_ascii=False,
                separators=(",", ":"),
            )
            cut = len(text) - len(plan)
            assert text[cut:] == plan
            assert response_sections(text) == [(0, cut, 1), (cut, len(text), 2)]


def test_each_stage_turns_one_more_block() -> None:
    context = "<THOUGHT_CONTEXT_a><THOUGHT_CONTEXT_b><THOUGHT_CONTEXT_c>"
    strategy = "<THOUGHT_STRATEGY_a><THOUGHT_STRATEGY_b><THOUGHT_STRATEGY_c>"
    stages = [
        "<CONTEXT>a b</CONTEXT><STRATEGY>c</STRATEGY><STEP_1>d</STEP_1><STEP_2>e</STEP_2>",
        context + "<STRATEGY>c</STRATEGY><STEP_1>d</STEP_1><STEP_2>e</STEP_2>",
        context + strategy + "<STEP_1>d</STEP_1><STEP_2>e</STEP_2>",
        context + strategy + "<T_1_a><T_1_b><T_1_c><STEP_2>e</STEP_2>",
        context + strategy + "<T_1_a><T_1_b><T_1_c><T_2_a><T_2_b><T_2_c>",
    ]
    for stage, blocks in enumerate(stages):
        assert compress_response(RESPONSE, stage) == f"<THOUGHT>{blocks}</THOUGHT>{PLAN}"


def blocks_of(text: str) -> int:
    return len(read_response(text)[0])


@given(responses())
def test_full_compression_is_a_fixed_point(response: tuple[str, int]) -> None:
    text, blocks = response
    assert blocks_of(text) == blocks
    latent = compress_response(text, blocks)
    assert blocks_of(latent) == blocks
    for stage in (0, 1, blocks, blocks + 3):
        assert compress_response(latent, stage) == latent
        assert compress_response(text, blocks + stage) == latent


@given(responses(), st.integers(0, 11), st.integers(0, 11))
def test_compressing_in_two_goes_is_compressing_once(
    response: tuple[str, int], first: int, second: int
) -> None:
    text, _ = response
    twice = compress_response(compress_response(text, first), second)
    assert twice == compress_response(text, max(first, second))


@given(responses(), st.integers(0, 11))
def test_sections_cover_the_text_and_the_plan_loads(response: tuple[str, int], stage: int) -> None:
    text = compress_response(response[0], stage)
    (start, cut, first), (again, end, second) = response_sections(text)
    assert (start, cut, end, first, second) == (0, again, len(text), 1, 2)
    assert text[:cut].endswith("</THOUGHT>")
    assert len(json.loads(text[cut:])) == blocks_of(text) - 2


def test_a_plan_without_reasoning_is_one_section() -> None:
    plan = RESPONSE.split("</THOUGHT>")[1]
    assert compress_response(plan, 5) == PLAN
    assert response_sections(PLAN) == [(0, len(PLAN), 2)]
    assert blocks_of(plan) == 0


def test_another_vocabulary() -> None:
    vocabulary = LatentVocabulary(("SITUATION",), max_steps=1, width=2)
    text = '<THOUGHT><SITUATION>s</SITUATION><STEP_1>t</STEP_1></THOUGHT>[{"do":"x"}]'
    assert compress_response(text, 9, vocabulary) == (
        '<THOUGHT><THOUGHT_SITUATION_a><THOUGHT_SITUATION_b><T_1_a><T_1_b></THOUGHT>[{"do":"x"}]'
    )


FAULTS = {
    "negative stage": (RESPONSE, -1, "-1"),
    "broken plan": (RESPONSE[:-1], 0, "JSON"),
    "plan not a list": (RESPONSE.split("[")[0] + "{}", 0, "array"),
    "fewer steps than intents": (RESPONSE.replace("<STEP_2>e</STEP_2>", ""), 0, "1 steps"),
    "tag in a block": (RESPONSE.replace(">d<", ">d<STEP_9><"), 0, "STEP_9"),
    "control token in the plan": (RESPONSE.replace("美食", "<|im_end|>"), 0, "im_end"),
    "latent after text": (
        RESPONSE.replace("<STEP_1>d</STEP_1>", "<T_1_a><T_1_b><T_1_c>"),
        0,
        "STEP_1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_response_is_refused(fault: str) -> None:
    text, stage, named = FAULTS[fault]
    with pytest.raises(GplanError, match=named):
        compress_response(text, stage)
