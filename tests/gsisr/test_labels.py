from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    IntentLibrary,
    RowPlace,
    Sample,
    parse_label,
    read_labelled_samples,
    write_samples,
)

PLAN = '[{"工具名称":"tool_6"},{"工具名称":"tool_7","tag":"美食"},{"工具名称":"tool_9"}]'
THOUGHT = (
    "<THOUGHT><CONTEXT>a</CONTEXT><STRATEGY>b</STRATEGY>"
    "<STEP_1>c</STEP_1><STEP_2>d</STEP_2><STEP_3>e</STEP_3></THOUGHT>"
)
WHERE = RowPlace("rows.csv", 7)


def labelled(raw: str) -> Sample:
    now = "2025-01-01 08:00:00"
    return Sample.from_context({"id": "1", "currenttime": now, "raw_labels": raw})


def test_a_plan_without_reasoning(amap: IntentLibrary) -> None:
    loose = PLAN.replace(
        '{"工具名称":"tool_7","tag":"美食"}', '{"tag": "美食", "工具名称": "tool_7"}'
    )
    label = parse_label(labelled(f" {loose}\n"), amap, WHERE)
    assert label.trace is None
    assert label.text == PLAN
    assert label.plan[1] == {"工具名称": "tool_7", "tag": "美食"}


def test_a_plan_with_reasoning(amap: IntentLibrary) -> None:
    label = parse_label(labelled(THOUGHT.replace("><", ">\n<") + "\n" + PLAN), amap, WHERE)
    assert label.trace is not None and label.trace["STEP_3"] == "e"
    assert label.text == THOUGHT + PLAN


REPEATED = '[{"工具名称":"tool_9"},{"工具名称":"tool_9"},{"工具名称":"tool_9"}]'


def test_a_broken_rule_of_logic_is_kept_with_the_label(amap: IntentLibrary) -> None:
    label = parse_label(labelled(REPEATED), amap, WHERE)
    assert len(label.plan) == 3
    assert [(fault.tier, fault.code) for fault in label.broken] == [
        ("logic", "repeated_intent")
    ] * 2


@pytest.mark.parametrize(
    ("many", "told"), [(1, "1"), (5, "1, 1, 1, 1, 1"), (6, "1, 1, 1, 1, 1 ...")]
)
def test_rows_that_break_a_rule_of_logic_are_counted_in_a_warning(
    many: int, told: str, tmp_path: Path, amap: IntentLibrary, capsys: pytest.CaptureFixture[str]
) -> None:
    path, faulty = tmp_path / "rows.csv", FaultyRows()
    write_samples(path, [labelled(PLAN), *[labelled(REPEATED)] * many])
    assert len(list(read_labelled_samples(path, amap, faulty=faulty))) == many + 1
    faulty.report()
    wanted = f"warning: {many} rows break a logic rule of the filter in {path}; ids {told}\n"
    assert capsys.readouterr().err == wanted


FAULTS = {
    "empty": (" ", "label is empty"),
    "broken JSON": (PLAN[:-1], "not valid JSON"),
    "text around": (f"计划：{PLAN}", "not valid JSON"),
    "unknown tool": (PLAN.replace("tool_9", "tool_99"), "tool_99"),
    "two faults": (
        PLAN.replace("tool_9", "tool_99").replace("美食", "火星"),
        "(?s)火星.*tool_99",
    ),
    "too short": ('[{"工具名称":"tool_9"}]', "3 to 9 intents, not 1"),
    "more steps than intents": (
        THOUGHT.replace("</THOUGHT>", "<STEP_4>f</STEP_4></THOUGHT>") + PLAN,
        "4 steps but the plan has 3",
    ),
    "fewer steps than intents": (
        THOUGHT.replace("<STEP_3>e</STEP_3>", "") + PLAN,
        "2 steps but the plan has 3",
    ),
    "reasoning cut off": (THOUGHT[:-10], "never closed"),
    "steps out of order": (THOUGHT.replace("STEP_2", "STEP_5") + PLAN, "STEP_2"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_label_names_row_and_column(fault: str, amap: IntentLibrary) -> None:
    raw, problem = FAULTS[fault]
    with pytest.raises(RowError, match=problem) as error:
        parse_label(labelled(raw), amap, WHERE)
    assert str(error.value).startswith("rows.csv, row 7, column raw_labels: ")
    assert error.value.row == 7


def test_all_public_labels_are_read(shared: Path, amap: IntentLibrary) -> None:
    rows = list(read_labelled_samples(shared / "gsisr/gsisr_dev.csv", amap))
    assert len(rows) == 703
    assert [i for i, (_, label) in enumerate(rows, start=1) if label.broken] == [262, 590, 597]
    assert all(label.text == sample.raw_labels for sample, label in rows)


def test_faulty_labels_are_skipped_and_listed_by_their_row(
    tmp_path: Path, amap: IntentLibrary
) -> None:
    path = tmp_path / "rows.jsonl"
    write_samples(path, [labelled(raw) for raw in (PLAN, "[", PLAN, "")])
    with path.open("a", encoding="utf-8") as file:
        file.write("broken\n")
    faulty = FaultyRows("skip")
    kept = list(read_labelled_samples(path, amap, faulty=faulty))
    assert [label.text for _, label in kept] == [PLAN, PLAN]
    assert [(error.row, error.column) for error in faulty.errors] == [
        (2, "raw_labels"),
        (4, "raw_labels"),
        (5, None),
    ]
    with pytest.raises(RowError, match="row 2"):
        list(read_labelled_samples(path, amap))


def test_no_usable_label_is_an_empty_data_set(tmp_path: Path, amap: IntentLibrary) -> None:
    path = tmp_path / "rows.csv"
    write_samples(path, [labelled("")])
    with pytest.raises(GplanError, match="empty data set"):
        list(read_labelled_samples(path, amap, faulty=FaultyRows("skip")))
