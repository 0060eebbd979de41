"""`gplan tasks` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gplan_jax.cli import main
from gplan_jax.foundation import GplanError, RowError


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main.app, ["tasks", *map(str, arguments)])
    if isinstance(result.exception, GplanError):
        raise result.exception
    return result


@pytest.mark.parametrize(
    "task",
    [
        ["parity", "--bits", 12, "--k", 4],
        ["multiplication", "--digits", 3],
        ["prosqa"],
        ["prosqa", "--split", "dense"],
    ],
)
def test_writes_checked_rows_that_a_seed_fixes(task: list[object], tmp_path: Path) -> None:
    out, again, other = (tmp_path / f"{name}.jsonl" for name in ("out", "again", "other"))
    result = call(*task, "--rows", 12, "--out", out)
    assert result.exit_code == 0
    assert f"12 rows of {task[0]}" in result.stdout and f"--latents {out}" in result.stdout
    assert f"data.task=text data.train={out}" in result.stdout
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 12
    assert all(row.keys() == {"id", "prompt", "blocks", "answer"} for row in rows)
    call(*task, "--rows", 12, "--out", again)
    call(*task, "--rows", 12, "--out", other, "--seed", 1)
    assert out.read_bytes() == again.read_bytes() != other.read_bytes()
    assert "12 rows of" in call("--check", out, "--check", other).stdout
    with pytest.raises(RowError, match=r"again.jsonl, row 1: .* occurs a second time"):
        call("--check", out, "--check", again)


def test_the_published_sizes_are_the_default(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert (
        "1,000 rows of multiplication (test"
        in call("multiplication", "--split", "test", "--out", out).stdout
    )
    assert len(out.read_text().splitlines()) == 1000


def test_a_changed_row_is_named(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    call("multiplication", "--rows", 3, "--out", out)
    lines = out.read_text().splitlines()
    row = json.loads(lines[2])
    row["answer"] = "1" + row["answer"][1:] if row["answer"][0] != "1" else "2" + row["answer"][1:]
    out.write_text("\n".join([*lines[:2], json.dumps(row)]))
    with pytest.raises(RowError, match=r"rows.jsonl, row 3: answer is"):
        call("--check", out)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["prosqa"], "Name a task and an output"),
        (["parity", "--split", "hops7"], "parity has no split hops7; it has train, validation"),
        (["multiplication", "--digits", 2, "--rows", 3277], "3,276 train questions, fewer than"),
        (["parity", "--bits", 3, "--k", 4], "parity-3-4 has 0 train questions"),
    ],
)
def test_nothing_is_written_where_a_request_cant_be_met(
    arguments: list[object], problem: str, tmp_path: Path
) -> None:
    if problem[:4] != "Name":
        arguments = [*arguments, "--out", tmp_path / "rows.jsonl"]
    with pytest.raises(GplanError, match=problem):
        call(*arguments)
    assert not list(tmp_path.iterdir())
