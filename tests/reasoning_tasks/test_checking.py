from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import RowError
from gplan_jax.reasoning_tasks.questions import (
    check_rows,
    multiplication_rows,
    parity_rows,
    prosqa_rows,
)


def row(id: str, prompt: str, answer: str, **steps: str) -> dict[str, Any]:
    blocks = [{"name": name, "text": text} for name, text in steps.items()]
    return {"id": id, "prompt": prompt, "blocks": blocks, "answer": answer}


# Written by hand in the published formats. 123 * 6 = 738, 123 * 50 = 6150, together 6888,
# 123 * 400 = 49200, in all 56088.
PARITY = row("parity-4-2-test-0-0", "1:0 2:1 3:1 4:0 ? 2 3", "0", X1="1", X2="0")
SHORT = row("multiplication-2-test-0-0", "2 1 * 4 3", "8 0 4 0", P1="8 4 0", P2="+ 0 6 3 0")
LONG = row(
    "multiplication-3-test-0-0", "3 2 1 * 6 5 4", "8 8 0 6 5 0",
    P1="8 3 7 0", S2="+ 0 5 1 6 0 ( 8 8 8 6 0 )", P3="+ 0 0 2 9 4 0",
)  # fmt: skip
EDGES = "0 1 | 1 2 | 2 3 | 0 4 | 4 2 | 5 6"
GRAPH = row("prosqa-test-0-0", f"{EDGES} [Q] 6 3 [R] 0", "3", H1="4", H2="2", H3="3")


def check(*rows: Any) -> list[Any]:
    return list(check_rows("rows.jsonl", rows, set()))


@pytest.mark.parametrize("right", [PARITY, SHORT, LONG, GRAPH])
def test_rows_written_by_hand_are_right(right: dict[str, Any]) -> None:
    assert check(right | {"system": "Think."}) == [right | {"system": "Think."}]


def change(right: dict[str, Any], key: str, value: str, block: int | None = None) -> dict[str, Any]:
    changed = deepcopy(right)
    (changed if block is None else changed["blocks"][block])[key] = value
    return changed


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (change(PARITY, "answer", "1"), "answer is 1, not 0"),
        (change(PARITY, "text", "0", 0), "blocks is"),
        (change(PARITY, "name", "X3", 1), "blocks is"),
        (change(PARITY, "prompt", "1:0 2:1 3:1 4:0 ? 3 2"), "prompt is .* not .*2 3"),
        (change(PARITY, "prompt", "1:0 2:1 4:1 3:0 ? 2 3"), "prompt is"),
        (change(PARITY, "prompt", "1:0 2:1 3:1 4:0"), "can't be read"),
        (change(LONG, "answer", "8 8 0 6 5"), "answer is 8 8 0 6 5, not 8 8 0 6 5 0"),
        (change(LONG, "text", "+ 0 5 1 6 0 ( 8 8 8 7 0 )", 1), "blocks is"),
        (change(LONG, "text", "+ 0 5 1 6 0", 1), "blocks is"),
        (change(LONG, "text", "0 0 2 9 4 0", 2), "blocks is"),
        (change(LONG, "prompt", "3 2 1 x 6 5 4"), "can't be read"),
        (change(GRAPH, "answer", "6"), "answer is 6, not 3"),
        (change(GRAPH, "text", "5", 0), "is no path of 3 hops to 3"),
        (change(GRAPH, "prompt", f"{EDGES} [Q] 6 2 [R] 0"), "isn't a leaf"),
        (change(GRAPH, "prompt", f"{EDGES} | 0 5 [Q] 6 3 [R] 0"), "not one candidate is reached"),
        (change(GRAPH, "prompt", f"{EDGES} | 0 1 [Q] 6 3 [R] 0"), "an edge occurs twice"),
        (change(GRAPH, "prompt", f"{EDGES} | 2 0 [Q] 6 3 [R] 0"), "cycle"),
        (change(GRAPH, "prompt", f"{EDGES} | 0 3 [Q] 6 3 [R] 0"), "is no path of 1 hops"),
        (change(GRAPH, "prompt", f"{EDGES} [Q] 6 3 [S] 0"), r"prompt is .* not .*\[R\] 0"),
        (change(GRAPH, "id", "prosqa-hops7-0-0"), "no questions of 3 hops"),
        (change(GRAPH, "id", "prosqa-hops9-0-0"), "hops9"),
        (change(GRAPH, "id", "chess-1"), "no question of a task.*chess"),
        ({"id": "parity-1", "answer": "0", "blocks": []}, "can't be read.*prompt"),
        ("parity", "can't be read"),
    ],
)
def test_faults_are_named_with_their_row(wrong: Any, problem: str) -> None:
    with pytest.raises(RowError, match=rf"(?s)rows.jsonl, row 2: .*{problem}") as error:
        check(SHORT, wrong)
    assert error.value.row == 2


def test_ids_and_prompts_occur_once() -> None:
    with pytest.raises(RowError, match=r"row 2: .* occurs a second time"):
        check(LONG, change(LONG, "id", "multiplication-3-train-0-0"))
    with pytest.raises(RowError, match=f"{SHORT['id']} occurs a second time"):
        check(SHORT, change(LONG, "id", SHORT["id"]))


@given(st.integers(), st.data())
def test_any_changed_character_of_an_answer_or_step_is_found(
    seed: int, data: st.DataObject
) -> None:
    made = data.draw(
        st.sampled_from(
            [
                parity_rows("train", 1, seed, bits=8, k=3),
                multiplication_rows("train", 1, seed, digits=4),
                prosqa_rows("train", 1, seed),
            ]
        )
    )
    (right,) = check(*made)
    block = data.draw(st.sampled_from([None, *range(len(right["blocks"]))]))
    key = "answer" if block is None else "text"
    text = right["answer"] if block is None else right["blocks"][block]["text"]
    place = data.draw(st.sampled_from([i for i, letter in enumerate(text) if letter.isdigit()]))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != text[place]]))
    wrong = change(right, key, text[:place] + digit + text[place + 1 :], block)
    try:
        check(wrong)
    except RowError:
        return
    # Only a graph may have a second shortest path.
    assert right["id"].startswith("prosqa") and key == "text"
