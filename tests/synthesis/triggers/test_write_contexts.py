"""From log files to rows: bytes don't depend on order or files, memory not on the log's length."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import read_samples
from gplan_jax.synthesis.triggers.example_log import EVENTS_FILE, USERS_FILE, write_example_log
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec, load_triggers
from gplan_jax.synthesis.triggers.write_contexts import report_path, report_table, write_contexts

duckdb = pytest.importorskip("duckdb")
USERS = 25


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("example") / "logs"
    write_example_log(directory, USERS, seed=4)
    return directory


@pytest.fixture(scope="module")
def whole(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "contexts.csv"
    write_contexts([logs / EVENTS_FILE], out, load_triggers(), users=logs / USERS_FILE)
    return out.read_bytes()


def lines_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_lines(path: Path, lines: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def test_rows_come_by_user_and_time(logs: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "contexts.csv"
    out.write_bytes(whole)
    rows = list(read_samples(out))
    keys = [(row.id, row.currenttime) for row in rows]
    assert len(rows) > 100 and keys == sorted(keys)
    assert len({row.id for row in rows}) == USERS


@pytest.mark.parametrize("seed", range(3))
def test_shuffling_and_splitting_the_log_changes_no_byte(
    logs: Path, whole: bytes, tmp_path: Path, spec: TriggerSpec, seed: int
) -> None:
    header, *lines = lines_of(logs / EVENTS_FILE)
    generator = random.Random(seed)
    generator.shuffle(lines)
    cut = generator.randrange(len(lines))
    write_lines(tmp_path / "part1.csv", [header, *lines[cut:]])
    write_lines(tmp_path / "part2.csv", [header, *lines[:cut]])
    out = tmp_path / "contexts.csv"
    write_contexts([tmp_path / "part*.csv"], out, spec, users=logs / USERS_FILE)
    assert out.read_bytes() == whole


def test_the_kind_of_the_log_changes_no_byte(
    logs: Path, whole: bytes, tmp_path: Path, spec: TriggerSpec
) -> None:
    for kind, form in ((".parquet", "parquet"), (".jsonl", "json")):
        with duckdb.connect() as connection:
            for name in (EVENTS_FILE, USERS_FILE):
                target = tmp_path / Path(name).with_suffix(kind)
                table = f"read_csv('{logs / name}', all_varchar = true, header = true)"
                connection.execute(f"COPY (FROM {table}) TO '{target}' (FORMAT {form})")
        out = tmp_path / f"contexts{kind}.csv"
        users = (tmp_path / USERS_FILE).with_suffix(kind)
        write_contexts([(tmp_path / EVENTS_FILE).with_suffix(kind)], out, spec, users=users)
        assert out.read_bytes() == whole


def test_users_do_not_influence_one_another(
    logs: Path, whole: bytes, tmp_path: Path, spec: TriggerSpec
) -> None:
    header, *lines = lines_of(logs / EVENTS_FILE)
    kept = {f"u{number:07d}" for number in range(0, USERS, 3)}
    log = write_lines(tmp_path / "some.csv", [header, *(row for row in lines if row[0] in kept)])
    out = tmp_path / "contexts.csv"
    write_contexts([log], out, spec, users=logs / USERS_FILE)
    everyone = tmp_path / "everyone.csv"
    everyone.write_bytes(whole)
    assert list(read_samples(out)) == [row for row in read_samples(everyone) if row.id in kept]


def test_cutting_the_log_at_a_time_keeps_the_earlier_rows(
    logs: Path, whole: bytes, tmp_path: Path, spec: TriggerSpec
) -> None:
    header, *lines = lines_of(logs / EVENTS_FILE)
    until = "2026-03-10 12:00:00"
    log = write_lines(tmp_path / "early.csv", [header, *(row for row in lines if row[1] <= until)])
    out, everything = tmp_path / "contexts.csv", tmp_path / "everything.csv"
    write_contexts([log], out, spec, users=logs / USERS_FILE)
    everything.write_bytes(whole)
    early = [row for row in read_samples(everything) if row.currenttime <= until]
    assert list(read_samples(out)) == early


def test_the_report_counts_what_is_in_the_file(
    logs: Path, tmp_path: Path, spec: TriggerSpec
) -> None:
    out = tmp_path / "contexts.jsonl"
    faulty = FaultyRows()
    report = write_contexts([logs / EVENTS_FILE], out, spec, users=logs / USERS_FILE, faulty=faulty)
    rows = list(read_samples(out))
    told = json.loads(report_path(out).read_text(encoding="utf-8"))
    assert told["rows"] == report.total == len(rows)
    assert told["users"] == USERS and told["events"] == len(lines_of(logs / EVENTS_FILE)) - 1
    by_trigger = {trigger: 0 for trigger in told["by_trigger"]}
    for row in rows:
        by_trigger[row.trigger_1] += 1
    assert told["by_trigger"] == by_trigger
    assert sum(rule["rows"] for rule in told["by_rule"].values()) == len(rows)
    assert told["spec"]["rules"].keys() == spec.rules.keys()
    assert faulty.total == 0 and told["undeclared_years"] == []
    assert report_table(report.to_dict(spec)).row_count == len(spec.rules) + 1


def test_limit_takes_the_first_rows(
    logs: Path, whole: bytes, tmp_path: Path, spec: TriggerSpec
) -> None:
    out = tmp_path / "contexts.csv"
    report = write_contexts(
        [logs / EVENTS_FILE], out, spec, users=logs / USERS_FILE, limit=7
    )  # fmt: skip
    assert report.total == 7 and report.stopped
    assert whole.startswith(out.read_bytes())


def test_years_without_declared_holidays_are_told(logs: Path, tmp_path: Path) -> None:
    spec = load_triggers(None, ["holidays=[2024-01-01]"])
    report = write_contexts([logs / EVENTS_FILE], tmp_path / "c.csv", spec)
    assert report.undeclared_years == (2026,)


def test_a_fault_leaves_nothing_behind(logs: Path, tmp_path: Path, spec: TriggerSpec) -> None:
    lines = lines_of(logs / EVENTS_FILE)
    lines[-3][1] = "soon"
    log = write_lines(tmp_path / "log.csv", lines)
    out = tmp_path / "result" / "contexts.csv"
    with pytest.raises(RowError, match="'soon' is no time"):
        write_contexts([log], out, spec)
    assert list(out.parent.iterdir()) == []
    faulty = FaultyRows("skip")
    report = write_contexts([log], out, spec, faulty=faulty)
    assert faulty.counts == dict(report.faulty) == {"time": 1}
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "contexts.csv", "contexts.report.json",
    ]  # fmt: skip


def test_what_a_killed_run_spilled_is_removed(
    logs: Path, tmp_path: Path, spec: TriggerSpec
) -> None:
    left = tmp_path / ".c.csv.sorting" / "old"
    left.mkdir(parents=True)
    write_contexts([logs / EVENTS_FILE], tmp_path / "c.csv", spec)
    assert not left.parent.exists()


def test_an_input_is_never_the_output(logs: Path, tmp_path: Path, spec: TriggerSpec) -> None:
    with pytest.raises(GplanError, match="also an input"):
        write_contexts([logs / "*.csv"], logs / EVENTS_FILE, spec)
    with pytest.raises(GplanError, match="unknown kind of data file"):
        write_contexts([logs / EVENTS_FILE], tmp_path / "c.txt", spec)


def test_a_user_given_twice_is_named(logs: Path, tmp_path: Path, spec: TriggerSpec) -> None:
    lines = lines_of(logs / USERS_FILE)
    users = write_lines(tmp_path / "users.csv", [*lines, lines[2]])
    with pytest.raises(RowError, match=f"user '{lines[2][0]}' stands in the file twice"):
        write_contexts([logs / EVENTS_FILE], tmp_path / "c.csv", spec, users=users)


def test_a_users_file_without_its_columns(logs: Path, tmp_path: Path, spec: TriggerSpec) -> None:
    users = write_lines(tmp_path / "users.csv", [["user_id", "home_cty"], ["u1", "甲市"]])
    with pytest.raises(GplanError, match=r"home_city \(users.columns.home_city\); did you mean"):
        write_contexts([logs / EVENTS_FILE], tmp_path / "c.csv", spec, users=users)


BIG = 3_000_000
MEMORY_LIMIT, PEAK_MIB = "160MB", 420
RUN = """
import json, resource, sys
from gplan_jax.synthesis.triggers.write_contexts import write_contexts
from gplan_jax.synthesis.triggers.trigger_spec import load_triggers
unmapped = ["order", "order_type", "order_place", "order_category", "order_city",
            "order_district", "order_made", "order_start", "order_end"]
spec = load_triggers(None, [f"log.columns.{name}=null" for name in unmapped])
report = write_contexts([sys.argv[1]], sys.argv[2], spec, memory_limit=sys.argv[3])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"events": report.events, "rows": report.total, "peak_mib": peak}))
"""


def write_big_log(path: Path, events: int) -> None:
    """Events of 20,000 users at random times and places; a tenth of them are one user's."""
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT CASE WHEN i % 10 = 0 THEN 'u0' ELSE 'u' || hash(i) % 20000 END user_id,"
            " strftime(TIMESTAMP '2026-01-01' + to_seconds((hash(i * 7) % 5000000)::BIGINT),"
            " '%Y-%m-%d %H:%M:%S') AS event_time,"
            " ['search', 'view', 'visit', 'position'][(1 + hash(i * 3) % 4)::BIGINT] AS event,"
            " 'B' || hash(i * 5) % 1000000 AS poi_id, '商场' AS poi_category,"
            " '城' || hash(i * 11) % 5 AS city, '区' || hash(i * 13) % 9 AS district"
            f" FROM range({events}) t(i)) TO '{path}' (FORMAT csv, HEADER)"
        )


@pytest.mark.slow
def test_a_log_larger_than_its_memory(tmp_path: Path) -> None:
    log, out = tmp_path / "big.csv", tmp_path / "contexts.csv"
    write_big_log(log, BIG)
    assert log.stat().st_size > 160e6
    command = [sys.executable, "-c", RUN, str(log), str(out), MEMORY_LIMIT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["events"] == BIG
    assert told["peak_mib"] < PEAK_MIB
    assert not list(tmp_path.glob(".*"))
