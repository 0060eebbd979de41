from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError
from gplan_jax.reasoning import (
    LatentVocabulary,
    ReasoningTrace,
    parse_trace,
    split_response,
    write_trace,
)

GOOD = (
    "<THOUGHT><CONTEXT>刚落地</CONTEXT><STRATEGY>先去酒店</STRATEGY>"
    "<STEP_1>打车</STEP_1><STEP_2>提醒</STEP_2></THOUGHT>"
)
texts = (
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="<>"),
        min_size=1,
        max_size=12,
    )
    .map(str.strip)
    .filter(bool)
)


@st.composite
def traces(draw: st.DrawFn) -> ReasoningTrace:
    names = ["CONTEXT", "STRATEGY"]
    names += [f"STEP_{i}" for i in range(1, draw(st.integers(1, 9)) + 1)]
    return ReasoningTrace(tuple((name, draw(texts)) for name in names))


@given(traces())
def test_a_written_trace_reads_back(trace: ReasoningTrace) -> None:
    assert parse_trace(write_trace(trace)) == trace
    assert trace.step_count == len(trace.blocks) - 2


@given(traces(), st.lists(st.sampled_from(["", " ", "\n", "\t \n"]), min_size=1, max_size=9))
def test_whitespace_between_tags_means_nothing(trace: ReasoningTrace, gaps: list[str]) -> None:
    tags = write_trace(trace).split("><")
    loose = tags[0] + "".join(f">{gaps[i % len(gaps)]}<{tag}" for i, tag in enumerate(tags[1:]))
    assert parse_trace(loose) == trace


def test_blocks_are_looked_up_by_name() -> None:
    trace = parse_trace(GOOD)
    assert trace["STEP_2"] == "提醒"
    with pytest.raises(KeyError):
        trace["STEP_3"]


def test_line_breaks_inside_a_block_become_one_space() -> None:
    text = GOOD.replace("先去酒店", "\n 先去酒店。 \r\n\n  再吃饭 \n")
    assert parse_trace(text)["STRATEGY"] == "先去酒店。 再吃饭"


def test_other_tasks_have_other_blocks() -> None:
    vocabulary = LatentVocabulary(("SITUATION",))
    text = "<THOUGHT><SITUATION>rain</SITUATION><STEP_1>taxi</STEP_1></THOUGHT>"
    assert parse_trace(text, vocabulary).blocks == (("SITUATION", "rain"), ("STEP_1", "taxi"))
    with pytest.raises(GplanError, match="SITUATION"):
        parse_trace(GOOD, vocabulary)


FAULTS = {
    "no wrapper": (GOOD[9:], "THOUGHT"),
    "never closed": (GOOD[:-10], "never closed"),
    "block never closed": (GOOD.replace("</CONTEXT>", ""), "CONTEXT"),
    "missing block": (GOOD.replace("<STRATEGY>先去酒店</STRATEGY>", ""), "STRATEGY"),
    "no step": (GOOD[: GOOD.index("<STEP_1>")] + "</THOUGHT>", "STEP_1"),
    "wrong number": (GOOD.replace("STEP_2", "STEP_3"), "STEP_2"),
    "out of order": (GOOD.replace("CONTEXT", "X").replace("STRATEGY", "CONTEXT"), "CONTEXT"),
    "nested": (GOOD.replace("打车", "打车<STEP_2>提醒</STEP_2>"), "STEP_2"),
    "nested latent": (GOOD.replace("打车", "打车<T_1_a>"), "<T_1_a>"),
    "control token": (GOOD.replace("打车", "打车<|im_end|>"), "<|im_end|>"),
    "residue between": (GOOD.replace("</STEP_1>", "</STEP_1>好"), "好"),
    "residue after": (GOOD + "[]", r"\[\]"),
    "empty block": (GOOD.replace("打车", " \n"), "STEP_1"),
    "already latent": (
        GOOD.replace(
            "<CONTEXT>刚落地</CONTEXT>",
            "<THOUGHT_CONTEXT_a><THOUGHT_CONTEXT_b><THOUGHT_CONTEXT_c>",
        ),
        "latent",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_trace_is_refused_by_name(fault: str) -> None:
    text, named = FAULTS[fault]
    with pytest.raises(GplanError, match=named.replace("|", r"\|")):
        parse_trace(text)


@pytest.mark.parametrize(
    "names", [("CONTEXT",), (), ("STEP_2",), ("STEP_1", "CONTEXT"), ("A", "A", "STEP_1")]
)
def test_a_trace_with_wrong_blocks_cannot_be_made(names: tuple[str, ...]) -> None:
    with pytest.raises(GplanError):
        ReasoningTrace(tuple((name, "text") for name in names))


def test_split_response() -> None:
    assert split_response(f" {GOOD}\n [1] ") == (GOOD, "[1]")
    assert split_response('[{"a":"<THOUGHT>"}]') == (None, '[{"a":"<THOUGHT>"}]')
    with pytest.raises(GplanError, match="never closed"):
        split_response("<THOUGHT><CONTEXT>x</CONTEXT>[]")
