"""From log files to rows: bytes don't depend on order or files, memory not on the log's length."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import report_path
from gplan_jax.gsisr import read_samples
from gplan_jax.synthesis.triggers.example_log import EVENTS_FILE, USERS_FILE, write_example_log
from gplan_jax.synthesis.triggers.log_files import log_files
from gplan_jax.synthesis.triggers.trigger_spec import TriggerSpec, load_triggers
from gplan_jax.synthesis.triggers.user_memory import LogEvent
from gplan_jax.synthesis.triggers.write_contexts import (
    open_log,
    report_table,
    write_contexts,
)

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


COLUMNS = ("user_id", "event_time", "event", "poi_id", "city")
UNMAPPED = [
    f"log.columns.{name}=null"
    for name in (
        "category", "district", "order", "order_type", "order_place", "order_category",
        "order_city", "order_district", "order_made", "order_start", "order_end",
    )
]  # fmt: skip
Read = Callable[..., tuple[list[LogEvent], FaultyRows]]


@pytest.fixture
def small() -> TriggerSpec:
    """The shipped rules over a log of five columns."""
    return load_triggers(None, UNMAPPED)


@pytest.fixture
def read(tmp_path: Path, small: TriggerSpec) -> Read:
    def events(
        paths: Sequence[Path], spec: TriggerSpec = small, faulty: FaultyRows | None = None
    ) -> tuple[list[LogEvent], FaultyRows]:
        spill = tmp_path / "spill"
        spill.mkdir(exist_ok=True)
        faulty = faulty or FaultyRows()
        with open_log(paths, spec, temporary=spill, faulty=faulty) as log:
            return [event for batch in log.batches() for event in batch], faulty

    return events


def write(path: Path, *lines: str, header: Sequence[str] = COLUMNS) -> Path:
    path.write_text("\n".join([",".join(header), *lines]) + "\n", encoding="utf-8")
    return path


def write_as(path: Path, rows: Sequence[Sequence[str | None]]) -> Path:
    """The same rows as CSV, JSONL or Parquet, by the suffix."""
    if path.suffix == ".csv":
        return write(path, *(",".join(cell or "" for cell in row) for row in rows))
    if path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path
    with duckdb.connect() as connection:
        columns = ", ".join(f"{name} VARCHAR" for name in COLUMNS)
        connection.execute(f"CREATE TABLE log ({columns})")
        connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute(f"COPY log TO '{path}' (FORMAT parquet)")
    return path


ROWS = [
    ("u2", "2026-03-02 10:00:00", "view", "B1", "甲市"),
    ("u1", "2026-03-02 11:00:00", "view", "B2", None),
    ("u1", "2026-03-02 09:00:00", "visit", "B3", "乙市"),
]


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_sorted_events(
    tmp_path: Path, read: Read, kind: str
) -> None:
    events, _ = read([write_as(tmp_path / f"log{kind}", ROWS)])
    assert events == [
        LogEvent("u1", datetime(2026, 3, 2, 9), "visit", "B3", city="乙市"),
        LogEvent("u1", datetime(2026, 3, 2, 11), "view", "B2"),
        LogEvent("u2", datetime(2026, 3, 2, 10), "view", "B1", city="甲市"),
    ]


def test_files_of_several_kinds_and_globs_are_one_log(tmp_path: Path, read: Read) -> None:
    for i, (kind, row) in enumerate(zip((".csv", ".jsonl", ".parquet"), ROWS, strict=True)):
        write_as(tmp_path / f"part{i}{kind}", [row])
    together = write_as(tmp_path / "all.csv", ROWS)
    assert read([tmp_path / "part*"])[0] == read([together])[0]
    # A file named twice counts once, and brackets in a file's own name are no pattern.
    assert read([together, tmp_path / "al?.csv"])[0] == read([together])[0]
    bracket = write_as(tmp_path / "a[1].csv", ROWS)
    assert read([bracket])[0] == read([together])[0]


def test_columns_may_stand_in_any_order_and_need_no_order_of_files(
    tmp_path: Path, read: Read
) -> None:
    first = write(tmp_path / "1.csv", "甲市,B1,view,2026-03-02,u1", header=COLUMNS[::-1])
    second = write(tmp_path / "2.csv", "u1,2026-03-03,view,B2,甲市,x", header=[*COLUMNS, "more"])
    assert [event.place for event in read([second, first])[0]] == ["B1", "B2"]


def test_quoted_cells_and_a_byte_order_mark(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "log.csv"
    rows = '"u,1",2026-03-02,view,"B ""1""\n, x",甲市\n'
    path.write_text("\ufeff" + ",".join(COLUMNS) + "\n" + rows, encoding="utf-8")
    assert [(e.user, e.place) for e in read([path])[0]] == [("u,1", 'B "1"\n, x')]


def test_times_are_of_the_declared_zone(tmp_path: Path, read: Read) -> None:
    texts = ["2026-03-02 10:00:00", "2026-03-02T02:00:00Z", "2026-03-02 03:00:00+01",
             "2026-03-02T10:00:00.250"]  # fmt: skip
    path = write(
        tmp_path / "log.csv", *(f"u{i},{text},view,B1,甲市" for i, text in enumerate(texts))
    )
    times = [event.when.replace(microsecond=0) for event in read([path])[0]]
    assert times == [datetime(2026, 3, 2, 10)] * 4
    berlin = load_triggers(None, [*UNMAPPED, "log.time.zone=Europe/Berlin"])
    hours = [event.when.hour for event in read([path], berlin)[0]]
    assert hours == [10, 3, 3, 10]


@pytest.mark.parametrize(
    ("form", "text"),
    [("epoch_s", "1772416800"), ("epoch_ms", "1772416800000"),
     ("'%d.%m.%Y %H:%M'", "02.03.2026 10:00")],
)  # fmt: skip
def test_other_formats_of_time(tmp_path: Path, read: Read, form: str, text: str) -> None:
    spec = load_triggers(None, [*UNMAPPED, f"log.time.format={form}"])
    path = write(tmp_path / "log.csv", f"u1,{text},view,B1,甲市")
    assert read([path], spec)[0][0].when == datetime(2026, 3, 2, 10)
    bad = write(tmp_path / "bad.csv", "u1,2026-03-02 10:00:00 x,view,B1,甲市")
    with pytest.raises(RowError, match="no time written as"):
        read([bad], spec)


def test_typed_times_of_parquet(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "log.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 7 AS user_id, TIMESTAMP '2026-03-02 10:00:00' AS event_time, "
            f"'view' AS event, 12 AS poi_id, '甲市' AS city) TO '{path}' (FORMAT parquet)"
        )
    (event,) = read([path])[0]
    assert (event.user, event.when, event.place) == ("7", datetime(2026, 3, 2, 10), "12")


FAULTY = [
    (",2026-03-02,view,B1,甲市", "column user_id: no user", "user"),
    ("u1,,view,B1,甲市", "column event_time: no time", "time"),
    ("u1,yesterday,view,B1,甲市", "'yesterday' is no time written as iso", "time"),
    ("u1,infinity,view,B1,甲市", "'infinity' is no time", "time"),
    ("u1,1970-01-01,view,B1,甲市", "'1970-01-01' is no time", "time"),
    ("u1,2026-03-02,vew,B1,甲市", "'vew' is not declared in events; did you mean view", "event"),
    ("u1,2026-03-02,order_made,B1,甲市", "'order_made' without an order's id or type", "order"),
]


@pytest.mark.parametrize(("line", "problem", "kind"), FAULTY)
def test_a_faulty_row_is_named_or_left_out(
    tmp_path: Path, read: Read, line: str, problem: str, kind: str
) -> None:
    good = ["u1,2026-03-02 08:00:00,view,B1,甲市", "u3,2026-03-02,view,B1,甲市"]
    clean = write(tmp_path / "a.csv", *good)
    path = write(tmp_path / "log.csv", good[0], line, good[1])
    with pytest.raises(RowError) as error:
        read([clean, path])
    assert (error.value.file, error.value.row) == (path, 2)
    assert problem in str(error.value)
    events, faults = read([path], faulty=FaultyRows("skip"))
    assert events == read([clean])[0]
    assert faults.counts == {kind: 1} and problem in str(faults.errors[0])


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_faults_are_placed_in_other_kinds_of_files_too(
    tmp_path: Path, read: Read, kind: str
) -> None:
    path = write_as(tmp_path / f"log{kind}", [*ROWS, ("u9", "soon", "view", None, None), *ROWS])
    with pytest.raises(RowError, match=r"row 4, column event_time: 'soon'"):
        read([path])


def test_broken_lines_are_placed_or_left_out(tmp_path: Path, read: Read) -> None:
    rows = ["u1,2026-03-02,view,B1,甲市", "u1,2026-03-02,view", 'u2,"x"y,view,B1,甲市',
            "u3,2026-03-02,view,B1,甲市,more", "u4,2026-03-02,view,B1,甲市"]  # fmt: skip
    path = write(tmp_path / "log.csv", *rows)
    with pytest.raises(GplanError, match=r"Line: 3.*Original Line: u1,2026-03-02,view"):
        read([path])
    events, faults = read([path], faulty=FaultyRows("skip"))
    assert [event.user for event in events] == ["u1", "u4"]
    assert faults.counts == {"row": 3}
    assert [error.row for error in faults.errors] == [2, 3, 4]
    assert "Expected Number of Columns: 5 Found: 3" in str(faults.errors[0])


def test_broken_json_lines(tmp_path: Path, read: Read) -> None:
    path = write_as(tmp_path / "log.jsonl", ROWS)
    path.write_text(path.read_text() + '{"user_id": "u1"\n[1]\n' + path.read_text())
    with pytest.raises(RowError, match=r"log.jsonl, row [45]: not (UTF-8 JSON|a JSON object)"):
        read([path])
    events, faults = read([path], faulty=FaultyRows("skip"))
    assert events == read([write_as(tmp_path / "clean.jsonl", ROWS)])[0]
    assert faults.counts == {"row": 2}


def test_text_that_is_not_utf8(tmp_path: Path, read: Read) -> None:
    path = write_as(tmp_path / "log.csv", ROWS)
    path.write_bytes(path.read_bytes() + "u7,2026-03-02,view,B1,甲市\n".encode("gbk"))
    with pytest.raises(GplanError, match="not utf-8"):
        read([path])
    events, faults = read([path], faulty=FaultyRows("skip"))
    assert len(events) == 3 and faults.counts == {"row": 1}


def test_undeclared_words_of_orders_are_named(tmp_path: Path, read: Read) -> None:
    spec = load_triggers(
        None,
        [o for o in UNMAPPED if "order_type" not in o]
        + ["log.columns.order_status=state", "orders.statuses={paid: open}"],
    )
    header = [*COLUMNS, "order_type", "state"]
    path = write(tmp_path / "1.csv", "u1,2026-03-02,view,B1,甲市,hotl,", header=header)
    with pytest.raises(
        RowError, match=r"'hotl' is not declared in orders\.types; did you mean hotel"
    ):
        read([path], spec)
    path = write(tmp_path / "2.csv", "u1,2026-03-02,view,B1,甲市,hotel,payd", header=header)
    with pytest.raises(RowError, match=r"'payd' is not declared in orders\.statuses; did you mean"):
        read([path], spec)


def test_other_events_can_be_passed_over(tmp_path: Path, read: Read) -> None:
    spec = load_triggers(None, [*UNMAPPED, "log.other_events=ignore"])
    path = write(tmp_path / "log.csv", "u1,2026-03-02,scroll,B1,甲市", "u1,2026-03-02,view,B1,甲市")
    events, faults = read([path], spec)
    assert [event.word for event in events] == ["view"] and faults.total == 0


def test_an_event_given_twice_counts_once(tmp_path: Path, read: Read) -> None:
    once = write_as(tmp_path / "a.csv", ROWS)
    twice = write_as(tmp_path / "b.jsonl", [*ROWS, ROWS[0]])
    assert read([once, twice])[0] == read([once])[0]


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_missing_columns_are_all_named_with_how_to_map_them(
    tmp_path: Path, read: Read, spec: TriggerSpec, kind: str
) -> None:
    path = write_as(tmp_path / f"log{kind}", ROWS)
    with pytest.raises(GplanError) as error:
        read([path], spec)
    message = str(error.value)
    assert "district (log.columns.district)" in message
    assert "order_id (log.columns.order)" in message
    assert "or log.columns.category=null where there is none" in message
    uid = load_triggers(None, [*UNMAPPED, "log.columns.user=userid"])
    with pytest.raises(GplanError) as error:
        read([path], uid)
    assert "userid (log.columns.user); did you mean user_id?" in str(error.value)
    assert "--set log.columns.user=COLUMN;" in str(error.value)


def test_a_key_that_only_late_json_rows_have_is_no_missing_column(
    tmp_path: Path, read: Read, small: TriggerSpec
) -> None:
    path = tmp_path / "log.jsonl"
    plain = {"user_id": "u1", "event": "view", "poi_id": "B1", "event_time": "2026-03-02"}
    late = plain | {"user_id": "u2", "city": "甲市"}
    lines = [json.dumps(plain)] * 1500 + [json.dumps(late)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [event.city for event in read([path])[0]] == ["", "甲市"]


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="names no file"):
        log_files([tmp_path / "*.csv"])
    (tmp_path / "log.txt").write_text("")
    with pytest.raises(GplanError, match=r"unknown kind of data file; use \.csv, \.jsonl"):
        log_files([tmp_path / "log.txt"])


def test_empty_and_doubled_headers(tmp_path: Path, read: Read) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(GplanError, match="no header line"):
        read([empty])
    with pytest.raises(GplanError, match="columns twice: city"):
        read([write(tmp_path / "twice.csv", header=[*COLUMNS, "city"])])
    assert read([write(tmp_path / "none.csv")])[0] == []


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_the_folder_of_a_file_says_nothing_of_its_rows(
    tmp_path: Path, read: Read, kind: str
) -> None:
    folder = tmp_path / "user_id=00123" / "city=丙市"
    folder.mkdir(parents=True)
    plain = read([write_as(tmp_path / f"log{kind}", ROWS)])[0]
    assert read([write_as(folder / f"log{kind}", ROWS)])[0] == plain


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_columns_that_differ_in_case_alone_or_have_no_name(
    tmp_path: Path, read: Read, small: TriggerSpec, kind: str
) -> None:
    path = tmp_path / f"log{kind}"
    names = ["", "City", *COLUMNS, "a/b~", "__index_level_0__"]
    cells = ["7", "丙市", *ROWS[0], "x", "8"]
    if kind == ".csv":
        write(path, ",".join([*cells, ""]), header=[*names, ""])
    elif kind == ".jsonl":
        path.write_text(json.dumps(dict(zip(names, cells, strict=True))), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        arrays = [pyarrow.array([cell]) for cell in cells]
        arrays[0] = pyarrow.array([{"x": [1, 2], "y": {"z": "deep"}}])
        table = pyarrow.table(arrays, names=names)
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    for column, city in (("city", "甲市"), ("City", "丙市"), ("a/b~", "x")):
        spec = load_triggers(None, [*UNMAPPED, f"log.columns.city={column}"])
        (event,) = read([path], spec)[0]
        assert (event.user, event.place, event.city) == ("u2", "B1", city)


def test_integers_with_holes_are_the_same_user_in_every_kind_of_file(
    tmp_path: Path, read: Read
) -> None:
    """pandas makes floats of them; NaN and digits that a float has lost are faults."""
    time = "2026-03-02 10:00:00"
    lines = [f'{{"user_id": {user}, "event_time": "{time}", "event": "view", "poi_id": {place}, '
             '"city": "甲市"}' for user, place in (("7.0", "12"), ("8", "NaN"), ("9", "1e400"),
                                                  ("1e20", "3"), ('"7.0"', "4"))]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(
        {"user_id": [7.0, 8.0, 2.0**60], "event_time": [time] * 3, "event": ["view"] * 3,
         "poi_id": [12.0, float("nan"), None], "city": ["甲市"] * 3}
    )  # fmt: skip
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "log.parquet")
    for kind, places in ((".jsonl", [("7", "12"), ("7.0", "4")]), (".parquet", [("7", "12")])):
        path = tmp_path / f"log{kind}"
        with pytest.raises(RowError, match="is no exact number; write a text or nothing"):
            read([path])
        events, faults = read([path], faulty=FaultyRows("skip"))
        assert [(event.user, event.place) for event in events] == places
        assert faults.total == len(lines if kind == ".jsonl" else table) - len(places)
        assert {error.column for error in faults.errors} == {"user_id", "poi_id"}


def test_json_lines_that_readers_disagree_on_are_faulty(tmp_path: Path, read: Read) -> None:
    good = json.dumps(dict(zip(COLUMNS, ROWS[0], strict=True)))
    path = tmp_path / "log.jsonl"
    for line, problem in (
        (good.replace("}", ', "user_id": "u3"}'), "row 2: an object gives a key twice"),
        (good.replace("B1", r"\ud83d"), "row 2: not UTF-8 JSON"),
        ("[1]", "row 2: not a JSON object"),
    ):
        path.write_text(f"{good}\n{line}\n", encoding="utf-8")
        with pytest.raises(RowError, match=problem):
            read([path])
        events, faults = read([path], faulty=FaultyRows("skip"))
        assert len(events) == 1 and faults.counts == {"row": 1}


def test_nanoseconds(tmp_path: Path, read: Read) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    columns = dict(zip(COLUMNS, ([cell] for cell in ROWS[0]), strict=True))
    noon = pyarrow.array([1_772_445_600_000_000_001], pyarrow.timestamp("ns", "UTC"))
    path = tmp_path / "log.parquet"
    table = pyarrow.table(columns | {"event_time": noon})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    assert read([path])[0][0].when == datetime(2026, 3, 2, 18)


def test_a_broken_parquet_file(tmp_path: Path, read: Read) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(GplanError, match=r"can't be read"):
        read([path])


def test_an_unreadable_memory_limit(tmp_path: Path, small: TriggerSpec) -> None:
    path = write_as(tmp_path / "log.csv", ROWS)
    with (
        pytest.raises(GplanError, match="Write it as 500MB or 2GB"),
        open_log([path], small, temporary=tmp_path, memory_limit="lots", faulty=FaultyRows()),
    ):
        pass


def test_without_duckdb_the_extra_is_named(
    tmp_path: Path, small: TriggerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_as(tmp_path / "log.csv", ROWS)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with (
        pytest.raises(GplanError, match=r"gplan-jax\[synthesis\]"),
        open_log([path], small, temporary=tmp_path, faulty=FaultyRows()),
    ):
        pass


def test_a_broken_row_of_the_users_file_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    write_as(log, ROWS)
    spec = load_triggers(None, [*UNMAPPED, "users.user=id", "users.columns={home_city: home}"])
    users = tmp_path / "users.jsonl"
    for line, problem in (
        ('{"id": "u1", "id": "u2", "home": "甲市"}', "users.jsonl, row 2: .* a key twice"),
        ('{"id": "u1", "home": NaN}', "users.jsonl, row 2, column home: NaN is no exact number"),
        ('{"id": 1e400, "home": "甲市"}', "users.jsonl, row 2, column id: 1e400 is no exact"),
        ('{"id": "u1"', "users.jsonl, row 2: not UTF-8 JSON"),
    ):
        users.write_text(f'{{"id": "u9", "home": "乙市"}}\n{line}\n', encoding="utf-8")
        with (
            open_log([log], spec, temporary=tmp_path, users=users, faulty=FaultyRows()) as opened,
            pytest.raises(RowError, match=problem),
        ):
            list(opened.profiles())
