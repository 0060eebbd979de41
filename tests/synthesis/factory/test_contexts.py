from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.synthesis.factory.contexts import UntilEnough, file_contexts, numbered


def test_contexts_of_a_file_have_their_row_number_and_no_label(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    rows = world_rows[:4]
    broken = dataclasses.replace(rows[1], currenttime="noon")
    write_samples(tmp_path / "rows.csv", [rows[0], broken, *rows[2:]])
    with pytest.raises(RowError, match=r"rows.csv, row 2: currenttime .* is 'noon'"):
        list(file_contexts(tmp_path / "rows.csv", FaultyRows()))
    faulty = FaultyRows("skip")
    read = list(file_contexts(tmp_path / "rows.csv", faulty=faulty))
    assert [context.row for context in read] == [1, 3, 4] and [e.row for e in faulty.errors] == [2]
    assert [context.sample for context in read] == [
        row.with_label("") for row in (rows[0], rows[2], rows[3])
    ]


def test_a_limit_counts_rows_of_the_file_faulty_ones_included(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    bad = dataclasses.replace(world_rows[0], trigger_5="?")
    write_samples(tmp_path / "rows.csv", [bad, world_rows[1], bad, world_rows[2], bad])
    faulty = FaultyRows("skip")
    source = file_contexts(tmp_path / "rows.csv", limit=3, faulty=faulty)
    assert [context.row for context in source] == [2] and [e.row for e in faulty.errors] == [1, 3]
    with pytest.raises(GplanError, match="all 1 rows are faulty"):
        list(file_contexts(tmp_path / "rows.csv", faulty=FaultyRows("skip"), limit=1))


def test_half_a_character_is_a_faulty_row(tmp_path: Path, world_rows: list[Sample]) -> None:
    write_samples(tmp_path / "rows.jsonl", world_rows[:1])
    text = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    text = text.replace('"current_tag": "', '"current_tag": "\\ud83d')
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RowError, match="row 1: a text is not Unicode"):
        list(file_contexts(tmp_path / "rows.jsonl", FaultyRows()))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 12), st.integers(1, 5))
def test_no_item_too_many_is_asked_for_however_many_at_once(
    useful: list[bool], wanted: int, at_once: int
) -> None:
    asked: list[int] = []
    kept: list[int] = []

    async def call(item: int) -> int:
        asked.append(item)
        return item

    source = UntilEnough(range(len(useful)), lambda: wanted - len(kept))
    for item in map_ordered(call, source, at_once=at_once):
        source.settle()
        if useful[item]:
            kept.append(item)
    right = [item for item, good in enumerate(useful) if good][:wanted]
    assert kept == right
    enough = len(right) == wanted
    needed = (right[-1] + 1 if right else 0) if enough else len(useful)
    assert sorted(asked) == list(range(needed if wanted else 0))


def test_a_stream_counts_from_one(world_rows: list[Sample]) -> None:
    assert [(c.row, c.sample.raw_labels) for c in numbered(world_rows[:2])] == [(1, ""), (2, "")]
