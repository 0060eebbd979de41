"""Reading a log: three formats, one table; and what a faulty one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from gplan_jax.abtest.experiment import COLUMNS, NO_ARM, ExposureLog, read_log
from gplan_jax.foundation import GplanError, RowError

ROWS = [
    {"user": "u1", "day": "2026-11-02", "arm": "a", "page": "x", "impressions": 3, "clicks": 1},
    {"user": "用户", "day": "2026-11-03", "arm": "", "page": "", "impressions": 2, "clicks": 0},
    {"user": "u1", "day": "2026-11-03", "arm": "b", "page": "y", "impressions": 0, "clicks": 0},
]


def content(log: ExposureLog) -> list[tuple[object, ...]]:
    return [
        (
            log.users[log.user_R[i]],
            date.fromordinal(int(log.day_R[i])).isoformat(),
            "" if log.arm_R[i] == NO_ARM else log.arms[log.arm_R[i]],
            int(log.impressions_R[i]),
            int(log.clicks_R[i]),
        )
        for i in range(len(log))
    ]


def test_csv_jsonl_and_parquet_say_the_same(tmp_path: Path, write_log: Callable[..., Path]) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = (",".join(str(value) for value in row.values()) for row in ROWS)
    paths = [write_log(*lines), tmp_path / "log.jsonl", tmp_path / "log.parquet"]
    paths[1].write_text("\n".join(json.dumps(row) for row in ROWS) + "\n", encoding="utf-8")
    dated = [row | {"day": date.fromisoformat(row["day"])} for row in ROWS]  # type: ignore[arg-type]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(dated), paths[2])
    for path in paths:
        log = read_log(path)
        assert content(log) == [tuple(row[name] for name in COLUMNS) for row in ROWS], path
        assert log.row_R.tolist() == [1, 2, 3]


def test_more_rows_than_a_chunk(write_log: Callable[..., Path]) -> None:
    count = 65_536 + 3
    log = read_log(write_log(*(f"u{i % 7},2026-11-02,a,s{i},1,0" for i in range(count))))
    assert len(log) == count and log.row_R[-1] == count and len(log.users) == 7


@pytest.mark.parametrize(
    ("line", "column", "problem"),
    [
        (",2026-11-02,a,s,1,0", "user", "empty"),
        ("u,02.11.2026,a,s,1,0", "day", "'02.11.2026' is no day"),
        ("u,,a,s,1,0", "day", "'' is no day"),
        ("u,2026-02-30,a,s,1,0", "day", "no day"),
        ("u,2026-11-02,a,s,1,2", "clicks", "2 clicks on 1 impressions"),
        ("u,2026-11-02,a,s,-1,0", "impressions", "-1 is negative"),
        ("u,2026-11-02,a,s,1.5,0", "impressions", "'1.5' is no whole number"),
        ("u,2026-11-02,a,s,1,", "clicks", "'' is no whole number"),
        ("u,2026-11-02,a,s,1,nan", "clicks", "no whole number"),
        ("u,2026-11-02,a,s,1_000,0", "impressions", "'1_000' is no whole number"),
        ("u,2026-11-02,a,s,9007199254740992,0", "impressions", "more than can be counted exactly"),
        ("u,1762041600000,a,s,1,0", "day", "'1762041600000' is no day"),  # not of the year 1762
        ("u,2026-11-02,a,s,1", None, "5 cells under 6 columns"),
    ],
)
def test_a_faulty_row_is_named(
    line: str, column: str | None, problem: str, write_log: Callable[..., Path]
) -> None:
    with pytest.raises(RowError, match=problem) as error:
        read_log(write_log("u,2026-11-01,a,s,1,0", line))
    assert (error.value.row, error.value.column) == (2, column)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("1.5", "'1.5' is no whole number"),
        ("true", "column impressions: expected text or a number but found True"),
        ('"one"', "'one' is no whole number"),
        ("null", "'' is no whole number"),
        ("1e400", "1e400 is no JSON number"),
        ("NaN", "NaN is no JSON number"),
        ("100000000000000000000", "more than can be counted exactly"),
        ('1, "impressions": 2', "an object gives impressions twice"),
        (r'1, "note": "\ud83d"', "note holds half a character"),
    ],
)
def test_a_count_in_json_is_a_whole_number(value: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = '{"user": "u", "day": "2026-11-02", "arm": "a", "impressions": %s, "clicks": 0}\n'
    path.write_text(line % value, encoding="utf-8")
    with pytest.raises(RowError, match=problem):
        read_log(path)
    path.write_text(line % "3.0", encoding="utf-8")
    assert read_log(path).impressions_R.tolist() == [3]


def test_decimals_and_holes_of_other_writers(
    tmp_path: Path, write_log: Callable[..., Path]
) -> None:
    import pyarrow
    import pyarrow.parquet

    plain = {"user": ["7"], "day": ["2026-11-02"], "arm": ["a"], "clicks": [0.0]}
    for count, found in ((Decimal("3.70"), "'3.70' is no whole number"), (Decimal("3.00"), None)):
        path = tmp_path / "log.parquet"
        pyarrow.parquet.write_table(pyarrow.table(plain | {"impressions": [count]}), path)
        if found is None:
            assert content(read_log(path)) == [("7", "2026-11-02", "a", 3, 0)]
        else:
            with pytest.raises(RowError, match=f"row 1, column impressions: {found}"):
                read_log(path)
    # pandas makes floats of integers that have holes: users and counts of both kinds are the same.
    table = pyarrow.table(plain | {"user": [7.0], "impressions": [3.0]})
    pyarrow.parquet.write_table(table, path)
    assert content(read_log(path)) == content(read_log(write_log("7,2026-11-02,a,s,3.0,0.0")))


def test_only_the_columns_of_a_log_must_be_there_once(write_log: Callable[..., Path]) -> None:
    line = "u,2026-11-02,a,x,3,1,0"
    with pytest.raises(GplanError, match=r"log\.csv: columns given twice: clicks"):
        read_log(write_log(line, header="user,day,arm,slice,impressions,clicks,clicks\n"))
    log = read_log(write_log(line, header="user,day,arm,,impressions,clicks,\n"))
    assert content(log) == [("u", "2026-11-02", "a", 3, 1)]


def test_files_that_are_no_logs(tmp_path: Path, write_log: Callable[..., Path]) -> None:
    with pytest.raises(GplanError, match="does not exist"):
        read_log(tmp_path / "none.csv")
    with pytest.raises(GplanError, match="empty data set: it has no header line"):
        read_log(write_log(header=""))
    with pytest.raises(GplanError, match="has no rows"):
        read_log(write_log())
    with pytest.raises(GplanError, match="missing columns: arm, clicks"):
        read_log(write_log("u,2026-11-02,1", header="user,day,impressions\n"))
    for name in ("log.txt", "log"):
        (tmp_path / name).write_text("x", encoding="utf-8")
        with pytest.raises(GplanError, match="unknown kind of data file"):
            read_log(tmp_path / name)
    for name, content, problem in (
        ("bad.parquet", b"no", "not a readable Parquet file"),
        ("bad.csv", b"user,day\xff\n", "not UTF-8"),
        ("bad.jsonl", b"[1]\n", "not a JSON object"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GplanError, match=problem):
            read_log(tmp_path / name)
