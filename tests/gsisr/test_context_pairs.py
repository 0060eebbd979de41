from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    COLUMNS,
    ContextPair,
    IntentLibrary,
    Provenance,
    Sample,
    check_shared,
    read_context_pairs,
    write_context_pairs,
)
from gplan_jax.gsisr.context_pairs import SHARED_COLUMNS, SPATIOTEMPORAL_COLUMNS

DAY = '[{"工具名称":"tool_6"},{"工具名称":"tool_8"},{"工具名称":"tool_9"}]'
NIGHT = '[{"工具名称":"tool_9"},{"工具名称":"tool_6"},{"工具名称":"tool_8"}]'
THOUGHT = (
    "<THOUGHT><CONTEXT>a</CONTEXT><STRATEGY>b</STRATEGY>"
    "<STEP_1>c</STEP_1><STEP_2>d</STEP_2><STEP_3>e</STEP_3></THOUGHT>"
)


def make_pair(key: str, *, day: str = THOUGHT + DAY, night: str = THOUGHT + NIGHT) -> ContextPair:
    anchor = Sample.from_context(
        {
            "id": f"u{key}",
            "currenttime": "2026-03-04 10:30:00",
            "holidayflag": "0",
            "weekendflag": "0",
            "long_term_behavior": "住宅区的p_1act_8了12次，\n“甲”",
            "raw_labels": day,
        }
    )
    later = dataclasses.replace(anchor, currenttime="2026-03-04 22:30:00", raw_labels=night)
    origin = Provenance(anchor.id, 1, "hours_later", ("currenttime",), "rules", "passed")
    return ContextPair(key, anchor, later, origin)


PAIRS = [make_pair(key) for key in ("1", "2", "3")]


def read(path: Path, amap: IntentLibrary, **options: Any) -> list[ContextPair]:
    return list(read_context_pairs(path, amap, **options))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: list[Any]) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")


def test_every_column_is_either_shared_or_spatiotemporal() -> None:
    assert {*SHARED_COLUMNS, *SPATIOTEMPORAL_COLUMNS, "raw_labels"} == set(COLUMNS)
    assert not set(SHARED_COLUMNS) & set(SPATIOTEMPORAL_COLUMNS)


def test_pairs_are_read_back_as_they_were_written(tmp_path: Path, amap: IntentLibrary) -> None:
    assert write_context_pairs(tmp_path / "pairs.jsonl", iter(PAIRS)) == 3
    assert read(tmp_path / "pairs.jsonl", amap) == PAIRS


def test_the_two_lines_of_a_pair_are_its_two_directions(tmp_path: Path) -> None:
    write_context_pairs(tmp_path / "pairs.jsonl", PAIRS[:1])
    anchor, counterfactual = lines_of(tmp_path / "pairs.jsonl")
    assert (anchor["pair"], anchor["direction"]) == ("1", "anchor")
    assert (counterfactual["pair"], counterfactual["direction"]) == ("1", "counterfactual")
    assert anchor["chosen"] == counterfactual["rejected"] == THOUGHT + DAY
    assert anchor["rejected"] == counterfactual["chosen"] == THOUGHT + NIGHT
    assert anchor["context"]["currenttime"] == "2026-03-04 10:30:00"
    assert counterfactual["context"]["currenttime"] == "2026-03-04 22:30:00"
    assert list(anchor["context"]) == [column for column in COLUMNS if column != "raw_labels"]
    assert anchor["provenance"] == counterfactual["provenance"]
    assert anchor["provenance"]["changed"] == ["currenttime"]


@given(st.sets(st.sampled_from(COLUMNS)))
def test_check_shared_names_exactly_the_shared_columns_that_differ(columns: set[str]) -> None:
    anchor = PAIRS[0].anchor
    other = dataclasses.replace(anchor, **{column: "another" for column in columns})
    wrong = columns & set(SHARED_COLUMNS)
    if not wrong and columns & set(SPATIOTEMPORAL_COLUMNS):
        check_shared(anchor, other)
        return
    with pytest.raises(GplanError) as error:
        check_shared(anchor, other)
    message = str(error.value)
    if not wrong:
        assert "nothing spatiotemporal differs" in message
    else:
        named = message.split(", but ")[1].rsplit(" differ", 1)[0].split(", ")
        assert set(named) == wrong


def test_equal_plans_are_a_fault_or_what_is_wanted(tmp_path: Path, amap: IntentLibrary) -> None:
    same = make_pair("1", night=THOUGHT.replace("c", "f") + DAY)
    write_context_pairs(tmp_path / "same.jsonl", [same])
    with pytest.raises(RowError, match="have the same plan"):
        read(tmp_path / "same.jsonl", amap)
    assert read(tmp_path / "same.jsonl", amap, plans="equal") == [same]
    write_context_pairs(tmp_path / "pairs.jsonl", PAIRS)
    with pytest.raises(RowError, match="have different plans"):
        read(tmp_path / "pairs.jsonl", amap, plans="equal")


def test_a_pair_that_breaks_its_promise_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("earlier")
    other_user = dataclasses.replace(PAIRS[1].counterfactual, id="u9")
    broken = dataclasses.replace(PAIRS[1], counterfactual=other_user)
    with pytest.raises(GplanError, match="but id differs"):
        write_context_pairs(tmp_path / "pairs.jsonl", [PAIRS[0], broken])
    assert (tmp_path / "pairs.jsonl").read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 1


def _set(line: int, *keys: str, value: Any) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        here = lines[line]
        for key in keys[:-1]:
            here = here[key]
        here[keys[-1]] = value

    return change


def _both(*keys: str, value: Any) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        for line in (2, 3):
            _set(line, *keys, value=value)(lines)

    return change


def _replace(line: int, value: Any) -> Callable[[list[Any]], None]:
    return lambda lines: lines.__setitem__(line, value)


def _answers(first: str, second: str) -> Callable[[list[Any]], None]:
    def change(lines: list[Any]) -> None:
        lines[2] |= {"chosen": first, "rejected": second}
        lines[3] |= {"chosen": second, "rejected": first}

    return change


# Each fault is done to the second of three pairs, on lines 3 and 4: what the message says, on
# which lines.
FAULTS: dict[str, tuple[Callable[[list[Any]], None], str, list[int]]] = {
    "shared column": (_set(3, "context", "profile_feat_5", value="x"), "but profile_feat_5", [3]),
    "two shared columns": (
        lambda lines: lines[3]["context"].update(id="x", trigger_4="y"),
        "but id, trigger_4 differ",
        [3],
    ),
    "nothing differs": (
        _set(3, "context", "currenttime", value="2026-03-04 10:30:00"),
        "nothing spatiotemporal differs",
        [3],
    ),
    "rejected of another": (_set(3, "rejected", value=DAY), "not what the other direction", [4]),
    "empty response": (_answers("", THOUGHT + NIGHT), "label is empty", [3]),
    "unknown tool": (_answers(DAY, NIGHT.replace("tool_9", "tool_99")), "tool_99", [4]),
    "rule of logic": (
        _answers(DAY.replace("tool_8", "tool_9"), NIGHT),
        "Intent 3 repeats intent 2",
        [3],
    ),
    "same plan": (_answers(DAY, DAY), "have the same plan", [3]),
    "no time": (_both("context", "trigger_6", value="soon"), "trigger_6 of sample u2", [3]),
    "direction twice": (_set(3, "direction", value="anchor"), "expected anchor and", [3]),
    "unknown direction": (_set(3, "direction", value="back"), "not anchor and back", [3]),
    "one direction lost": (_replace(3, ""), "its other direction", [3]),
    "key of another pair": (_both("pair", value="1"), "line 1 already has this key", [3]),
    "halves of two pairs": (_set(2, "pair", value="9"), "its other direction", [3, 4]),
    "broken JSON": (_replace(3, '{"pair": "2"'), "other direction|not UTF-8 JSON", [3, 4]),
    "no object": (_replace(3, [1]), "other direction|must be a JSON object", [3, 4]),
    "unknown key": (_set(2, "weight", value=1), "unknown keys weight|other direction", [3, 4]),
    "column lost": (
        lambda lines: lines[2]["context"].pop("current_city"),
        "context lacks current_city|other direction",
        [3, 4],
    ),
    "no text": (_set(2, "context", "id", value=7), "expected text in id|other direction", [3, 4]),
    "changed is no list": (
        _set(2, "provenance", "changed", value="x"),
        "must be a list|other",
        [3, 4],
    ),
    "row is no number": (
        _set(2, "provenance", "anchor_row", value="1"),
        "whole number|other direction",
        [3, 4],
    ),
    "provenance of one": (
        _set(3, "provenance", "teacher", value="llm"),
        "directions disagree",
        [3],
    ),
    "changed is wrong": (
        _both("provenance", "changed", value=["current_city"]),
        "says that current_city changed; currenttime did",
        [3],
    ),
    "filter not passed": (_both("provenance", "filter", value="failed"), "'failed'", [3]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_pair_is_named_or_left_out_and_listed(
    fault: str, tmp_path: Path, amap: IntentLibrary
) -> None:
    damage, problem, at = FAULTS[fault]
    path = tmp_path / "pairs.jsonl"
    write_context_pairs(path, PAIRS)
    lines = lines_of(path)
    damage(lines)
    write_lines(path, lines)
    with pytest.raises(RowError, match=problem) as error:
        read(path, amap)
    assert error.value.row == at[0]
    assert str(error.value).startswith(f"{path}, row {at[0]}")
    assert "gplan counterfactuals" in error.value.mend and "--on-error skip" in error.value.mend
    faulty = FaultyRows("skip")
    assert read(path, amap, faulty=faulty) == [PAIRS[0], PAIRS[2]]
    assert [error.row for error in faulty.errors] == at


def test_a_file_without_a_usable_pair_is_an_empty_data_set(
    tmp_path: Path, amap: IntentLibrary
) -> None:
    write_context_pairs(tmp_path / "pairs.jsonl", [])
    with pytest.raises(GplanError, match="empty data set"):
        read(tmp_path / "pairs.jsonl", amap)
    write_lines(tmp_path / "pairs.jsonl", ["broken"])
    with pytest.raises(GplanError, match="all 1 rows are faulty"):
        read(tmp_path / "pairs.jsonl", amap, faulty=FaultyRows("skip"))


def test_other_kinds_of_files_and_missing_ones_are_refused_at_once(
    tmp_path: Path, amap: IntentLibrary
) -> None:
    with pytest.raises(GplanError, match=r"\.jsonl"):
        write_context_pairs(tmp_path / "pairs.csv", PAIRS)
    with pytest.raises(GplanError, match=r"\.jsonl"):
        read_context_pairs(tmp_path / "pairs.csv", amap)
    with pytest.raises(GplanError, match="does not exist"):
        read_context_pairs(tmp_path / "pairs.jsonl", amap)
