"""`gplan triggers` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gplan_jax.cli import main
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import read_samples

pytest.importorskip("duckdb")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main.app, ["triggers", *map(str, arguments)])
    if isinstance(result.exception, GplanError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("example") / "logs"
    result = call("--example-log", directory, "--example-users", 30)
    assert result.exit_code == 0
    assert f"events of 30 made-up users are in {directory / 'events.csv'}" in result.stdout
    return directory


def test_from_the_example_log_to_rows(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "contexts.csv"
    result = call("--log", logs / "events.csv", "--users", logs / "users.csv", "--out", out)
    rows = list(read_samples(out))
    assert result.exit_code == 0
    assert f"{len(rows):,} rows of 30 users" in result.stdout
    for expected in ("hotel_arrival", "city_arrival", "stale", "contexts.report.json"):
        assert expected in result.stdout
    assert json.loads((tmp_path / "contexts.report.json").read_text())["rows"] == len(rows)


def test_output_and_users_are_paths_as_people_write_them(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGS", str(logs))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    call("--log", logs / "events.csv", "--users", "$LOGS/users.csv", "--out", "~/rows.csv")
    assert (tmp_path / "home" / "rows.csv").is_file() and not (tmp_path / "~").exists()
    with pytest.raises(GplanError, match="s3 paths are neither read nor written"):
        call("--log", logs / "events.csv", "--out", "s3://bucket/rows.csv")


def test_rules_of_ones_own_and_single_keys(logs: Path, tmp_path: Path) -> None:
    out = tmp_path / "contexts.csv"
    result = call(
        "--log", logs / "events.csv", "--out", out, "--rules", logs / "triggers.yaml",
        "--set", "rows_per_day=1", "--set", "rules.ride.trigger=打车", "--limit", 40,
    )  # fmt: skip
    rows = list(read_samples(out))
    assert len(rows) == 40 and "--limit 40" in result.stdout
    assert len({(row.id, row.currenttime[:10]) for row in rows}) == 40
    assert "打车" in {row.trigger_1 for row in rows}


def test_faulty_rows_are_named_or_skipped(logs: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    text = (logs / "events.csv").read_text(encoding="utf-8")
    header, first, rest = text.split("\n", 2)
    log.write_text("\n".join([header, first.replace("2026-03-02", "2026-33-02"), rest]))
    with pytest.raises(GplanError, match=r"log\.csv, row 1, column event_time"):
        call("--log", log, "--out", tmp_path / "c.csv")
    assert not (tmp_path / "c.csv").exists()
    result = call("--log", log, "--out", tmp_path / "c.csv", "--on-error", "skip")
    assert "faulty rows skipped    1 (1 time)" in result.stdout
    assert "row 1, column event_time" in result.stderr


def test_what_has_to_be_named(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="Name a log and an output"):
        call("--log", logs / "events.csv")
    with pytest.raises(GplanError, match="second command"):
        call("--example-log", tmp_path / "more", "--out", tmp_path / "c.csv")
    with pytest.raises(GplanError, match=r"log\.columns\.usr: unknown key; did you mean user"):
        call(
            "--log", logs / "events.csv", "--out", tmp_path / "c.csv", "--set", "log.columns.usr=u"
        )


def test_the_help_has_an_example() -> None:
    assert "--example-log logs" in call("--help").stdout
