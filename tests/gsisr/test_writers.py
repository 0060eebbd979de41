from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Sample, read_samples, write_samples
from gplan_jax.gsisr.writers import sample_writer


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
