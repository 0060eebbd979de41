from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest
from reviews import ROWS, store_of, write_review_of

from gplan_jax.foundation import GplanError
from gplan_jax.serving.review.review_app import NotASeed, Outdated, ReviewStore
from gplan_jax.synthesis.seeds.review_file import Decision, ReviewVerdict, read_review
from gplan_jax.synthesis.seeds.seed_candidates import Draft


@pytest.fixture
def review(tmp_path: Path) -> Path:
    return write_review_of(tmp_path)


def decided(store: ReviewStore, row: int, verdict: ReviewVerdict, **changes: str) -> Decision:
    """A verdict on the proposal; ``changes`` rewrites texts of its reasoning."""
    proposal = store.candidates[row - 1].proposal
    return Decision(row, Draft(proposal.plan, {**proposal.reasoning, **changes}), verdict)


def on_disk(store: ReviewStore) -> list[Decision]:
    return read_review(store.path, store.candidates, store.library)


def test_a_reviewer_works_on_a_copy(review: Path) -> None:
    before = review.read_bytes()
    store = store_of(review)
    assert store.path == review.with_name("review.anna.csv") and store.path.exists()
    saved = store.change(decided(store, 3, "accept"), store.all()[2].version)
    assert saved.decision.reviewer == "anna" and review.read_bytes() == before
    assert [d.verdict for d in on_disk(store)] == ["", "", "accept", *[""] * (ROWS - 3)]
    again = store_of(review)
    assert again.all() == store.all()
    assert store_of(store.path).path == store.path
    assert store_of(review, "bo").all()[2].decision.verdict == ""


def test_every_decision_is_on_the_disk_before_it_is_acknowledged(review: Path) -> None:
    store = store_of(review)
    for row in range(1, ROWS + 1):
        saved = store.change(decided(store, row, "reject"), store.all()[row - 1].version)
        assert on_disk(store)[row - 1] == saved.decision


def test_the_same_change_twice_is_one_change(review: Path) -> None:
    store = store_of(review)
    old = store.all()[0].version
    first = store.change(decided(store, 1, "accept"), old)
    assert store.change(decided(store, 1, "accept"), old) == first  # The answer had been lost.


def test_a_change_of_what_is_no_longer_there_is_refused(review: Path) -> None:
    store = store_of(review)
    old = store.all()[0].version
    store.change(decided(store, 1, "accept"), old)
    with pytest.raises(Outdated) as error:
        store.change(decided(store, 1, "reject"), old)
    assert error.value.saved == store.all()[0] and on_disk(store)[0].verdict == "accept"


def test_versions_outlive_the_server(review: Path) -> None:
    store = store_of(review)
    version = store.change(decided(store, 1, "accept"), store.all()[0].version).version
    again = store_of(review)
    assert again.change(decided(again, 1, "reject"), version).decision.verdict == "reject"


def test_a_verdict_that_does_not_fit_is_refused_and_the_draft_can_be_kept(review: Path) -> None:
    store = store_of(review)
    version = store.all()[0].version
    for verdict, changes in (("accept", {"STEP_1": "x"}), ("edit", {}), ("edit", {"STEP_1": ""})):
        with pytest.raises(NotASeed):
            store.change(decided(store, 1, verdict, **changes), version)  # type: ignore[arg-type]
    assert on_disk(store)[0].verdict == ""
    saved = store.change(decided(store, 1, "", STEP_1="<STEP_2>"), version)
    assert [fault.column for fault in saved.faults] == ["STEP_1"]
    assert on_disk(store)[0].draft.reasoning["STEP_1"] == "<STEP_2>"


def test_what_another_program_changed_is_taken_over_and_not_overwritten(review: Path) -> None:
    store, other = store_of(review), store_of(review)
    versions = [saved.version for saved in store.all()]
    other.change(decided(other, 2, "reject"), versions[1])
    store.change(decided(store, 5, "accept"), versions[4])
    assert [d.verdict for d in on_disk(store)][:5] == ["", "reject", "", "", "accept"]
    with pytest.raises(Outdated):
        store.change(decided(store, 2, "accept"), versions[1])


def test_a_file_that_became_unreadable_is_left_alone(review: Path) -> None:
    store = store_of(review)
    version = store.all()[0].version
    damaged = store.path.read_bytes().replace(b"u1", b"u7")
    store.path.write_bytes(damaged)
    with pytest.raises(GplanError, match="column id"):
        store.change(decided(store, 1, "accept"), version)
    assert store.path.read_bytes() == damaged
    store.path.unlink()
    with pytest.raises(GplanError, match="no longer there"):
        store.all()


def test_a_decision_that_cannot_be_written_is_not_taken(
    review: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(review)
    before, version = store.path.read_bytes(), store.all()[0].version

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.change(decided(store, 1, "accept"), version)
    assert store.path.read_bytes() == before and store.all()[0].version == version
    assert sorted(p.name for p in review.parent.iterdir() if p.name.startswith(".")) == []
    store.change(decided(store, 2, "accept"), store.all()[1].version)
    assert [d.verdict for d in on_disk(store)][:2] == ["", "accept"]


def test_threads_lose_no_decision(review: Path) -> None:
    store = store_of(review)
    versions = [saved.version for saved in store.all()]

    def decide(row: int) -> None:
        store.change(decided(store, row, "reject"), versions[row - 1])

    threads = [threading.Thread(target=decide, args=(row,)) for row in range(1, ROWS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [d.verdict for d in on_disk(store)] == ["reject"] * ROWS


@pytest.mark.parametrize("name", ["", "a.b", "../x", "a/b", "x" * 41, "a b"])
def test_a_reviewer_needs_a_name_that_files_can_bear(review: Path, name: str) -> None:
    with pytest.raises(GplanError, match="can't name a reviewer"):
        store_of(review, name)


def test_another_reviewers_copy_is_not_touched(review: Path) -> None:
    copy = store_of(review, "安娜").path
    assert copy.name == "review.安娜.csv"
    with pytest.raises(GplanError, match="the copy of 安娜"):
        store_of(copy, "bo")


def test_work_in_the_file_itself_is_not_passed_over(review: Path) -> None:
    store = store_of(review)
    store.change(decided(store, 4, "accept"), store.all()[3].version)
    os.replace(store.path, review)
    with pytest.raises(GplanError, match=r"work on 1 candidates already \(first in row 4\)"):
        store_of(review)
    assert not store.path.exists()


def test_a_line_deleted_from_a_copy_is_undecided_and_comes_back(review: Path) -> None:
    store = store_of(review)
    lines = store.path.read_bytes().split(b"\r\n")
    store.path.write_bytes(b"\r\n".join([*lines[:2], *lines[3:]]))
    again = store_of(review)
    assert again.all()[1].decision == dataclasses.replace(
        decided(again, 2, ""), reviewer=again.all()[1].decision.reviewer
    )
    again.change(decided(again, 1, "accept"), again.all()[0].version)
    assert len(on_disk(again)) == ROWS
