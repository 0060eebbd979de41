from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import IntentLibrary, Sample, read_samples, split_by_id, write_samples
from gplan_jax.synthesis.factory.factory_report import mix_table, removal_table
from gplan_jax.synthesis.factory.synthesize import (
    SynthesisSettings,
    UntilEnough,
    end_message,
    file_contexts,
    numbered,
    synthesize,
)
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.simulation import simulate_contexts, simulate_rows

LIBRARY = IntentLibrary.load()
RULES = ServiceRules(LIBRARY)
ROWS = list(simulate_rows(30, seed=10))


@given(
    st.lists(st.sampled_from(["good", "again", "no time"]), min_size=1, max_size=20),
    st.one_of(st.none(), st.integers(1, 25)),
)
@settings(max_examples=25)
def test_kept_removed_and_skipped_rows_are_the_rows_read(
    kinds: list[str], limit: int | None
) -> None:
    rows = [
        {
            "good": row,
            "again": ROWS[0],
            "no time": dataclasses.replace(row, currenttime="soon"),
        }[kind]
        for row, kind in zip(ROWS[1:], kinds, strict=False)
    ]
    asked = kinds[:limit]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "in.jsonl", Path(folder) / "out.csv"
        write_samples(data, rows)
        wanted = SynthesisSettings(out, data=data, limit=limit)
        faulty = FaultyRows("skip")
        if set(asked) == {"no time"}:
            with pytest.raises(GplanError, match="rows are faulty"):
                synthesize(wanted, LIBRARY, faulty=faulty)
            return
        synthesize(wanted, LIBRARY, faulty=faulty)
        counts = read_json(Path(folder) / "out.report.json")["rows"]
        origins = [line["row"] for line in read_jsonl(Path(folder) / "out.origin.jsonl")]
        removed = [line["row"] for line in read_jsonl(Path(folder) / "out.removed.jsonl")]
        kept = list(read_samples(out))
    assert counts == {
        "read": len(asked),
        "kept": len(origins),
        "removed": max(asked.count("again") - 1, 0),
        "skipped": asked.count("no time"),
    }
    assert counts["kept"] + counts["removed"] + counts["skipped"] == counts["read"]
    everywhere = origins + removed + [error.row for error in faulty.errors]
    assert sorted(everywhere) == list(range(1, len(asked) + 1))
    assert kept == [rows[n - 1].with_label(RULES.label(rows[n - 1])) for n in origins]


def test_the_world_gives_so_many_rows_split_by_user_and_the_same_ones_again(
    tmp_path: Path,
) -> None:
    contents = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        wanted = SynthesisSettings(
            tmp_path / name / "rows.csv", rows=200, seed=5, test_fraction=0.3
        )
        synthesize(wanted, LIBRARY)
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1] and "rows.cache.sqlite" not in contents[0]
    origins = list(read_jsonl(tmp_path / "first" / "rows.origin.jsonl"))
    assert len(origins) == 200
    contexts = list(simulate_contexts(5, count=origins[-1]["row"]))
    kept = [contexts[origin["row"] - 1] for origin in origins]
    labelled = [row.with_label(RULES.label(row)) for row in kept]
    parts = [
        list(read_samples(tmp_path / "first" / name)) for name in ("rows.csv", "rows_test.csv")
    ]
    assert tuple(parts) == split_by_id(labelled, 0.3, 5)
    other = SynthesisSettings(tmp_path / "first" / "rows.csv", rows=200, seed=6, test_fraction=0.3)
    synthesize(other, LIBRARY)
    assert (tmp_path / "first" / "rows.csv").read_bytes() != contents[0]["rows.csv"]


def test_the_settings_tell_inputs_by_their_hash_and_seeds_are_what_is_compared_with(
    tmp_path: Path,
) -> None:
    seeds, data = tmp_path / "seeds.csv", tmp_path / "data.csv"
    write_samples(seeds, ROWS[:10])
    write_samples(data, ROWS[10:])
    done = synthesize(SynthesisSettings(tmp_path / "out.csv", data=data, seeds=seeds), LIBRARY)
    report = read_json(tmp_path / "out.report.json")
    settings = report["settings"]
    assert settings["data"] == {
        "file": "data.csv", "sha256": hashlib.sha256(data.read_bytes()).hexdigest(),
    }  # fmt: skip
    assert settings["seeds"]["file"] == "seeds.csv" and settings["compare"] is None
    assert settings["teacher"] == {"name": "rules"} and settings["library"]["name"] == "amap"
    assert report["compared"]["rows"] == 10
    other = SynthesisSettings(tmp_path / "other.csv", data=data, seeds=seeds, compare=data)
    compared = synthesize(other, LIBRARY).report.to_dict(synthesize(other, LIBRARY).compared)
    assert compared["compared"]["distance"] == {"plan_lengths": 0, "tools": 0, "tags": 0}
    said = end_message(done)
    assert "20 rows of" in said and str(tmp_path / "out.removed.jsonl") in said
    assert f"target_blocks={report['plans']['suggested_target_blocks']}" in said


def test_a_faulty_row_ends_the_run_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(self: object, sample: Sample) -> str:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(ServiceRules, "label", asked)
    write_samples(
        tmp_path / "in.csv", [*ROWS[:20], dataclasses.replace(ROWS[20], currenttime="soon")]
    )
    with pytest.raises(RowError, match="row 21"):
        synthesize(SynthesisSettings(tmp_path / "out.csv", data=tmp_path / "in.csv"), LIBRARY)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_the_tables_show_every_code_and_both_mixes(tmp_path: Path) -> None:
    write_samples(tmp_path / "other.csv", ROWS)
    wanted = SynthesisSettings(tmp_path / "out.csv", rows=60, compare=tmp_path / "other.csv")
    done = synthesize(wanted, LIBRARY)
    console = Console(record=True, width=100, file=(tmp_path / "said.txt").open("w"))
    console.print(removal_table(done.report))
    console.print(mix_table(done.report, done.compared))
    said = console.export_text()
    for tier, code in done.report.removed:
        assert tier in said and code in said
    assert "compared with" in said and "plans of 4" in said and "tool_5" in said and "美食" in said


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
    assert [row for row, _ in read] == [1, 3, 4] and [e.row for e in faulty.errors] == [2]
    assert [context for _, context in read] == [
        row.with_label("") for row in (rows[0], rows[2], rows[3])
    ]


def test_a_limit_counts_rows_of_the_file_faulty_ones_included(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    bad = dataclasses.replace(world_rows[0], trigger_5="?")
    write_samples(tmp_path / "rows.csv", [bad, world_rows[1], bad, world_rows[2], bad])
    faulty = FaultyRows("skip")
    source = file_contexts(tmp_path / "rows.csv", limit=3, faulty=faulty)
    assert [row for row, _ in source] == [2] and [e.row for e in faulty.errors] == [1, 3]
    with pytest.raises(GplanError, match="all 1 rows are faulty"):
        list(file_contexts(tmp_path / "rows.csv", faulty=FaultyRows("skip"), limit=1))


def test_half_a_character_is_a_faulty_row(tmp_path: Path, world_rows: list[Sample]) -> None:
    write_samples(tmp_path / "rows.jsonl", world_rows[:1])
    text = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    text = text.replace('"current_tag": "', '"current_tag": "\\ud83d')
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RowError, match=r"row 1: .*current_tag holds half a character"):
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
    assert [(i, row.raw_labels) for i, row in numbered(world_rows[:2])] == [(1, ""), (2, "")]
