from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.seeds.candidates import (
    Candidate,
    candidates_of,
    read_candidates,
    write_candidates,
)


def test_candidates_are_read_as_they_were_written(
    tmp_path: Path, candidates: list[Candidate], library: IntentLibrary
) -> None:
    write_candidates(tmp_path / "again.jsonl", candidates)
    assert read_candidates(tmp_path / "again.jsonl", library) == candidates
    assert all(c.stratum and c.facts and c.proposal.plan for c in candidates)


@pytest.mark.parametrize("copy", ["review.csv", "review.anna.csv"])
def test_they_are_found_beside_a_review_and_its_copies(review: Path, copy: str) -> None:
    assert candidates_of(review.with_name(copy)) == review.with_name("review.candidates.jsonl")


def test_a_review_without_its_candidates_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"my\.final\.candidates\.jsonl nor .*my\.candidates"):
        candidates_of(tmp_path / "my.final.csv")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: lines[1].pop("plan"), "line 2"),
        (lambda lines: lines[2]["context"].pop("trigger_4"), "line 3"),
        (lambda lines: lines.pop(3), "missing or out of order"),
        (lambda lines: lines.reverse(), "missing or out of order"),
    ],
)
def test_a_damaged_file_is_refused(
    review: Path, library: IntentLibrary, damage: Callable[[list[Any]], object], said: str
) -> None:
    path = candidates_of(review)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    damage(lines)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GplanError, match=said):
        read_candidates(path, library)
