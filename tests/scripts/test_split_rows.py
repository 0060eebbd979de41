from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import split_rows

from gplan_jax.gsisr import read_samples, write_samples
from gplan_jax.gsisr.service import Service, known_service, record_service
from gplan_jax.synthesis.world.data_world import simulate_service


def test_the_parts_are_rows_of_the_same_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Service.load("city_guide").library
    rows = list(itertools.islice(simulate_service(library, 3), 60))
    write_samples(tmp_path / "rows.csv", rows)
    record_service(library, tmp_path / "rows.csv")
    monkeypatch.setattr("sys.argv", ["split_rows", f"{tmp_path / 'rows.csv'}", f"--out={tmp_path}"])
    split_rows.main()
    train, test = (tmp_path / name for name in ("train.csv", "test.csv"))
    parts = [list(read_samples(part, form=library.rows)) for part in (train, test)]
    assert sorted(map(str, itertools.chain(*parts))) == sorted(map(str, rows))
    assert parts[1] and not {row.id for row in parts[0]} & {row.id for row in parts[1]}
    assert {known_service(data=part)[1] for part in (train, test)} == {
        f"recorded in {part}.service.json" for part in ("train", "test")
    }
