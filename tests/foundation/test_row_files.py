"""Cells as other programs write them: read as what the writer meant, or refused with their row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.row_files import read_rows

COLUMNS = ("id", "n", "note")
Table = list[dict[str, Any]]

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
tables = st.lists(
    st.fixed_dictionaries(
        {"id": texts, "n": st.none() | st.integers(-(2**63), 2**63 - 1), "note": st.none() | texts}
    ),
    min_size=1,
    max_size=4,
)


def meant(table: Table) -> list[dict[str, str]]:
    return [{c: "" if row[c] is None else str(row[c]) for c in COLUMNS} for row in table]


def as_floats(table: Table) -> Table:
    """What pandas makes of a column of integers with holes."""
    return [row | {"n": None if row["n"] is None else float(row["n"])} for row in table]


def lines(table: Table, **options: Any) -> bytes:
    return "".join(json.dumps(row, **options) + "\n" for row in table).encode()


def pandas_lines(table: Table) -> bytes:
    text = (json.dumps(row, separators=(",", ":")) for row in as_floats(table))
    return "\r\n".join(line.replace("/", "\\/") for line in text).encode()


def spark_lines(table: Table) -> bytes:
    return lines([{c: v for c, v in row.items() if v is not None} for row in table])


def csv_text(table: Table, **options: Any) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows([COLUMNS, *([row[c] for c in COLUMNS] for row in table)])
    return out.getvalue().encode("utf-8-sig" if options else "utf-8")


def spark_csv(table: Table) -> bytes:
    """A backslash before quotes, "" where a text is empty, nothing where there is none."""

    def cell(value: Any) -> str:
        text = "" if value is None else str(value)
        special = any(c in text for c in ',"\n\r') or value == ""
        return '"' + text.replace('"', '\\"') + '"' if special else text

    rows = [COLUMNS, *([cell(row[c]) for c in COLUMNS] for row in table)]
    return "".join(",".join(row) + "\n" for row in rows).encode()


def parquet(table: Table, kinds: dict[str, Any]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    arrays = {c: pyarrow.array([row[c] for row in table], kinds.get(c)) for c in COLUMNS}
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), out)
    return out.getvalue()


def pandas_parquet(table: Table) -> bytes:
    import pyarrow

    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    return parquet(as_floats(table), {"id": text, "n": pyarrow.float64(), "note": text})


def polars_parquet(table: Table) -> bytes:
    import pyarrow

    text = pyarrow.large_string()
    return parquet(table, {"id": text, "n": pyarrow.int64(), "note": text})


def spark_parquet(table: Table) -> bytes:
    import pyarrow

    rows = [row | {"n": None if row["n"] is None else Decimal(row["n"])} for row in table]
    return parquet(rows, {"n": pyarrow.decimal128(38, 0), "note": pyarrow.string()})


WRITERS: list[tuple[str, Callable[[Table], bytes]]] = [
    (".jsonl", lines),
    (".jsonl", lambda table: lines(table, ensure_ascii=False)),
    (".jsonl", pandas_lines),
    (".jsonl", spark_lines),
    (".csv", csv_text),
    (".csv", lambda table: csv_text(table, quoting=csv.QUOTE_ALL, lineterminator="\n")),
    (".csv", spark_csv),
    (".parquet", pandas_parquet),
    (".parquet", polars_parquet),
    (".parquet", spark_parquet),
]
# These lose something: digits of large integers, keys of empty cells, quotes.
LOSSY = (pandas_lines, spark_lines, spark_csv, pandas_parquet)


def read(path: Path, columns: Sequence[str] = COLUMNS) -> list[Any]:
    return [row for _, row in read_rows(path, columns)]


@pytest.mark.parametrize(("suffix", "write"), WRITERS)
@given(table=tables)
def test_cells_are_what_the_writer_meant_or_refused(
    suffix: str,
    write: Callable[[Table], bytes],
    table: Table,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows{suffix}"
    path.write_bytes(write(table))
    found = read(path)
    if write not in LOSSY:
        assert found == meant(table)
    elif any(isinstance(row, RowError) for row in found):
        wrong = [r for r in table if r["n"] is None or abs(r["n"]) >= 2**53 or r["note"] is None]
        assert wrong or write is spark_csv
    else:
        assert found == meant(table)


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (float("nan"), "nan is no number; leave the cell empty"),
        (float("-inf"), "-inf is no number"),
        (2.0**53, "9007199254740992.0 has lost its last digits"),
        (True, "expected text or a number but found True"),
        (b"x", "expected text or a number but found b'x'"),
        ([1], r"expected text or a number but found \[1\]"),
    ],
)
def test_a_cell_that_is_no_text_is_refused_with_row_and_column(
    cell: Any, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.parquet"
    table = [{"id": "1", "n": None, "note": "a"}, {"id": "2", "n": cell, "note": "b"}]
    path.write_bytes(parquet(table, {}))
    good, bad = read(path)
    assert good == {"id": "1", "n": "", "note": "a"}
    assert isinstance(bad, RowError) and (bad.row, bad.column) == (2, "n")
    with pytest.raises(RowError, match=problem):
        raise bad


def test_times_of_any_unit_are_read_without_pandas(tmp_path: Path) -> None:
    import pyarrow

    noon = datetime(2026, 11, 2, 12)
    for kind, cell, text in (
        (pyarrow.timestamp("ns"), noon, "2026-11-02 12:00:00"),
        (pyarrow.timestamp("ns"), 1_793_620_800_000_000_001, "2026-11-02 12:00:00"),
        (pyarrow.timestamp("ns", "UTC"), noon.replace(tzinfo=UTC), "2026-11-02 12:00:00+00:00"),
        (pyarrow.timestamp("ms"), noon, "2026-11-02 12:00:00"),
        (pyarrow.date32(), date(2026, 11, 2), "2026-11-02"),
        (pyarrow.decimal128(5, 2), Decimal("3.70"), "3.70"),
        (pyarrow.float64(), -0.0, "0"),
        (pyarrow.float64(), 1.5, "1.5"),
    ):
        path = tmp_path / "rows.parquet"
        path.write_bytes(parquet([{"id": "1", "n": cell, "note": "a"}], {"n": kind}))
        assert read(path) == [{"id": "1", "n": text, "note": "a"}], kind


def test_one_cell_without_a_python_value_spoils_no_other_row(tmp_path: Path) -> None:
    import pyarrow

    path = tmp_path / "rows.parquet"
    table = [{"id": i, "n": n, "note": ""} for i, n in (("1", 0), ("2", 2**50), ("3", 1))]
    path.write_bytes(parquet(table, {"n": pyarrow.timestamp("s")}))
    first, second, third = read(path)
    assert (first["n"], third["n"]) == ("1970-01-01 00:00:00", "1970-01-01 00:00:01")
    assert isinstance(second, RowError) and second.column == "n" and "can't be read" in str(second)


@pytest.mark.parametrize(
    ("name", "found", "problem"),
    [
        ("a.csv", ",id,n,note", "unknown columns: one without a name; pandas"),
        (
            "a.parquet",
            "id,n,note,__index_level_0__",
            "__index_level_0__; pandas writes its index so",
        ),
        ("a.csv", "id,n,note,n", "columns given twice: n"),
        ("a.parquet", "id,n,note,n", "columns given twice: n"),
        ("a.csv", "id,N,notes", r"missing columns: n, note; .*notes \(meant note\?\)"),
        ("a.csv", '"id', "header line is broken CSV"),
    ],
)
def test_headers_are_checked(name: str, found: str, problem: str, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / name
    path.write_text(found + "\n", encoding="utf-8")
    if path.suffix == ".parquet":
        names = found.split(",")
        table = pyarrow.table([pyarrow.array(["x"])] * len(names), names=names)
        pyarrow.parquet.write_table(table, path)
    with pytest.raises(GplanError, match=problem):
        read(path)
    if "id" in found.split(",") and "given" not in problem and "missing" not in problem:
        list(read_rows(path, COLUMNS, only=False))  # Where other columns may be, they are no fault.
