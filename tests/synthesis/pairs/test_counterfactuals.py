from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gplan_jax.chat import RequestFailed
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import report_path
from gplan_jax.gsisr import (
    ContextPair,
    IntentLibrary,
    Plan,
    RowPlace,
    Sample,
    check_plan,
    check_shared,
    parse_plan,
    read_context_pairs,
    read_samples,
    write_samples,
)
from gplan_jax.reasoning import ReasoningTrace
from gplan_jax.synthesis.pairs.counterfactuals import (
    PairCandidate,
    PairRecipe,
    PairReport,
    candidates_of,
    report_table,
    write_counterfactuals,
)
from gplan_jax.synthesis.pairs.perturbations import (
    HoursShift,
    OrderMove,
    PerturbationSpec,
    harvest,
    load_spec,
)
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, TeacherAnswer
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.synthesis.situations import AMAP

LIBRARY = IntentLibrary.load()
ROWS = list(simulate_rows(120, seed=4))
CATALOGUE = harvest(ROWS)
SPEC = load_spec()
NAMES = list(SPEC.weights)
GOOD = '[{"工具名称":"tool_6"},{"工具名称":"tool_8"},{"工具名称":"tool_9"}]'


class Scripted:
    """A teacher whose answer is a function of the context."""

    name, at_once = "scripted", 3

    def __init__(self, answer: Callable[[Sample], str]) -> None:
        self._answer = answer

    async def answer(self, sample: Sample) -> TeacherAnswer:
        return TeacherAnswer(self._answer(sample))

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        raise AssertionError("nothing is explained here")

    async def close(self) -> None:
        pass


def recipe(**changes: Any) -> PairRecipe:
    basis = PairRecipe(SPEC, CATALOGUE, RuleTeacher(LIBRARY), LIBRARY, per_anchor=len(NAMES))
    return dataclasses.replace(basis, **changes)


def candidates(sample: Sample, number: int = 1, **changes: Any) -> list[PairCandidate]:
    return asyncio.run(candidates_of(sample, RowPlace("rows.csv", number), recipe(**changes)))


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    write_samples(tmp_path / "rows.csv", ROWS)
    return tmp_path / "rows.csv"


def read(path: Path, **options: Any) -> list[ContextPair]:
    return list(read_context_pairs(path, LIBRARY, **options))


def test_every_pair_keeps_what_is_promised() -> None:
    seen: Counter[str] = Counter()
    for number, row in enumerate(ROWS, start=1):
        found = candidates(row, number)
        assert sorted(c.perturbation for c in found) == sorted(NAMES)
        for candidate in found:
            seen[candidate.verdict] += 1
            if candidate.pair is None:
                assert candidate.verdict == "not_applicable"
                continue
            pair = candidate.pair
            check_shared(*pair.contexts)
            # What the rules plan for each context, worked out anew.
            plans = [
                AMAP.plan(AMAP.tell(context), AMAP.taste(context)) for context in pair.contexts
            ]
            assert [parse_plan(context.raw_labels) for context in pair.contexts] == plans
            assert (plans[0] == plans[1]) == (candidate.verdict == "equal")
            assert not any(check_plan(context.raw_labels, LIBRARY) for context in pair.contexts)
            # The world's rows carry the same teacher's answers.
            assert pair.anchor == row
            origin = pair.provenance
            assert (origin.anchor, origin.anchor_row) == (row.id, number)
            assert (origin.perturbation, origin.teacher) == (candidate.perturbation, "rules")
            assert origin.filter == "passed"
            assert pair.key == f"{number}:{candidate.perturbation}"
    assert set(seen) == {"pair", "equal", "not_applicable"}


def test_a_row_gives_no_more_pairs_than_asked_for_each_by_another_perturbation() -> None:
    for row in ROWS[:40]:
        everything = candidates(row)
        for most in (1, 3):
            found = candidates(row, per_anchor=most)
            assert found == everything[: len(found)]
            pairs = [c.perturbation for c in found if c.verdict == "pair"]
            assert len(pairs) <= most and len(set(pairs)) == len(pairs)
            assert len(pairs) == most or len(found) == len(everything)


def test_draws_depend_on_seed_and_row_alone() -> None:
    row = ROWS[7]
    assert candidates(row) == candidates(row)
    assert candidates(row) != candidates(row, seed=1)
    other_label = row.with_label(GOOD)
    assert candidates(other_label) == candidates(row)
    # Neither the number of the row nor the other perturbations of the spec touch a draw.
    spec = PerturbationSpec(other_city=load_spec().other_city)
    [alone] = candidates(row, 9, spec=spec)
    [among] = [c for c in candidates(row) if c.perturbation == "other_city"]
    assert alone.pair is not None and among.pair is not None
    assert alone.pair.counterfactual == among.pair.counterfactual


def test_weights_say_how_often_a_perturbation_comes_first() -> None:
    shipped = load_spec()
    heavy = shipped.model_copy(
        update={"other_city": shipped.other_city.model_copy(update={"weight": 7.0})}  # type: ignore[union-attr]
    )
    firsts = [candidates(row, spec=heavy, per_anchor=1)[0].perturbation for row in ROWS]
    # 7 of 14 parts: half of the rows, within four standard deviations (5.5 rows).
    assert abs(firsts.count("other_city") - len(ROWS) / 2) < 22


def test_a_file_is_written_in_both_directions_with_its_counts(
    rows_file: Path, tmp_path: Path
) -> None:
    out, same = tmp_path / "pairs.jsonl", tmp_path / "same.jsonl"
    report = write_counterfactuals(rows_file, out, LIBRARY, unchanged=same, per_anchor=2, seed=3)
    expected = [
        candidate
        for number, row in enumerate(ROWS, start=1)
        for candidate in asyncio.run(
            candidates_of(row, RowPlace(rows_file, number), recipe(per_anchor=2, seed=3))
        )
    ]
    assert read(out) == [c.pair for c in expected if c.verdict == "pair"]
    assert read(same, plans="equal") == [c.pair for c in expected if c.verdict == "equal"]
    for verdict in ("pair", "equal", "not_applicable"):
        counts = Counter(c.perturbation for c in expected if c.verdict == verdict)
        assert {n: v[verdict] for n, v in report.verdicts.items() if verdict in v} == counts
    with_pair = {c.pair.provenance.anchor_row for c in expected if c.pair and c.verdict == "pair"}
    assert (report.anchors, report.without_pair) == (120, 120 - len(with_pair))
    assert report.skipped == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["direction"] for line in lines] == ["anchor", "counterfactual"] * (len(lines) // 2)
    kept = json.loads((tmp_path / "pairs.report.json").read_text(encoding="utf-8"))
    assert kept["candidates"]["pair"] == report.total("pair") == len(lines) // 2
    assert kept["candidates"]["equal"] == report.total("equal") > 0
    assert kept["settings"]["seed"] == 3 and kept["settings"]["teacher"]["name"] == "rules"
    assert kept["settings"]["spec"]["hours_later"] == {"weight": 1.0, "least": 2.0, "most": 10.0}
    assert PerturbationSpec.model_validate(kept["settings"]["spec"], strict=False) == load_spec()


def test_the_same_arguments_write_the_same_bytes(rows_file: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_counterfactuals(rows_file, tmp_path / f"{name}.jsonl", LIBRARY, seed=seed)
        texts.append((tmp_path / f"{name}.jsonl").read_text(encoding="utf-8"))
    assert texts[0] == texts[1] != texts[2]


def test_a_limit_takes_the_first_anchors_and_leaves_their_pairs_as_they_are(
    rows_file: Path, tmp_path: Path
) -> None:
    write_counterfactuals(rows_file, tmp_path / "all.jsonl", LIBRARY)
    report = write_counterfactuals(rows_file, tmp_path / "some.jsonl", LIBRARY, limit=30)
    assert report.anchors == 30
    some = read(tmp_path / "some.jsonl")
    assert some == read(tmp_path / "all.jsonl")[: len(some)]
    assert {pair.provenance.anchor_row for pair in some} <= set(range(1, 31))


def test_public_rows_get_pairs_without_a_fault(shared: Path, tmp_path: Path) -> None:
    source = shared / "gsisr/gsisr_dev.csv"
    out, same = tmp_path / "pairs.jsonl", tmp_path / "same.jsonl"
    report = write_counterfactuals(source, out, LIBRARY, unchanged=same)
    assert (report.anchors, report.skipped) == (703, 0)
    rows = list(read_samples(source))
    pairs = read(out)
    assert len(pairs) == report.total("pair") > 650
    for pair in pairs:
        row = rows[pair.provenance.anchor_row - 1]
        assert pair.anchor.with_label("") == row.with_label("")
    assert len(read(same, plans="equal")) == report.total("equal")


# What a teacher may answer to a changed context, and what the fault then says of it.
ANSWERS = {
    "empty": ("", "label is empty"),
    "no plan": ("待在家里", "not valid JSON"),
    "unknown tool": (GOOD.replace("tool_9", "tool_99"), "'tool_99' is not a tool"),
    "too short": ('[{"工具名称":"tool_9"}]', "3 to 9 intents, not 1"),
    "rule of logic": (GOOD.replace("tool_8", "tool_6"), "Intent 2 repeats intent 1"),
    "broken reasoning": ("<THOUGHT><CONTEXT>a</CONTEXT>" + GOOD, "never closed"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_fails_is_named_and_left_out(answer: str, tmp_path: Path) -> None:
    rows_file = tmp_path / "rows.csv"
    write_samples(rows_file, ROWS[:40])
    text, problem = ANSWERS[answer]
    rules = AMAP
    known = {row.with_label("") for row in ROWS}
    fails_at = ROWS[4].current_city

    def fail_there(sample: Sample) -> str:
        fails = sample not in known and sample.current_city == fails_at
        return text if fails else rules.label(sample)

    out, options = tmp_path / "out.jsonl", {"teacher": Scripted(fail_there)}
    with pytest.raises(RowError, match=f"answer of teacher scripted to .* fails: .*{problem}"):
        write_counterfactuals(rows_file, out, LIBRARY, **options)
    assert not out.exists()
    faulty = FaultyRows("skip")
    report = write_counterfactuals(rows_file, out, LIBRARY, faulty=faulty, **options)
    assert report.total("failed") == report.skipped == len(faulty.errors) > 0
    assert all("--on-error skip" in error.mend for error in faulty.errors)
    assert not [pair for pair in read(out) if pair.counterfactual.current_city == fails_at]


def test_a_failing_answer_to_the_row_itself_leaves_the_row_out(
    rows_file: Path, tmp_path: Path
) -> None:
    rules = AMAP
    first = ROWS[0].with_label("")

    def no_answer(sample: Sample) -> str:
        if sample == first:
            raise RequestFailed("the model refused to answer.")
        return rules.label(sample)

    faulty = FaultyRows("skip")
    report = write_counterfactuals(
        rows_file,
        tmp_path / "out.jsonl",
        LIBRARY,
        teacher=Scripted(no_answer),
        faulty=faulty,
    )
    [fault] = [error for error in faulty.errors if "the row as it is" in str(error)]
    assert fault.row == 1 and "refused to answer. Run the command again" in str(fault)
    assert report.verdicts["anchor"] == {"failed": 1}
    assert 1 not in {pair.provenance.anchor_row for pair in read(tmp_path / "out.jsonl")}


def test_a_teacher_does_not_see_the_label_of_the_row() -> None:
    seen: list[str] = []

    def answer(sample: Sample) -> str:
        seen.append(sample.raw_labels)
        return GOOD

    assert {c.verdict for c in candidates(ROWS[0], teacher=Scripted(answer))} <= {
        "equal",
        "not_applicable",
    }
    assert seen and set(seen) == {""}


def _with(rows: list[Sample], index: int, **columns: str) -> list[Sample]:
    changed = dataclasses.replace(rows[index], **columns)
    return [*rows[:index], changed, *rows[index + 1 :]]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"currenttime": "noon"}, "currenttime of sample .* is 'noon'"),
        ({"currenttime": ""}, "currenttime is empty"),
        ({"trigger_6": "tomorrow"}, "trigger_6 of sample"),
        ({"weekendflag": "x"}, "weekendflag is 'x'; write 0 or 1"),
    ],
)
def test_an_unreadable_row_is_named_or_left_out_and_listed(
    columns: dict[str, str], problem: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_samples(source, _with(ROWS[:20], 5, **columns))
    out.write_text("earlier")
    with pytest.raises(RowError, match=f"row 6: {problem}") as error:
        write_counterfactuals(source, out, LIBRARY)
    assert "--on-error skip" in error.value.mend
    assert out.read_text() == "earlier" and len(list(tmp_path.iterdir())) == 2
    faulty = FaultyRows("skip")
    report = write_counterfactuals(source, out, LIBRARY, faulty=faulty)
    assert [error.row for error in faulty.errors] == [6]
    assert report.verdicts["anchor"] == {"unreadable": 1}
    assert report.without_pair >= 1 and report.anchors == 20
    assert 6 not in {pair.provenance.anchor_row for pair in read(out)}


def test_a_row_of_which_nothing_can_be_changed_is_named_or_left_out(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    rows = [row for row in ROWS if row.current_poi_name != row.trigger_4]
    # Rows whose history tells what kind of place it is.
    rows = [row for row in rows if f"的{row.trigger_4}" in row.short_term_behavior_seq][:20]
    write_samples(source, _with(rows, 2, trigger_4=""))
    spec = PerturbationSpec(at_order_place=OrderMove())
    with pytest.raises(RowError, match="row 3: nothing can be changed: none of at_order_place"):
        write_counterfactuals(source, out, LIBRARY, spec=spec)
    faulty = FaultyRows("skip")
    report = write_counterfactuals(source, out, LIBRARY, spec=spec, faulty=faulty)
    assert [error.row for error in faulty.errors] == [3]
    assert report.verdicts["anchor"] == {"unchangeable": 1}


def test_faulty_lines_of_the_source_are_skipped_and_listed_once(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    write_samples(source, ROWS[:10])
    with source.open("a", encoding="utf-8") as file:
        file.write("broken\n")
    with pytest.raises(RowError, match="row 11: not UTF-8 JSON"):
        write_counterfactuals(source, tmp_path / "out.jsonl", LIBRARY)
    faulty = FaultyRows("skip")
    report = write_counterfactuals(source, tmp_path / "out.jsonl", LIBRARY, faulty=faulty)
    assert [error.row for error in faulty.errors] == [11]
    assert (report.anchors, report.skipped) == (10, 1)


def test_outputs_are_no_inputs_and_no_other_kind_of_file(rows_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    write_samples(source, ROWS[:5])
    before = source.read_bytes()
    with pytest.raises(GplanError, match="also the source"):
        write_counterfactuals(source, tmp_path / "x/../rows.jsonl", LIBRARY)
    with pytest.raises(GplanError, match="also the source"):
        write_counterfactuals(source, tmp_path / "a.jsonl", LIBRARY, unchanged=source)
    with pytest.raises(GplanError, match="also another output"):
        out = tmp_path / "a.jsonl"
        write_counterfactuals(source, out, LIBRARY, unchanged=out)
    with pytest.raises(GplanError, match=r"\.jsonl files"):
        write_counterfactuals(source, tmp_path / "a.csv", LIBRARY)
    with pytest.raises(GplanError, match="at least 1 pair"):
        write_counterfactuals(source, tmp_path / "a.jsonl", LIBRARY, per_anchor=0)
    assert source.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "rows.jsonl"}


def test_no_pair_at_all_is_said_with_its_reasons(rows_file: Path, tmp_path: Path) -> None:
    same = Scripted(lambda sample: GOOD)
    spec = PerturbationSpec(hours_later=HoursShift(least=1, most=2))
    with pytest.raises(GplanError, match="none of 120 rows gave a pair; 120 with equal plans"):
        write_counterfactuals(rows_file, tmp_path / "out.jsonl", LIBRARY, teacher=same, spec=spec)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


REPORT = PairReport(
    anchors=9,
    without_pair=4,
    skipped=3,
    verdicts={
        "anchor": {"failed": 1, "unreadable": 1, "unchangeable": 1},
        "other_city": {"pair": 4, "equal": 2},
        "at_home": {"pair": 1, "failed": 3, "not_applicable": 5},
    },
)


def test_the_counts_for_json_add_up() -> None:
    counts = REPORT.to_dict()
    assert (counts["anchors"], counts["without_pair"], counts["skipped"]) == (9, 4, 3)
    assert counts["candidates"] == {
        "pair": 5,
        "equal": 2,
        "failed": 4,
        "not_applicable": 5,
        "unreadable": 1,
        "unchangeable": 1,
    }
    assert counts["by_perturbation"] == {
        "other_city": {"pair": 4, "equal": 2, "failed": 0, "not_applicable": 0},
        "at_home": {"pair": 1, "equal": 0, "failed": 3, "not_applicable": 5},
    }


def test_the_reasons_for_skipping_are_counted() -> None:
    assert REPORT.reasons() == (
        " (1 rows with an unreadable time or flag, 1 rows of which nothing can be changed, "
        "4 answers that failed)"
    )
    assert PairReport(1, 0, 0, {"other_city": {"pair": 1}}).reasons() == ""


def test_the_table_has_a_line_a_perturbation_and_their_sum() -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(report_table(REPORT))
    lines = [line.replace("│", " ").split() for line in out.getvalue().splitlines()]
    assert ["other_city", "6", "4", "2", "0", "0"] in lines
    assert ["at_home", "4", "1", "0", "3", "5"] in lines
    assert ["all", "10", "5", "2", "3", "5"] in lines


def test_the_report_stands_beside_the_pairs() -> None:
    assert report_path("runs/pairs.jsonl") == Path("runs/pairs.report.json")
