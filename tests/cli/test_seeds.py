from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.cli import seeds as commands
from gplan_jax.cli.main import app
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, write_samples
from gplan_jax.synthesis.teachers.seed_selection import read_seeds
from gplan_jax.synthesis.world.simulation import simulate_rows

COUNT = 10


@pytest.fixture
def review(tmp_path: Path) -> Path:
    write_samples(tmp_path / "rows.csv", simulate_rows(40, seed=3))
    commands.candidates(data=tmp_path / "rows.csv", out=tmp_path / "review.csv", count=COUNT)
    return tmp_path / "review.csv"


def decide(review: Path, name: str, words: str) -> Path:
    """A reviewer's copy, decided by letters in a spreadsheet: a accept, r reject, - nothing."""
    with review.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, letter in zip(rows, words, strict=True):
        row["verdict"] = {"a": "accept", "r": "reject", "-": ""}[letter]
    out = review.with_name(f"review.{name}.csv")
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return out


def test_candidates_says_what_it_drew_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "rows.csv", simulate_rows(40, seed=3))
    review = tmp_path / "review.csv"
    commands.candidates(data=tmp_path / "rows.csv", out=review, count=COUNT)
    said = capsys.readouterr().out
    assert f"{COUNT} candidates are in {review}" in said and "elsewhere" in said
    assert str(review.with_name("review.candidates.jsonl")) in said
    assert f"gplan seeds review {review} --reviewer NAME" in said
    with pytest.raises(GplanError, match="may hold decisions"):
        commands.candidates(data=review.with_name("rows.csv"), out=review, count=COUNT)


def test_import_makes_a_seed_file(review: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anna, out = decide(review, "anna", "aaaaaarr--"), review.with_name("seeds.csv")
    with pytest.raises(GplanError, match="2 of 10 candidates are undecided: rows 9, 10"):
        commands.import_([anna], out=out)
    capsys.readouterr()
    commands.import_([anna], out=out, undecided="skip")
    said = capsys.readouterr().out
    assert f"6 seeds of 10 candidates are in {out} (6 accept, 0 edit)" in said
    assert "rejected             2" in said and "undecided, left out  2" in said
    assert len(read_seeds(out, IntentLibrary.load())) == 6


def test_import_names_the_rule_for_disagreements(
    review: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [decide(review, name, w) for name, w in (("a", "a" * 10), ("b", "r" + "a" * 9))]
    with pytest.raises(GplanError, match="row 1, verdict"):
        commands.import_(files, out=review.with_name("seeds.jsonl"))
    commands.import_(files, out=review.with_name("seeds.jsonl"), on_disagreement="reject")
    said = capsys.readouterr().out
    assert "reviewers differ on  1: left out" in said and "9 seeds of 10" in said


def test_agreement_shows_kappa_and_keeps_all_of_it(
    review: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = decide(review, "a", "aaaaarrrr-"), decide(review, "b", "aaaarrrra-")
    capsys.readouterr()
    commands.agreement(first, second, out=review.with_name("agreement.json"))
    said = capsys.readouterr().out
    # p_o = 7/9; p_e = (5 * 5 + 4 * 4) / 81.
    assert "0.550" in said and "77.8%" in said
    assert "9 candidates were decided by both" in said
    value = json.loads(review.with_name("agreement.json").read_text(encoding="utf-8"))
    assert [difference["row"] for difference in value["differences"]] == [5, 9]
    assert value["confusion"]["accept"]["reject"] == 1


def test_the_page_names_what_it_needs(review: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        GplanError, match=r"For the page install uvicorn: pip install 'gplan-jax\[serve\]'"
    ):
        commands.review(review, reviewer="anna")


def test_every_command_has_an_example() -> None:
    for name in ("candidates", "review", "import", "agreement"):
        shown = CliRunner().invoke(app, ["seeds", name, "--help"])
        assert shown.exit_code == 0 and "Example: gplan seeds" in " ".join(shown.output.split())


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, gplan_jax.cli.seeds as s\n"
        "print([m for m in ('jax', 'fastapi', 'numpy', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found
