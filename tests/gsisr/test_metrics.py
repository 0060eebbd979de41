from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    canonical_plan,
    latent_failure,
    latent_valid,
    ndcg,
    normalized_edit_similarity,
    parse_plan,
    read_samples,
    score_prediction,
)
from gplan_jax.gsisr.metrics import ndcg_positional, ndcg_unique
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary

intents = st.one_of(
    st.sampled_from(["tool_6", "tool_8", "tool_9"]).map(lambda tool: {"工具名称": tool}),
    st.sampled_from(["美食", "购物"]).map(lambda tag: {"工具名称": "tool_7", "tag": tag}),
    st.tuples(st.sampled_from(["附近", "全城"]), st.sampled_from(["美食", "景点"])).map(
        lambda p: {"工具名称": "tool_5", "起始位置": "当前位置", "空间范围": p[0], "tag": p[1]}
    ),
)
plans = st.lists(intents, min_size=1, max_size=6)


def tool(number: int, **parameters: str) -> dict[str, str]:
    return {"工具名称": f"tool_{number}", **parameters}


def test_golden_scores(shared: Path) -> None:
    lines = (shared / "golden/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        score = score_prediction(row["pred"], row["label"])
        assert score.acc1 == row["acc1"]
        assert score.ndcg3 == pytest.approx(row["ndcg3"], abs=1e-12, rel=0)
        assert score.nes == pytest.approx(row["nes"], abs=1e-12, rel=0)


@given(plans)
def test_a_plan_scores_full_marks_against_itself(plan: Plan) -> None:
    score = score_prediction(canonical_plan(plan), canonical_plan(plan))
    assert (score.acc1, score.nes, score.exact) == (1, 1, 1)
    assert score.ndcg3 == score.ndcg3_unique == score.ndcg3_positional == 1


@given(plans, plans)
def test_scores_keep_their_order(first: Plan, second: Plan) -> None:
    score = score_prediction(canonical_plan(first), canonical_plan(second))
    assert 0 <= score.ndcg3_positional <= score.ndcg3_unique <= score.ndcg3 <= 1
    assert 0 <= score.nes <= 1
    assert score.exact == (first == second) == (score.nes == 1)
    assert score.exact <= score.acc1 == (first[0] == second[0])


@given(plans, plans)
def test_by_tools_alone_is_a_plan_without_parameters(first: Plan, second: Plan) -> None:
    score = score_prediction(canonical_plan(first), canonical_plan(second))
    one, other = ([intent["工具名称"] for intent in plan] for plan in (first, second))
    assert score.acc1 <= score.acc1_tool == (one[0] == other[0])
    gains = [1 / math.log2(rank + 2) for rank, name in enumerate(one[:3]) if name in other]
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(3, len(other))))
    assert score.ndcg3 <= score.ndcg3_tool == pytest.approx(min(1, sum(gains) / ideal), abs=1e-12)


def test_the_most_frequent_first_tool_of_the_public_rows(shared: Path) -> None:
    labels = [row.raw_labels for row in read_samples(shared / "gsisr/gsisr_dev.csv")]
    guess = canonical_plan([tool(1, 起始位置="家")])
    hits = [score_prediction(guess, label) for label in labels]
    assert (sum(hit.acc1_tool for hit in hits), len(hits)) == (302, 703)
    assert sum(hit.acc1 for hit in hits) == 0


@given(plans, plans)
def test_edit_similarity_is_symmetric(first: Plan, second: Plan) -> None:
    one_way = normalized_edit_similarity(first, second)
    assert one_way == pytest.approx(normalized_edit_similarity(second, first), abs=1e-12)
    backwards = normalized_edit_similarity(first[::-1], second[::-1])
    assert one_way == pytest.approx(backwards, abs=1e-12)


@given(plans, plans)
def test_edit_similarity_agrees_with_the_recursive_definition(first: Plan, second: Plan) -> None:
    def distance(a: Plan, b: Plan) -> float:
        if not a or not b:
            return len(a) + len(b)
        same_tool = a[0]["工具名称"] == b[0]["工具名称"]
        change = 0 if a[0] == b[0] else 0.3 if same_tool else 1
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + change)

    first, second = first[:4], second[:4]
    wanted = 1 - distance(first, second) / max(len(first), len(second))
    assert normalized_edit_similarity(first, second) == pytest.approx(wanted, abs=1e-12)


@given(plans, plans, st.integers(1, 6))
def test_ndcg_looks_no_further_than_k(prediction: Plan, label: Plan, k: int) -> None:
    for metric in (ndcg, ndcg_unique, ndcg_positional):
        assert metric(prediction, label, k) == metric(prediction[:k], label, k)


@pytest.mark.parametrize(
    ("prediction", "label", "wanted"),
    [
        ([], [tool(6)], 0),
        ([tool(6)], [tool(6)], 1),
        ([tool(6), tool(8)], [tool(8), tool(6)], 0),
        ([tool(6)], [tool(6), tool(8), tool(9)], 1 - 2 / 3),
        ([tool(7, tag="美食")], [tool(7, tag="购物")], 0.7),
        ([tool(7, tag="美食")], [tool(7)], 0.7),
    ],
)
def test_edit_similarity_by_hand(prediction: Plan, label: Plan, wanted: float) -> None:
    assert normalized_edit_similarity(prediction, label) == pytest.approx(wanted, abs=1e-12)


def test_a_repeat_is_credited_by_the_public_ndcg_and_once_by_ours() -> None:
    label = [tool(9), tool(6), tool(8)]
    prediction = [tool(9), tool(9), tool(9)]
    full = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg(prediction, label) == 1
    assert ndcg_unique(prediction, label) == pytest.approx(1 / full)
    assert ndcg_positional(prediction, label) == pytest.approx(1 / full)


def test_positional_credit_needs_the_place() -> None:
    label, swapped = [tool(6), tool(8), tool(9)], [tool(8), tool(6), tool(9)]
    assert ndcg(swapped, label) == ndcg_unique(swapped, label) == 1
    full = 1 + 1 / math.log2(3) + 1 / 2
    assert ndcg_positional(swapped, label) == pytest.approx(0.5 / full)


def test_relevance_looks_at_tool_and_tag_only() -> None:
    near = tool(5, 起始位置="当前位置", 空间范围="附近", tag="美食")
    city = tool(5, 起始位置="当前位置", 空间范围="全城", tag="美食")
    assert ndcg([near], [city]) == 1
    assert ndcg([near], [near | {"tag": "景点"}]) == 0


def test_reasoning_is_not_scored() -> None:
    label = canonical_plan([tool(9)])
    thought = "<THOUGHT><CONTEXT>[]</CONTEXT></THOUGHT>"
    assert score_prediction(thought + label, thought + label).exact == 1


def test_a_refusal_scores_nothing() -> None:
    score = score_prediction("对不起", canonical_plan([tool(9)]))
    assert (score.acc1, score.ndcg3, score.nes, score.exact) == (0, 0, 0, 0)


def test_a_label_without_a_plan_is_an_error() -> None:
    with pytest.raises(GplanError, match="label holds no plan"):
        score_prediction("[]", "none")


def test_another_library(english: IntentLibrary) -> None:
    label = '[{"action":"walk","target":"library"},{"action":"rest"}]'
    other = '[{"action":"walk","target":"canteen"},{"action":"rest"}]'
    score = score_prediction(other, label, english)
    assert score.nes == pytest.approx(0.85)
    assert (score.acc1, score.exact) == (0, 0)
    assert score.ndcg3 == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))


def test_repeats_never_score_more_than_a_perfect_plan() -> None:
    assert ndcg([tool(9)] * 3, [tool(9)]) == 1


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


def test_golden_responses_are_valid_once_fully_latent(shared: Path) -> None:
    lines = (shared / "golden/compression.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        blocks = 2 + len(parse_plan(row["raw_label"]))
        if row["raw_label"].startswith("<THOUGHT>"):
            for stage in row["stages"]:
                assert latent_valid(stage["text"]) == (stage["compressed_blocks"] >= blocks)


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
    "no plan": (response(PREFIX, ""), "plan"),
    "array not closed": (response(PREFIX, PLAN[:-1]), "plan"),
    "trailing comma": (response(PREFIX, PLAN[:-1] + ",]"), "plan"),
    "two plans": (response(PREFIX, PLAN + PLAN), "plan"),
    "a fence": (response(PREFIX, f"```json\n{PLAN}\n```"), "plan"),
    "words before the plan": (response(PREFIX, "计划：" + PLAN), "plan"),
    "words after the plan": (response(PREFIX, PLAN + "完"), "plan"),
    "words before the block": ("好的" + GOOD, "residue"),
    "key twice": (response(PREFIX, PLAN.replace("}", ',"工具名称":"tool_8"}')), "plan"),
    "not a number": (response(PREFIX, PLAN.replace("}", ',"tag":NaN}')), "plan"),
    "nested too deeply": (response(PREFIX, "[" * 100_000), "plan"),
    "a wrapper": (response(PREFIX, f'{{"plan":{PLAN}}}'), "plan"),
    "an intent that is none": (response(PREFIX, PLAN[:-1] + ",1]"), "plan"),
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
