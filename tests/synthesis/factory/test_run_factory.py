from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.chat import RequestFailed, ServerUnavailable
from gplan_jax.foundation import GplanError, faulty_rows
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    Sample,
    Violation,
    canonical_plan,
    parse_plan,
    read_samples,
    split_by_id,
)
from gplan_jax.reasoning import ReasoningTrace, split_response
from gplan_jax.synthesis.factory.factory_report import PlanMix
from gplan_jax.synthesis.factory.output_files import OutputFiles
from gplan_jax.synthesis.factory.synthesize import NumberedContext, numbered, run_factory
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.teachers.teacher import TeacherAnswer
from gplan_jax.synthesis.world.simulation import simulate_rows

LIBRARY = IntentLibrary.load()
RULES = ServiceRules(LIBRARY)
ROWS = list(simulate_rows(40, seed=4))
ORIGIN = {
    "model": "m", "prompt_tokens": 10, "completion_tokens": 5, "cost": 0.5,
    "structured": "json_schema", "repaired": False,
}  # fmt: skip


class Scripted:
    """A teacher whose answer to a row is told by the row's ``profile_feat_14``."""

    name, at_once = "scripted", 3

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, sample: Sample) -> TeacherAnswer:
        assert sample.raw_labels == ""
        self.asked.append(sample.id)
        good = RULES.label(sample)
        origin = {**ORIGIN, "requests": [f"{len(self.asked):016x}"]}
        match sample.profile_feat_14:
            case "failed":
                raise RequestFailed("the server was busy")
            case "down":
                raise ServerUnavailable("nothing gets through")
            case "prose":
                fault = Violation("format", "extra_text", "The reply begins with 'Sure'")
                return TeacherAnswer("Sure \ud800", origin, (fault,))
            case "long":
                return TeacherAnswer(canonical_plan([{"工具名称": "tool_9"}] * 12), origin)
            case "tool":
                return TeacherAnswer(good.replace('"tool_', '"gadget_'), origin)
            case "twice":
                plan = split_response(good)[1]
                return TeacherAnswer(
                    canonical_plan([*parse_plan(plan), parse_plan(plan)[0]]), origin
                )
            case "steps":
                return TeacherAnswer(good.replace("<STEP_2>", "<STEP_7>"), origin)
            case "mended":
                return TeacherAnswer(good, {**origin, "repaired": True})
        return TeacherAnswer(good, origin)

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        raise NotImplementedError

    async def close(self) -> None:
        pass


FATES = {
    "": "kept",
    "mended": "kept",
    "failed": "answer/no_answer",
    "prose": "format/extra_text",
    "long": "format/too_long",
    "tool": "schema/unknown_tool",
    "twice": "logic/repeated_intent",
    "steps": "format/broken_reasoning",
}


def _contexts(fates: Iterable[str], rows: Iterable[Sample] = ROWS) -> list[NumberedContext]:
    marked = [
        dataclasses.replace(row, profile_feat_14=fate)
        for row, fate in zip(rows, fates, strict=False)
    ]
    return list(numbered(marked))


def _run(folder: Path, contexts: Iterable[NumberedContext], **options: Any) -> OutputFiles:
    files = OutputFiles(folder / "rows.csv")
    run_factory(contexts, Scripted(), LIBRARY, files, **options)
    return files


@given(
    st.lists(st.tuples(st.sampled_from(sorted(FATES)), st.integers(0, 7)), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=25)
def test_every_row_is_kept_or_removed_once_and_each_for_its_own_reason(
    drawn: list[tuple[str, int]], test_fraction: float
) -> None:
    fates = [fate for fate, _ in drawn]
    contexts = _contexts(fates, [ROWS[i] for _, i in drawn])
    expected, seen = [], set()
    for (fate, i), context in zip(drawn, contexts, strict=True):
        came = FATES[fate]
        if came == "kept":
            came = "duplicate/exact" if (fate, i) in seen else came
            seen.add((fate, i))
        expected.append((context[0], came))
    with tempfile.TemporaryDirectory() as folder:
        files = _run(Path(folder), contexts, test_fraction=test_fraction, seed=3)
        removed = [(r["row"], f"{r['tier']}/{r['code']}") for r in read_jsonl(files.removed)]
        origins = list(read_jsonl(files.origin))
        train = list(read_samples(files.train)) if "train" in _parts(origins) else []
        test = list(read_samples(files.test)) if "test" in _parts(origins) else []
        report = read_json(files.report)
    found = sorted([*removed, *((o["row"], "kept") for o in origins)])
    assert found == expected
    assert report["rows"] == {
        "read": len(drawn), "kept": len(origins), "removed": len(removed), "skipped": 0,
    }  # fmt: skip
    assert report["kept"]["repaired"] == sum(
        fate == "mended" for (fate, _), (_, came) in zip(drawn, expected, strict=True)
        if came == "kept"
    )  # fmt: skip
    by_row = dict(contexts)
    for part, rows in (("train", train), ("test", test)):
        sources = [by_row[o["row"]] for o in origins if o["part"] == part]
        assert rows == [row.with_label(RULES.label(row)) for row in sources]
    if test_fraction:
        assert (train, test) == split_by_id(
            [by_row[o["row"]].with_label(RULES.label(by_row[o["row"]])) for o in origins],
            test_fraction,
            3,
        )


def _parts(origins: list[dict[str, Any]]) -> set[str]:
    return {origin["part"] for origin in origins}


def test_a_removed_row_is_told_with_all_that_is_wrong_and_the_raw_answer(tmp_path: Path) -> None:
    files = _run(tmp_path, _contexts(["prose", "failed", "long", ""]))
    lines = files.removed.read_text(encoding="utf-8").splitlines()
    prose, failed, long = map(json.loads, lines)
    assert prose == {
        "row": 1, "id": ROWS[0].id, "tier": "format", "code": "extra_text",
        "messages": ["The reply begins with 'Sure'"], "raw": "Sure \ufffd",
    }  # fmt: skip
    assert failed["messages"] == ["the server was busy"] and failed["raw"] == ""
    assert len(long["messages"]) == 12 and "repeats intent 1" in long["messages"][-1]


def test_the_report_counts_what_was_kept_removed_and_spent(tmp_path: Path) -> None:
    fates = ["", "mended", "failed", "prose", "tool", "twice", ""]
    contexts = [*_contexts(fates)]
    first = contexts[0][1]
    second = "1" if first.currenttime.endswith("0") else "0"
    later = dataclasses.replace(first, currenttime=first.currenttime[:-1] + second)
    contexts.append((8, later))
    other = PlanMix.of_plans([parse_plan(ROWS[0].raw_labels)], LIBRARY)
    files = _run(tmp_path, contexts, compare=other, settings={"seed": 1})
    report = read_json(files.report)
    assert report["removed"]["share"] == 0.625  # 5 of 8
    assert report["removed"]["share_by_filter"] == 0.4286  # 3 of the 7 that had an answer
    # and the mended one
    assert report["removed"]["share_by_filter_of_first_answers"] == 0.5714
    assert report["first_answers_held_by"] == {"json_schema": 7}
    assert {k: v["rows"] for k, v in report["removed"]["by_tier"].items()} == {
        "answer": 1, "format": 1, "schema": 1, "logic": 1, "duplicate": 1,
    }  # fmt: skip
    assert report["removed"]["by_tier"]["duplicate"]["codes"] == {"near": 1}
    assert report["spent"] == {
        "requests": 7, "tokens": {"prompt": 70, "completion": 35}, "cost": 3.5,
    }  # fmt: skip
    kept = [parse_plan(r.raw_labels) for r in read_samples(files.train)]
    lengths = Counter(str(len(plan)) for plan in kept)
    assert report["plans"]["plan_lengths"] == dict(sorted(lengths.items()))
    assert report["plans"]["suggested_target_blocks"] == 2 + max(map(len, kept))
    assert report["compared"]["rows"] == 1 and set(report["compared"]["distance"]) == {
        "plan_lengths", "tools", "tags",
    }  # fmt: skip
    assert report["settings"] == {"seed": 1}


def test_rows_that_share_a_request_are_billed_once(tmp_path: Path) -> None:
    class Cached(Scripted):
        async def answer(self, sample: Sample) -> TeacherAnswer:
            return TeacherAnswer(RULES.label(sample), {**ORIGIN, "requests": ["ab" * 32]})

    contexts = _contexts(["", ""], [ROWS[0], ROWS[0]])
    run_factory(contexts, Cached(), LIBRARY, OutputFiles(tmp_path / "rows.csv"))
    report = read_json(tmp_path / "rows.report.json")
    assert report["spent"]["requests"] == 1 and report["spent"]["cost"] == 0.5


def test_a_run_for_so_many_rows_asks_for_no_more_than_it_takes(tmp_path: Path) -> None:
    teacher = Scripted()
    contexts = _contexts(["", "tool", "", "twice", "", "", "", ""])
    run_factory(contexts, teacher, LIBRARY, OutputFiles(tmp_path / "rows.csv"), wanted=3)
    assert len(teacher.asked) == 5
    assert len(list(read_samples(tmp_path / "rows.csv"))) == 3


@pytest.mark.parametrize("fate", ["down", "tool"])
def test_what_ends_a_run_leaves_no_file(
    fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faulty_rows, "MOST_FAILED_IN_A_ROW", 5)
    fates = ["", "", *[fate] * 10]
    messages = {"down": "nothing gets through", "tool": "5 rows in a row .*schema/unknown_tool"}
    with pytest.raises(GplanError, match=messages[fate]):
        _run(tmp_path, _contexts(fates))
    assert not list(tmp_path.iterdir())


def test_equal_arguments_write_equal_bytes_and_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    fates = ["", "tool", "mended", "failed"] * 10
    _run(tmp_path, _contexts(["tool", ""]), test_fraction=0.3)
    _run(tmp_path, _contexts(fates), test_fraction=0.3)
    first = contents()
    _run(tmp_path, _contexts(fates), test_fraction=0.3)
    assert contents() == first and len(first) == 5


Change = Callable[[Path], None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "rows.csv").write_text("mine"), "no rows.report.json stands"),
        (lambda folder: (folder / "rows_test.csv").write_text("old"), "left from a run with test"),
    ],
)
def test_a_file_that_is_not_of_such_a_run_is_not_written_over(
    change: Change, message: str, tmp_path: Path
) -> None:
    files = OutputFiles(tmp_path / "rows.csv")
    files.check({"the data": tmp_path / "in.csv"}, test=False)
    change(tmp_path)
    with pytest.raises(GplanError, match=message):
        files.check({}, test=False)
    with pytest.raises(GplanError, match="is the data and would be overwritten"):
        files.check({"the data": tmp_path / "rows.csv"}, test=True)
