from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import report_path
from gplan_jax.gsisr import IntentLibrary, canonical_plan, read_samples
from gplan_jax.synthesis.seeds.import_reviews import import_reviews
from gplan_jax.synthesis.seeds.seed_candidates import SeedCandidate
from gplan_jax.synthesis.teachers.seed_selection import read_seeds

Rows = list[dict[str, str]]
REASON = "理由改过了。"


def verdicts(words: str) -> Callable[[Rows], None]:
    """Decides the rows by letters: a accept, e edit (STEP_1 rewritten), r reject, - undecided."""

    def change(rows: Rows) -> None:
        for row, letter in zip(rows, words, strict=True):
            names = {"a": "accept", "e": "edit", "r": "reject", "-": ""}
            row["verdict"] = names[letter]
            if letter == "e":
                row["STEP_1"] = REASON

    return change


@pytest.fixture
def reviewed(review: Path, resave: Callable[..., None]) -> Callable[..., Path]:
    """Writes the copy of a reviewer who has decided by letters, and more."""

    def write(name: str, words: str, change: Callable[[Rows], object] = lambda rows: None) -> Path:
        out = review.with_name(f"review.{name}.csv")

        def both(rows: Rows) -> None:
            verdicts(words)(rows)
            change(rows)

        resave(review, both, out=out)
        return out

    return write


def test_accepted_and_edited_candidates_become_seeds(
    reviewed: Callable[..., Path],
    candidates: list[SeedCandidate],
    library: IntentLibrary,
    tmp_path: Path,
) -> None:
    out = tmp_path / "seeds.csv"
    report = import_reviews([reviewed("anna", "aearraaaeear")], out, library)
    seeds = read_seeds(out, library)
    kept = [c for c, letter in zip(candidates, "aearraaaeear", strict=True) if letter != "r"]
    assert report.verdicts == {"accept": 6, "edit": 3, "reject": 3}
    assert report.seeds == len(seeds) == 9 and report.undecided == 0
    for seed, candidate in zip(seeds, kept, strict=True):
        assert seed.sample.with_label("") == candidate.sample  # The context is unchanged.
        assert seed.plan == candidate.proposal.plan
    assert [seed.trace["STEP_1"] == REASON for seed in seeds] == [
        letter == "e" for letter in "aeaaaaeea"
    ]
    kept_report = json.loads(report_path(out).read_text(encoding="utf-8"))
    assert kept_report["seeds"] == 9 and len(kept_report["rows"]) == 9
    assert sum(stratum["seeds"] for stratum in kept_report["strata"]) == 9


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_seed_file_may_be_of_any_kind(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"seeds{suffix}"
    import_reviews([reviewed("anna", "a" * 12)], out, library)
    assert len(list(read_samples(out))) == 12


def test_a_changed_plan_is_taken_over(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    plan = [{"工具名称": f"tool_{i}"} for i in (8, 9, 10)]

    def change(rows: Rows) -> None:
        rows[3]["plan"] = canonical_plan(plan)
        for number in range(1, 10):
            rows[3][f"STEP_{number}"] = "理由" if number <= 3 else ""

    path = reviewed("anna", "rrrerrrrrrrr", change)
    import_reviews([path], tmp_path / "seeds.csv", library)
    (seed,) = read_seeds(tmp_path / "seeds.csv", library)
    assert seed.plan == plan and seed.trace.step_count == 3


def set_cell(row: int, column: str, value: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[row - 1][column] = value

    return change


@pytest.mark.parametrize(
    ("words", "change", "said"),
    [
        ("a" * 12, set_cell(4, "STEP_2", "别的"), "row 4, column STEP_2: this was changed, but"),
        ("r" * 11 + "e", set_cell(12, "STEP_1", ""), "row 12, column STEP_1: STEP_1 is empty"),
        ("erraaaaaaaaa", set_cell(1, "STEP_9", "x"), "row 1, column STEP_9: STEP_9 has no intent"),
        ("erraaaaaaaaa", set_cell(1, "STRATEGY", "</THOUGHT>"), "row 1, column STRATEGY: .*tags"),
        ("erraaaaaaaaa", set_cell(1, "plan", "[]"), "row 1, column plan: A plan has 3 to 9"),
        ("aaa" + "a" * 9, set_cell(3, "verdict", "edit"), "row 3, column verdict: the verdict is"),
    ],
)
def test_what_is_no_seed_is_refused_with_row_and_column(
    reviewed: Callable[..., Path],
    library: IntentLibrary,
    tmp_path: Path,
    words: str,
    change: Callable[[Rows], None],
    said: str,
) -> None:
    path = reviewed("anna", words, change)
    with pytest.raises(GplanError, match=said):
        import_reviews([path], tmp_path / "seeds.csv", library)
    assert not (tmp_path / "seeds.csv").exists()


def test_faults_of_rejected_rows_do_not_matter(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    path = reviewed("anna", "a" * 11 + "r", set_cell(12, "plan", "[]"))
    assert import_reviews([path], tmp_path / "seeds.csv", library).seeds == 11


def test_undecided_candidates_are_listed_or_left_out(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    path = reviewed("anna", "aa-aa-aaaaar", lambda rows: rows.pop(0))
    with pytest.raises(GplanError, match=r"3 of 12 candidates are undecided: rows 1, 3, 6"):
        import_reviews([path], tmp_path / "seeds.csv", library)
    report = import_reviews([path], tmp_path / "seeds.csv", library, undecided="skip")
    assert (report.seeds, report.undecided) == (8, 3)


def test_two_halves_of_a_review_make_a_whole(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    first, second = reviewed("anna", "aaaaaa------"), reviewed("bo", "------aaaaaa")
    report = import_reviews([first, second], tmp_path / "seeds.csv", library)
    assert (report.seeds, report.undecided, len(report.disagreements)) == (12, 0, 0)


def test_disagreements_are_listed_or_settled_by_the_rule(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    swapped = '[{"工具名称":"tool_9"},{"工具名称":"tool_8"},{"工具名称":"tool_10"}]'

    def change(rows: Rows) -> None:
        rows[2]["plan"] = swapped
        for number in range(1, 10):
            rows[2][f"STEP_{number}"] = "x" if number <= 3 else ""

    first = reviewed("anna", "aaearraaaaaa")
    second = reviewed("bo", "areerraaaaaa", change)
    out = tmp_path / "seeds.csv"
    with pytest.raises(GplanError) as error:
        import_reviews([first, second], out, library)
    assert "differ on 3 candidates" in str(error.value)
    assert "row 2, verdict: review.anna.csv accept, review.bo.csv reject" in str(error.value)
    assert "row 3, plan" in str(error.value) and "row 4, reasoning" in str(error.value)

    report = import_reviews([first, second], out, library, on_disagreement="first")
    assert report.verdicts == {"accept": 9, "edit": 1, "reject": 2}
    assert {d.row: d.about for d in report.disagreements} == {
        2: "verdict", 3: "plan", 4: "reasoning",
    }  # fmt: skip
    assert import_reviews([second, first], out, library, on_disagreement="first").seeds == 9
    report = import_reviews([first, second], out, library, on_disagreement="reject")
    assert report.verdicts == {"accept": 7, "reject": 2, "disagreed": 3}
    assert len(read_seeds(out, library)) == 7


@pytest.mark.parametrize("options", [{}, {"undecided": "skip"}])
def test_a_review_without_a_seed_is_refused(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path, options: Any
) -> None:
    with pytest.raises(GplanError, match="No candidate was accepted"):
        import_reviews([reviewed("a", "r" * 12)], tmp_path / "seeds.csv", library, **options)


def test_sources_are_never_overwritten(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    path = reviewed("anna", "a" * 12)
    for out in (path, tmp_path / "review.candidates.jsonl"):
        before = out.read_bytes()
        with pytest.raises(GplanError, match="also a source"):
            import_reviews([path], out, library)
        assert out.read_bytes() == before
    with pytest.raises(GplanError, match="named twice"):
        import_reviews([path, path], tmp_path / "seeds.csv", library)


def test_reviews_of_different_candidates_are_refused(
    reviewed: Callable[..., Path], library: IntentLibrary, tmp_path: Path
) -> None:
    path = reviewed("anna", "a" * 12)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("review.anna.csv", "review.candidates.jsonl"):
        (other / name).write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(GplanError, match="different candidates"):
        import_reviews([path, other / "review.anna.csv"], tmp_path / "seeds.csv", library)
    candidates_path = tmp_path / "review.candidates.jsonl"
    import_reviews(
        [path, other / "review.anna.csv"],
        tmp_path / "seeds.csv",
        library,
        candidates_path=candidates_path,
    )
