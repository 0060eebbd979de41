from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    Sample,
    canonical_plan,
    parse_plan,
    read_labelled_samples,
    read_samples,
    write_samples,
)
from gplan_jax.reasoning import ReasoningTrace, parse_trace, write_trace
from gplan_jax.synthesis.factory.labelled_files import explain_file
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, TeacherAnswer
from gplan_jax.synthesis.world.simulation import simulate_rows

Truth = Callable[[Sample, str], bool]
LIBRARY = IntentLibrary.load()
RULES = ServiceRules(LIBRARY)
CONTEXTS = list(simulate_rows(60, seed=11))
# Words of rules.yaml that are no claim about a row.
HABITUAL, BY_HABIT = "惯常补充，兜底推荐", "按惯常"
TOOL_WORDS = {
    "tool_1": "打车", "tool_2": "出行", "tool_3": "长途交通", "tool_4": "周边公交",
    "tool_5": "兴趣推荐", "tool_6": "到店卡片", "tool_7": "就近一处", "tool_8": "订单提醒",
    "tool_9": "天气", "tool_10": "评价",
}  # fmt: skip
FOLLOWS_STEP, AFTER_ARRIVING = "承接上一步", "到订单地之后"


def _intents() -> st.SearchStrategy[dict[str, str]]:
    def intent(tool: str) -> st.SearchStrategy[dict[str, str]]:
        values = {
            name: st.sampled_from(sorted(LIBRARY.parameters[name].values or {}))
            for name in LIBRARY.tools[tool].parameters
        }
        return st.fixed_dictionaries({LIBRARY.tool_key: st.just(tool), **values})

    return st.sampled_from(sorted(LIBRARY.tools)).flatmap(intent)


def _claims(trace: ReasoningTrace) -> list[str]:
    """Every reason that a trace gives, without the words that are no claim about the row."""
    [(_, context), (_, strategy), *steps] = trace.blocks
    claims = context.removesuffix("。").split("，") + strategy.split("：")[0].split("，")
    for _, text in steps:
        claims += text.split("：")[1].removesuffix("。").split("，")
    relations = {*HABITUAL.split("，"), BY_HABIT, FOLLOWS_STEP, AFTER_ARRIVING}
    return [claim for claim in claims if claim not in relations]


@given(st.sampled_from(CONTEXTS), st.lists(_intents(), min_size=1, max_size=9))
def test_any_plan_is_explained_by_true_facts_only(sample: Sample, plan: Plan) -> None:
    trace = RULES.trace(sample, plan)
    assert parse_trace(write_trace(trace)) == trace
    assert trace.step_count == len(plan)
    for i, intent in enumerate(plan, start=1):
        assert TOOL_WORDS[intent["工具名称"]] in trace[f"STEP_{i}"]
        for value in intent.values():
            if value in (*LIBRARY.parameters["tag"].values, "附近", "商圈", "全城"):
                assert value in trace[f"STEP_{i}"]
    assert set(_claims(trace)) <= set(RULES.context(RULES.tell(sample)))


@given(st.sampled_from(CONTEXTS), st.lists(_intents(), min_size=1, max_size=4))
def test_the_context_tells_nothing_of_the_plan(sample: Sample, plan: Plan) -> None:
    given_plan = parse_plan(sample.raw_labels)
    expected = RULES.trace(sample, given_plan)["CONTEXT"]
    assert RULES.trace(sample.with_label(""), plan)["CONTEXT"] == expected


def test_facts_named_for_real_rows_hold_in_their_columns(shared: Path, holds: Truth) -> None:
    for sample, label in read_labelled_samples(shared / "gsisr/gsisr_dev.csv", LIBRARY):
        trace = RULES.trace(sample, label.plan)
        for claim in _claims(trace):
            assert holds(sample, claim), f"{claim}: {sample}"


def test_an_intent_without_support_is_called_habitual() -> None:
    at_work = Sample.from_context(
        {"currenttime": "2026-03-10 15:00:00", "current_poi_name": "p_1", "profile_feat_8": "p_1"}
    )
    going = {"工具名称": "tool_2", "起始位置": "当前位置", "终点位置": "公司"}
    trace = RULES.trace(at_work, [going])
    assert trace["STEP_1"] == f"出行到公司：{HABITUAL}。"
    assert trace["STRATEGY"].startswith(BY_HABIT)


def test_a_step_says_how_it_follows_from_the_plan() -> None:
    sample = Sample.from_context({"currenttime": "2026-03-10 15:00:00"})
    ride = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
    food = {"工具名称": "tool_5", "起始位置": "前一位推荐结果", "空间范围": "附近", "tag": "美食"}
    arrival = {"工具名称": "tool_6"}
    trace = RULES.trace(sample, [ride, arrival, food])
    assert AFTER_ARRIVING in trace["STEP_2"] and FOLLOWS_STEP in trace["STEP_3"]
    assert AFTER_ARRIVING not in RULES.trace(sample, [arrival, ride])["STEP_1"]


def test_the_golden_trace_of_a_hotel_guest_on_the_way() -> None:
    sample = Sample.from_context(
        {
            "currenttime": "2026-03-10 19:00:00",
            "profile_feat_5": "砚溪市",
            "current_city": "岚谷市",
            "current_district": "听涛区",
            "current_poi_name": "p_1",
            "current_tag": "高铁站",
            "trigger_1": "酒店",
            "trigger_2": "岚谷市",
            "trigger_3": "望舒区",
            "trigger_4": "p_2",
            "trigger_6": "2026-03-10 00:00:00",
            "trigger_7": "2026-03-11 00:00:00",
        }
    )
    ride = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
    food = {"工具名称": "tool_5", "起始位置": "订单目的地", "空间范围": "附近", "tag": "美食"}
    assert RULES.trace(sample, [ride, food]).blocks == (
        ("CONTEXT", "酒店订单就在今天，与订单地同城异区，身在外地，晚饭时间，交通枢纽。"),
        ("STRATEGY", "与订单地同城异区，酒店订单就在今天：先去订单地，再用餐，围绕订单地安排。"),
        ("STEP_1", "打车到订单地：与订单地同城异区，酒店订单就在今天。"),
        ("STEP_2", "兴趣推荐订单地附近美食：与订单地同城异区，晚饭时间。"),
    )


def test_the_rules_answer_with_the_plan_of_the_world_explained() -> None:
    for row in CONTEXTS:
        answer = RULES.label(row.with_label(""))
        assert answer == row.raw_labels
        plan = parse_plan(answer, LIBRARY)
        assert answer == write_trace(RULES.trace(row, plan)) + canonical_plan(plan, LIBRARY)


def test_an_empty_plan_cannot_be_explained() -> None:
    with pytest.raises(GplanError, match="empty plan"):
        RULES.trace(CONTEXTS[0], [])


def test_a_library_with_unknown_tools_is_refused_by_name() -> None:
    tools = {**LIBRARY.tools, "tool_77": LIBRARY.tools["tool_9"]}
    with pytest.raises(GplanError, match="tool_77"):
        RuleTeacher(LIBRARY.model_copy(update={"tools": tools}))


def test_a_file_keeps_its_contexts_and_plans(tmp_path: Path, library: IntentLibrary) -> None:
    plans = [parse_plan(row.raw_labels) for row in CONTEXTS]
    bare = [row.with_label(canonical_plan(plan)) for row, plan in zip(CONTEXTS, plans, strict=True)]
    write_samples(tmp_path / "bare.csv", bare)
    report = explain_file(tmp_path / "bare.csv", tmp_path / "out.jsonl", library)
    # The world's rows carry the same teacher's traces, so explaining them again restores them.
    assert list(read_samples(tmp_path / "out.jsonl")) == CONTEXTS
    characters = sum(len(row.raw_labels) for row in CONTEXTS)
    characters -= sum(len(row.raw_labels) for row in bare)
    assert (report.rows, report.skipped) == (60, 0)
    assert report.mean_characters == pytest.approx(characters / 60)


def test_another_teacher_fits_behind_the_same_call(tmp_path: Path, library: IntentLibrary) -> None:
    class Terse:
        name, at_once, closed = "terse", 2, False

        async def answer(self, sample: Sample) -> TeacherAnswer:
            raise AssertionError("the plan is given")

        async def close(self) -> None:
            self.closed = True

        async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
            steps = tuple((f"STEP_{i}", "可") for i in range(1, len(plan) + 1))
            return ReasoningTrace((("CONTEXT", sample.id), ("STRATEGY", "稳"), *steps))

    write_samples(tmp_path / "in.csv", CONTEXTS[:2])
    teacher = Terse()
    explain_file(tmp_path / "in.csv", tmp_path / "out.csv", library, teacher=teacher)
    assert teacher.closed
    first = next(read_samples(tmp_path / "out.csv"))
    assert first.raw_labels.startswith(f"<THOUGHT><CONTEXT>{CONTEXTS[0].id}</CONTEXT>")


def _with_a_broken_row(path: Path) -> None:
    write_samples(path, CONTEXTS[:3])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[2][-1] = "[{"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_faulty_row_stops_and_leaves_an_earlier_result_whole(
    tmp_path: Path, library: IntentLibrary
) -> None:
    _with_a_broken_row(tmp_path / "in.csv")
    (tmp_path / "out.csv").write_text("earlier")
    with pytest.raises(RowError, match="row 2, column raw_labels"):
        explain_file(tmp_path / "in.csv", tmp_path / "out.csv", library)
    assert (tmp_path / "out.csv").read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_faulty_row_can_be_skipped_and_is_listed(tmp_path: Path, library: IntentLibrary) -> None:
    _with_a_broken_row(tmp_path / "in.csv")
    faulty = FaultyRows("skip")
    report = explain_file(tmp_path / "in.csv", tmp_path / "out.csv", library, faulty=faulty)
    assert (report.rows, report.skipped) == (2, 1)
    assert [error.row for error in faulty.errors] == [2]
    assert list(read_samples(tmp_path / "out.csv")) == [CONTEXTS[0], CONTEXTS[2]]


def test_the_source_is_never_overwritten(tmp_path: Path, library: IntentLibrary) -> None:
    write_samples(tmp_path / "in.csv", CONTEXTS[:1])
    with pytest.raises(GplanError, match="also the source"):
        explain_file(tmp_path / "in.csv", tmp_path / "in.csv", library)
