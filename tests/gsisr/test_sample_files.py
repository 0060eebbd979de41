from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    COLUMNS,
    Sample,
    read_numbered_samples,
    read_samples,
    write_samples,
)
from gplan_jax.gsisr.samples import sample_writer

SUFFIXES = [".csv", ".jsonl", ".parquet"]
cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
rows = st.lists(
    st.fixed_dictionaries({"id": cells, "current_tag": cells, "raw_labels": cells}), min_size=1
).map(lambda contexts: [Sample.from_context(context) for context in contexts])


def plain_rows(count: int) -> list[dict[str, str]]:
    return [dict.fromkeys(COLUMNS, "x") | {"id": str(i)} for i in range(count)]


def write_csv(path: Path, columns: list[str], lines: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *lines])
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(samples=rows)
def test_what_is_written_reads_back(
    suffix: str, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("samples") / f"rows{suffix}"
    assert write_samples(path, iter(samples)) == len(samples)
    assert list(read_samples(path)) == samples


def test_the_public_file_reads(shared: Path, tmp_path: Path) -> None:
    source = shared / "gsisr/gsisr_dev.csv"
    samples = list(read_samples(source))
    assert len(samples) == 703
    with source.open(encoding="utf-8-sig", newline="") as file:
        assert [s.to_dict() for s in samples] == list(csv.DictReader(file))


def test_columns_may_come_in_any_order_after_a_byte_order_mark(tmp_path: Path) -> None:
    columns = list(reversed(COLUMNS))
    path = write_csv(tmp_path / "a.csv", columns, [columns])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert next(read_samples(path)).to_dict() == {column: column for column in COLUMNS}


def test_reading_streams(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(plain_rows(1)[0])
    path.write_text(f"{good}\nbroken\n", encoding="utf-8")
    reader = read_samples(path)
    assert next(reader).id == "0"  # The fault further down has not been read yet.
    with pytest.raises(RowError):
        next(reader)


def test_a_cell_may_be_longer_than_the_csv_module_expects(tmp_path: Path) -> None:
    sample = Sample.from_context({"id": "1", "short_term_behavior_seq": "长" * 200_000})
    write_samples(tmp_path / "a.csv", [sample])
    assert list(read_samples(tmp_path / "a.csv")) == [sample]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_missing_and_unknown_columns_are_named_at_once(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    names = {"trigger_1": "triger_1", "currenttime": "weather"}
    row = {names.get(column, column): "x" for column in COLUMNS}
    if suffix == ".csv":
        write_csv(path, list(row), [list(row.values())])
    elif suffix == ".jsonl":
        path.write_text(json.dumps(row), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([row]), path)
    with pytest.raises(GplanError) as error:
        list(read_samples(path))
    for part in (
        str(path),
        "missing columns: currenttime",
        "triger_1 (meant trigger_1?)",
        "weather",
    ):
        assert part in str(error.value)


def test_a_column_given_twice_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [*COLUMNS, "id"], [])
    with pytest.raises(GplanError, match="twice: id"):
        list(read_samples(path))


def test_faulty_rows_are_named_or_skipped_and_listed(tmp_path: Path) -> None:
    lines = [list(row.values()) for row in plain_rows(4)]
    lines[1].append("one too many")
    lines[2].pop()
    path = write_csv(tmp_path / "a.csv", list(COLUMNS), lines)
    with pytest.raises(RowError, match=r"row 2.*33 cells under 32 columns"):
        list(read_samples(path))
    faulty = FaultyRows("skip")
    kept = list(read_numbered_samples(path, faulty=faulty))
    assert [(number, sample.id) for number, sample in kept] == [(1, "0"), (4, "3")]
    assert [(error.row, error.file) for error in faulty.errors] == [(2, path), (3, path)]


def test_faulty_json_lines_are_named(tmp_path: Path) -> None:
    good = plain_rows(1)[0]
    lines = [
        json.dumps(good | {"id": 12, "profile_feat_1": None, "profile_feat_2": 1.5}),
        "{broken",
        "[1]",
        json.dumps(good | {"trigger_1": ["a"]}),
        json.dumps({"id": "only"}),
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    faulty = FaultyRows("skip")
    (kept,) = read_samples(path, faulty=faulty)
    assert (kept.id, kept.profile_feat_1, kept.profile_feat_2) == ("12", "", "1.5")
    assert [(error.row, error.column) for error in faulty.errors] == [
        (2, None),
        (3, None),
        (4, "trigger_1"),
        (5, None),
    ]
    assert "missing columns: currenttime" in faulty.errors[-1].problem


def test_a_broken_quote_is_a_row_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(COLUMNS) + '\n"a"b' + "," * 31 + "\n", encoding="utf-8")
    with pytest.raises(RowError, match="row 1: broken CSV"):
        list(read_samples(path))


def test_text_of_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((",".join(COLUMNS) + "\n").encode() + "北京".encode("gbk"))
    with pytest.raises(GplanError, match="UTF-8"):
        list(read_samples(path))


@pytest.mark.parametrize("content", ["", "\n", ",".join(COLUMNS) + "\n"])
def test_an_empty_data_set_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(GplanError, match="empty data set"):
        list(read_samples(path))


def test_a_data_set_whose_rows_are_all_skipped_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{\n{\n", encoding="utf-8")
    with pytest.raises(
        GplanError, match=r"all 2 rows are faulty\. The first fault: .*a\.jsonl, row 1"
    ):
        list(read_samples(path, faulty=FaultyRows("skip")))


def test_files_that_cannot_be_read_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="does not exist"):
        read_samples(tmp_path / "nowhere.csv")
    with pytest.raises(GplanError, match=r"\.xlsx.*\.csv, \.jsonl, \.parquet"):
        read_samples(tmp_path / "a.xlsx")
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(GplanError, match="Parquet"):
        list(read_samples(tmp_path / "a.parquet"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_write_leaves_the_earlier_file(suffix: str, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"a{suffix}"
    earlier = [Sample.from_context({"id": "1"})]
    write_samples(path, earlier)

    def broken():
        yield earlier[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_samples(path, broken())
    assert list(read_samples(path)) == earlier
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_written_one_by_one_are_those_of_write_samples(
    suffix: str, tmp_path: Path, world_rows: list[Sample]
) -> None:
    odd = world_rows[0].with_label('a "quoted", text\nover two lines')
    rows = [odd, *world_rows] * 30  # More than one batch of Parquet.
    together, singly = tmp_path / f"together{suffix}", tmp_path / f"singly{suffix}"
    write_samples(together, rows)
    with sample_writer(singly) as write:
        for row in rows:
            write(row)
        assert not singly.exists()
    assert list(read_samples(singly)) == rows
    if suffix != ".parquet":
        assert singly.read_bytes() == together.read_bytes()


def test_a_failure_leaves_an_earlier_file_as_it_was(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("earlier", encoding="utf-8")
    with pytest.raises(RuntimeError), sample_writer(path) as write:
        write(world_rows[0])
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "earlier" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(GplanError, match="unknown kind"), sample_writer(tmp_path / "rows.txt"):
        pass


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (r'{"id": "\ud83d"}', "id holds half a character"),
        ('{"id": NaN}', "NaN is no JSON number"),
        ('{"id": "1", "id": "2"}', "an object gives id twice"),
    ],
)
def test_json_that_other_programs_write_is_skipped_as_a_faulty_row(
    line: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(plain_rows(1)[0])
    path.write_text(f"{line}\n{good}\n", encoding="utf-8")
    with pytest.raises(RowError, match=f"row 1: not UTF-8 JSON: {problem}"):
        list(read_samples(path))
    faulty = FaultyRows("skip")
    assert [sample.id for sample in read_samples(path, faulty=faulty)] == ["0"]
    assert faulty.total == 1


def test_an_integer_column_with_holes_stays_one(tmp_path: Path) -> None:
    """pandas makes floats of it; a NaN that is not a hole is a faulty row."""
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    columns = {column: pyarrow.array(["x"] * 3) for column in COLUMNS}
    for cells, found in (
        ([1.0, None, 20.0], ["1", "", "20"]),
        ([1.0, float("nan"), 20.5], ["1", "20.5"]),
    ):
        table = pyarrow.table(columns | {"profile_feat_1": pyarrow.array(cells)})
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
        faulty = FaultyRows("skip")
        samples = list(read_samples(path, faulty=faulty))
        assert [sample.profile_feat_1 for sample in samples] == found
        assert [error.column for error in faulty.errors] == ["profile_feat_1"] * (3 - len(found))
