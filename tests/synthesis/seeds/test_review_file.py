from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.seeds.review_file import (
    VERDICTS,
    Decision,
    guarded,
    read_review,
    unguarded,
    write_review,
)
from gplan_jax.synthesis.seeds.seed_candidates import Draft, SeedCandidate, block_names
from gplan_jax.synthesis.world.simulation import simulate_rows

Rows = list[dict[str, str]]
Change = Callable[[Rows], object]


def undecided(candidates: list[SeedCandidate]) -> list[Decision]:
    return [Decision(c.row, c.proposal) for c in candidates]


def cell(row: int, column: str, value: str) -> Change:
    """Writes one cell."""

    def change(rows: Rows) -> None:
        rows[row - 1][column] = value

    return change


def test_a_review_is_read_as_it_was_written(
    review: Path, candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    decisions = [
        dataclasses.replace(d, verdict=VERDICTS[i % 4], comment=f"=c{i}\n'x'", reviewer="安娜")
        for i, d in enumerate(undecided(candidates))
    ]
    write_review(review, candidates, decisions, library)
    assert read_review(review, candidates, library) == decisions


safe = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
values = st.sampled_from(["tool_1", "tool_8", "家", "附近", "=1+1", "'", '"', "a;b,c\td"]) | safe


@given(
    st.lists(st.dictionaries(st.sampled_from(["工具名称", "tag", "起始位置"]), values), max_size=4),
    st.dictionaries(st.sampled_from(block_names(9)), values),
    st.sampled_from(VERDICTS),
    values,
)
def test_any_decision_survives_its_line(
    plan: list[dict[str, str]], reasoning: dict[str, str], verdict: Any, comment: str
) -> None:
    library, row = IntentLibrary.load(), next(iter(simulate_rows(1, seed=1)))
    draft = Draft.of_label(row.raw_labels, library)
    candidate = SeedCandidate(
        1, 1, row.with_label(""), ("酒店", "here"), (("情境", "x"),), draft, "x"
    )
    made = Decision(1, Draft.make(plan, reasoning, library), verdict, comment.strip(), "bo")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "review.csv"
        write_review(path, [candidate], [made], library)
        assert read_review(path, [candidate], library) == [made]
        with path.open(encoding="utf-8-sig", newline="") as file:
            _, cells = csv.reader(file, strict=True)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"delimiter": ";", "end": "\n", "encoding": "utf-8"},
        {"quoting": csv.QUOTE_ALL, "delimiter": ";"},
        {"quoting": csv.QUOTE_ALL, "end": "\n"},
        {"spare": 4},
        {"change": lambda rows: rows.reverse()},
        {"change": lambda rows: rows.sort(key=lambda row: row["facts"])},
        {"change": lambda rows: [row.update(facts=row["facts"].replace("\n", "\r\n"))
                                 for row in rows]},
        {"change": lambda rows: rows.append(dict.fromkeys(rows[0], ""))},
        {"change": lambda rows: [row.update(row=row["row"] + ".0") for row in rows]},
        {"change": lambda rows: [row.update(faults="stale") for row in rows]},
    ],
)  # fmt: skip
def test_a_review_saved_by_a_spreadsheet_reads_the_same(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
    options: dict[str, Any],
) -> None:
    resave(review, **options)
    assert read_review(review, candidates, library) == undecided(candidates)


def test_verdicts_are_read_kindly(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
) -> None:
    resave(review, cell(2, "verdict", " Accept "))
    assert read_review(review, candidates, library)[1].verdict == "accept"


def test_zeros_that_a_spreadsheet_took_from_an_id_do_no_harm(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
) -> None:
    sample = dataclasses.replace(candidates[0].sample, id="00123")
    candidates[0] = dataclasses.replace(candidates[0], sample=sample)
    resave(review, cell(1, "id", "123"))
    assert read_review(review, candidates, library) == undecided(candidates)
    resave(review, cell(1, "id", "1.23E+2"))
    with pytest.raises(GplanError, match="row 1, column id"):
        read_review(review, candidates, library)


def swap(column: str) -> Change:
    """Sorts one column apart from the others."""

    def change(rows: Rows) -> None:
        rows[0][column], rows[5][column] = rows[5][column], rows[0][column]

    return change


def rewritten_times(rows: Rows) -> None:
    rows[2]["facts"] = "2026/3/2 9:05"


def same_row_twice(rows: Rows) -> None:
    rows[4]["row"] = "4"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewritten_times, ["row 3, column facts: this is not the candidate's: '2026/3/2 9:05'"]),
        (swap("facts"), ["row 1, column facts", "row 6, column facts"]),
        (swap("row"), ["row 1, column facts", "row 6, column id"]),
        (cell(4, "row", "four"), ["row 4, column row: 'four'"]),
        (cell(4, "row", "99"), ["column row: '99' is not the row of one of the 12"]),
        (same_row_twice, ["row 4, column row: the row is there twice"]),
        (cell(3, "trigger", "hotel"), ["row 3, column trigger"]),
        (cell(2, "plan", ""), ["column plan: The plan is not valid JSON"]),
        (cell(2, "plan", "[{“工具名称”:“tool_8”}]"), ["column plan: The plan is not valid JSON"]),
        (cell(2, "plan", '{"工具名称":"tool_8"}'), ["column plan: the plan must be a JSON array"]),
        (cell(2, "plan", '[{"工具名称":8}]'), ["row 2, column plan: intent 1: 工具名称 must be"]),
        (cell(2, "plan", '[{"tag":"a","tag":"b"}]'), ["row 2, column plan: .*twice"]),
        (cell(2, "plan_words", "打车到家"), ["row 2, column plan_words: the plan was changed in"]),
        (cell(9, "verdict", "acept"), [r"row 9, column verdict: 'acept' is .*meant accept\?"]),
        (cell(9, "verdict", "1"), ["row 9, column verdict: '1' is no verdict"]),
    ],
)
def test_damage_is_named_with_row_and_column(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
    change: Change,
    said: list[str],
) -> None:
    resave(review, change)
    for words in said:
        with pytest.raises(GplanError, match=words):
            read_review(review, candidates, library)


def test_every_fault_is_named_at_once(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["verdict"] = "yes"
        rows[0]["id"] = "x"

    resave(review, change)
    with pytest.raises(GplanError) as error:
        read_review(review, candidates, library)
    lines = str(error.value).splitlines()
    assert "has 13 faults" in lines[0]
    assert sum("column verdict" in line for line in lines) == 12
    assert sum("column id" in line for line in lines) == 1


def test_rows_that_are_gone_are_left_out(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
) -> None:
    resave(review, lambda rows: rows.pop(4))
    rows = [decision.row for decision in read_review(review, candidates, library)]
    assert rows == [1, 2, 3, 4, *range(6, 13)]


@pytest.mark.parametrize(("encoding", "said"), [("gb18030", "not UTF-8"), ("utf-16", "not UTF-8")])
def test_another_encoding_is_refused_with_the_mend(
    review: Path,
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    resave: Callable[..., None],
    encoding: str,
    said: str,
) -> None:
    resave(review, encoding=encoding)
    with pytest.raises(GplanError, match=f"{said}.*CSV UTF-8"):
        read_review(review, candidates, library)


def test_columns_that_are_missing_or_new_are_named(
    review: Path, candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    text = review.read_text(encoding="utf-8-sig").replace("verdict,", "Verdict?,", 1)
    review.write_text(text, encoding="utf-8-sig")
    with pytest.raises(GplanError, match=r"missing columns: verdict; unknown columns: Verdict\?"):
        read_review(review, candidates, library)


def test_an_empty_or_missing_file_is_named(
    tmp_path: Path, candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    for name, said in (("empty.csv", "no header"), ("none.csv", "does not exist")):
        with pytest.raises(GplanError, match=said):
            read_review(tmp_path / name, candidates, library)


def test_broken_quotes_are_named(
    review: Path, candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    text = review.read_text(encoding="utf-8-sig")
    review.write_text(text.replace(',"[{', ',"[{"x', 1), encoding="utf-8-sig")
    with pytest.raises(GplanError, match="row 1: broken CSV"):
        read_review(review, candidates, library)


dangerous = st.from_regex(r"""\A(.?[;\t\r\n]["\s]*)?['=+\-@\t\r＝＋－＠].*""")
texts = st.text(st.characters(exclude_categories=["Cs"])) | dangerous


@given(texts)
def test_no_cell_begins_a_formula_and_reading_takes_the_guard_away(text: str) -> None:
    cell = guarded(text)
    assert cell[:1] not in tuple("=+-@\t\r\n＝＋－＠")
    assert unguarded(cell) == text


@given(st.lists(texts.filter(lambda text: "\0" not in text), min_size=2))
def test_cells_survive_a_csv_file(row: list[str]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerow([guarded(text) for text in row])
    (cells,) = csv.reader(io.StringIO(out.getvalue(), newline=""), strict=True)
    assert [unguarded(cell) for cell in cells] == row


@given(st.lists(texts.filter(lambda text: "\0" not in text), min_size=2), st.sampled_from(",;\t"))
def test_no_separator_of_another_program_opens_a_formula(row: list[str], delimiter: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerow(["7", *map(guarded, row)])
    for cells in csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter):
        assert not [cell for cell in cells if cell.lstrip('" ').startswith(tuple("=+-@＝＋－＠"))]


def test_what_is_harmless_stays_as_it_is() -> None:
    for text in ("", "打车到家", "1-2", "a=b", "a; b", "a\nb", "[{}]"):
        assert guarded(text) == unguarded(text) == text
