from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from gplan_jax.chat import RequestFailed, ServerUnavailable
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, write_samples
from gplan_jax.reasoning import ReasoningTrace, split_response
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.seeds.draw_candidates import draw_rows, write_review_files
from gplan_jax.synthesis.seeds.seed_candidates import Draft, candidates_of, read_candidates
from gplan_jax.synthesis.teachers.seed_selection import stratum_of
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, TeacherAnswer
from gplan_jax.synthesis.world.simulation import simulate_rows

ROWS = [dataclasses.replace(row, id=f"u{i}") for i, row in enumerate(simulate_rows(6, seed=4))]


class Scripted:
    """A teacher that says what it is told to say."""

    name, at_once = "scripted", 3

    def __init__(self, text: str = "", error: Exception | None = None) -> None:
        self.text, self.error, self.asked, self.closed = text, error, list[str](), 0

    async def answer(self, sample: Sample) -> TeacherAnswer:
        self.asked.append(sample.id)
        if self.error and sample.id == "u2":
            raise self.error
        return TeacherAnswer(self.text)

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        assert sample.raw_labels == ""
        steps = tuple((f"STEP_{i}", "所以") for i in range(1, len(plan) + 1))
        return ReasoningTrace((("CONTEXT", "情"), ("STRATEGY", "策"), *steps))

    async def close(self) -> None:
        self.closed += 1


def written(tmp_path: Path, rows: list[Sample]) -> Path:
    write_samples(tmp_path / "rows.csv", rows)
    return tmp_path / "rows.csv"


def test_labels_are_kept_and_what_is_missing_comes_from_the_teacher(
    tmp_path: Path, library: IntentLibrary
) -> None:
    plan_only = ROWS[1].with_label(split_response(ROWS[1].raw_labels)[1])
    broken = ROWS[3].with_label('[{"工具名称":"tool_1"},{"工具名称":"tool_9"},{"工具名称":"x"}]')
    rows = [ROWS[0], plan_only, ROWS[2].with_label(""), broken]
    data, teacher = written(tmp_path, rows), Scripted(ROWS[5].raw_labels)
    out = tmp_path / "review.csv"
    report = write_review_files(data, out, library, teacher, count=10)
    found = {c.sample.id: c for c in read_candidates(report.candidates_path, library)}
    assert found["u0"].proposal.label(library) == ROWS[0].raw_labels
    assert found["u1"].proposal.plan == Draft.of_label(ROWS[1].raw_labels, library).plan
    assert found["u1"].proposal.reasoning["STRATEGY"] == "策"
    assert found["u2"].proposal.label(library) == ROWS[5].raw_labels
    assert found["u3"].proposal.reasoning == {} and len(found["u3"].proposal.plan) == 3
    assert [found[f"u{i}"].origin for i in range(4)] == [
        "the row", "the row, explained by scripted", "scripted", "the row",
    ]  # fmt: skip
    assert all(c.sample.raw_labels == "" for c in found.values())
    assert (report.candidates, report.faulty, report.skipped) == (4, 1, 0)
    assert teacher.asked == ["u2"] and teacher.closed == 1
    assert [found[f"u{i}"].source_row for i in range(4)] == [1, 2, 3, 4]


def test_the_rules_propose_where_rows_have_no_label(tmp_path: Path, library: IntentLibrary) -> None:
    data = written(tmp_path, [row.with_label("") for row in ROWS])
    write_review_files(data, tmp_path / "r.csv", library, RuleTeacher(library), count=6)
    for candidate in read_candidates(candidates_of(tmp_path / "r.csv"), library):
        label = ServiceRules(library).label(candidate.sample)
        assert candidate.proposal.label(library) == label


def test_the_review_file_is_for_spreadsheets(tmp_path: Path, library: IntentLibrary) -> None:
    data, out = written(tmp_path, ROWS), tmp_path / "review.csv"
    write_review_files(data, out, library, RuleTeacher(library), count=6)
    assert out.read_bytes().startswith(b"\xef\xbb\xbf")
    with out.open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == [str(i) for i in range(1, 7)]
    assert all(line["facts"].startswith("情境：") and "→" in line["plan_words"] for line in lines)
    assert all(line["verdict"] == line["reviewer"] == line["comment"] == "" for line in lines)
    # Times and long histories are in the candidates' file, where no spreadsheet rewrites them.
    assert "currenttime" not in lines[0] and "short_term_behavior_seq" not in lines[0]


def test_the_same_command_writes_the_same_bytes(tmp_path: Path, library: IntentLibrary) -> None:
    data = written(tmp_path, ROWS)
    for name in ("a", "b"):
        write_review_files(data, tmp_path / f"{name}.csv", library, RuleTeacher(library), count=4)
    for suffix in (".csv", ".candidates.jsonl"):
        first, second = (tmp_path / f"{name}{suffix}" for name in ("a", "b"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("there", ["review.csv", "review.candidates.jsonl", "review.anna.csv"])
def test_nothing_that_may_hold_decisions_is_overwritten(
    tmp_path: Path, library: IntentLibrary, there: str
) -> None:
    data = written(tmp_path, ROWS)
    (tmp_path / there).write_text("work", encoding="utf-8")
    with pytest.raises(GplanError, match=f"{there} is there already"):
        write_review_files(data, tmp_path / "review.csv", library, Scripted(), count=3)
    assert (tmp_path / there).read_text(encoding="utf-8") == "work"


@pytest.mark.parametrize("name", ["review.txt", "review.anna.csv"])
def test_the_name_of_a_review_file_is_checked(
    tmp_path: Path, library: IntentLibrary, name: str
) -> None:
    with pytest.raises(GplanError, match=r"NAME\.csv"):
        write_review_files(tmp_path / "x.csv", tmp_path / name, library, Scripted(), count=3)


@pytest.mark.parametrize("teacher", [Scripted("no plan here"), Scripted(error=RequestFailed("no"))])
def test_a_row_without_a_proposal_stops_the_run_or_is_left_out(
    tmp_path: Path, library: IntentLibrary, teacher: Scripted
) -> None:
    rows = [ROWS[0], ROWS[2].with_label("")]
    data, out = written(tmp_path, rows), tmp_path / "review.csv"
    with pytest.raises(RowError, match="row 2, column raw_labels"):
        write_review_files(data, out, library, teacher, count=5)
    assert not out.exists() and teacher.closed == 1
    faulty = FaultyRows("skip")
    report = write_review_files(data, out, library, teacher, count=5, faulty=faulty)
    assert (report.candidates, report.skipped, len(faulty.errors)) == (1, 1, 1)


def test_a_teacher_that_is_gone_stops_the_run_even_so(
    tmp_path: Path, library: IntentLibrary
) -> None:
    data = written(tmp_path, [row.with_label("") for row in ROWS])
    teacher = Scripted(ROWS[0].raw_labels, ServerUnavailable("gone"))
    with pytest.raises(ServerUnavailable):
        write_review_files(
            data, tmp_path / "r.csv", library, teacher, count=5, faulty=FaultyRows("skip")
        )
    assert teacher.closed == 1 and not (tmp_path / "r.csv").exists()


MANY = list(simulate_rows(400, seed=2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draw") / "rows.csv"
    write_samples(path, MANY)
    return path


def test_every_stratum_gives_the_same_number_as_far_as_it_goes(data: Path) -> None:
    draw = draw_rows(data, 80, seed=1)
    assert len(draw.rows) == 80
    for number, sample, stratum in draw.rows:
        assert MANY[number - 1] == sample and stratum_of(sample) == stratum
    drawn = Counter(stratum for _, _, stratum in draw.rows)
    assert {s: drawn[s] for s in draw.strata} == {s: n for s, (n, _) in draw.strata.items()}
    most = max(drawn.values())
    # A stratum with fewer than the others has no user left, but for the last turn.
    assert all(n >= most - 1 or n == there for n, there in draw.strata.values())


def test_a_user_is_drawn_once_at_most(data: Path) -> None:
    draw = draw_rows(data, 1000, seed=1)
    ids = [sample.id for _, sample, _ in draw.rows]
    assert len(ids) == len(set(ids)) == len({row.id for row in MANY}) < len(MANY)
    assert sum(there for _, there in draw.strata.values()) == len(ids)


def test_each_stretch_of_a_draw_covers_all_strata(data: Path) -> None:
    draw = draw_rows(data, 60, seed=3)
    count = len(draw.strata)
    assert len({stratum for _, _, stratum in draw.rows[:count]}) == count


def test_the_seed_decides_and_nothing_else(data: Path) -> None:
    first, again, other = (draw_rows(data, 40, seed=s) for s in (1, 1, 2))
    assert first == again
    assert [n for n, _, _ in first.rows] != [n for n, _, _ in other.rows]


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(data: Path) -> None:
    assert draw_rows(data, 90, seed=5).rows[:30] == draw_rows(data, 30, seed=5).rows


def test_faulty_rows_stop_the_draw_or_are_left_out(tmp_path: Path) -> None:
    rows = [*MANY[:5], dataclasses.replace(MANY[5], currenttime="2026/3/2 9:05"), *MANY[6:12]]
    path = written(tmp_path, rows)
    with pytest.raises(RowError, match=r"row 6.*currenttime"):
        draw_rows(path, 5, seed=1)
    faulty = FaultyRows("skip")
    draw = draw_rows(path, 100, seed=1, faulty=faulty)
    assert [error.row for error in faulty.errors] == [6]
    assert 6 not in [number for number, _, _ in draw.rows]
