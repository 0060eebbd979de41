"""Replies: what is read, and that whatever is not exactly a judgement is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat.reading import UnreadableReply
from gplan_jax.evaluation.judge.judgement import AxisScore
from gplan_jax.evaluation.judge.replies import pair_schema, read_choice, read_scores, score_schema

AXES = ("flow", "logic")


def reply(flow: Any = None, **more: Any) -> str:
    good = {"reason": "it fits", "score": 4}
    return json.dumps({"flow": flow or good, "logic": {"reason": "so", "score": 1}, **more})


@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.text(min_size=1))
def test_what_is_written_is_read(scores: tuple[int, int], reason: str) -> None:
    written = {
        axis: {"reason": f"r{reason}", "score": score}
        for axis, score in zip(AXES, scores, strict=True)
    }
    wanted = {a: AxisScore(s["score"], f"r{reason}".strip()) for a, s in written.items()}
    assert read_scores(json.dumps(written), AXES) == wanted
    assert read_scores(f"```json\n{json.dumps(written, indent=1)}\n```\n", AXES) == wanted
    thoughtful = f"<think>\nfive, or {{4}}?\n</think>\n\n{json.dumps(written)}"
    assert read_scores(thoughtful, AXES) == read_scores(thoughtful[7:], AXES) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("Scores: 5", "not valid JSON"),
        (f"Here it is: {reply()}", "begins with"),
        (reply() + reply(), "second JSON object"),
        (reply()[:-4], "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[5, 5]", "must be a JSON object"),
        ('{"flow": {"reason": "a", "score": 5}}', "lacks logic"),
        (reply(overall=5), "unknown key 'overall'"),
        (reply(5), "flow must be an object"),
        (reply({"score": 5, "reason": "a"}), "before its reason"),
        (reply({"reason": "a"}), "In flow: lacks score"),
        (reply({"reason": "a", "score": 5, "label": "x"}), "unknown key 'label'"),
        (reply({"reason": "a", "score": "5"}), "score must be a number"),
        (reply({"reason": "a", "score": True}), "whole number"),
        (reply({"reason": "a", "score": 4.0}), "score must be a number"),
        (reply({"reason": "a", "score": 6}), "whole number"),
        (reply({"reason": "a", "score": 0}), "whole number"),
        (reply({"reason": " ", "score": 5}), "no reason"),
        (reply({"reason": None, "score": 5}), "reason must be text"),
        ('{"flow": {"reason": "a", "score": 5}, "flow": {"reason": "a", "score": 1}}', "twice"),
        (reply().replace("4", "NaN"), "not valid JSON"),
    ],
)
def test_anything_else_is_no_judgement(text: str, why: str) -> None:
    with pytest.raises(UnreadableReply, match=why):
        read_scores(text, AXES)


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(UnreadableReply):
        read_scores(text, AXES)
    with pytest.raises(UnreadableReply):
        read_choice(text)


def test_choices() -> None:
    for winner, choice in (("A", "first"), ("B", "second"), ("tie", "tie")):
        assert read_choice(json.dumps({"reason": "so", "winner": winner})) == (choice, "so")
    for text in ('{"winner": "A", "reason": "so"}', '{"reason": "so", "winner": "a"}',
                 '{"reason": "so", "winner": ["A"]}', '{"reason": "", "winner": "A"}'):  # fmt: skip
        with pytest.raises(UnreadableReply):
            read_choice(text)


def test_the_schemas_ask_for_the_reason_first() -> None:
    schema = score_schema(AXES)
    assert schema["required"] == list(AXES)
    for axis in AXES:
        assert list(schema["properties"][axis]["properties"]) == ["reason", "score"]
    assert list(pair_schema()["properties"]) == ["reason", "winner"]
