from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gplan_jax.data import ChatEncoder, Mode, TrainingSet
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    IntentLibrary,
    PromptTemplate,
    Sample,
    canonical_plan,
    write_samples,
)
from gplan_jax.reasoning import split_response


def read(
    path: Path,
    model_dir: Path,
    mode: Mode,
    *,
    prompt_length: int = 500,
    library: IntentLibrary | None = None,
    faulty: FaultyRows | None = None,
) -> TrainingSet:
    return TrainingSet.read(
        path,
        encoder=ChatEncoder.load(model_dir),
        task=GsisrTask(
            PromptTemplate.load("compact_zh"),
            library or IntentLibrary.load(),
            prompt_length=prompt_length,
        ),
        mode=mode,
        cache=path.parent / "tokens",
        faulty=faulty,
    )


def test_modes_differ_in_the_response(world_file: Path, tiny_model_dir: Path) -> None:
    sets = {mode: read(world_file, tiny_model_dir, mode) for mode in Mode}
    thought, plan = split_response(sets[Mode.PICD].response_text(0, 0))
    assert sets[Mode.DIRECT_SFT].response_text(0, 5) == plan
    explicit = sets[Mode.COT_SFT].response_text(0, 5)
    assert explicit == sets[Mode.COT_SFT].response_text(0, 0) == f"{thought}{plan}"
    assert sets[Mode.PICD].response_text(0, 0) == explicit
    latent = sets[Mode.PICD].response_text(0, 99)
    assert latent.endswith(plan) and "<STEP_" not in latent and "<T_1_a>" in latent


def test_pause_answers_as_picd_does_in_the_end_and_never_shows_reasoning(
    world_file: Path, world_rows: list[Sample], tiny_model_dir: Path, tmp_path: Path
) -> None:
    picd, pause = (read(world_file, tiny_model_dir, mode) for mode in (Mode.PICD, Mode.PAUSE))
    for row in range(len(pause)):
        texts = {pause.response_text(row, stage) for stage in (0, 3, 99)}
        assert texts == {picd.response_text(row, 99)}
    bare = tmp_path / "bare.csv"
    write_samples(bare, [s.with_label(split_response(s.raw_labels)[1]) for s in world_rows])
    without = read(bare, tiny_model_dir, Mode.PAUSE)
    assert without.response_text(0, 0) == pause.response_text(0, 0)
    np.testing.assert_array_equal(pause.lengths(9)[:, 0], picd.lengths(12)[:, -1])
    np.testing.assert_array_equal(pause.lengths(9), np.repeat(pause.lengths(1), 9, axis=1))


def test_length_table_counts_what_tokenize_gives(world_file: Path, tiny_model_dir: Path) -> None:
    roomy = read(world_file, tiny_model_dir, Mode.PICD).lengths(9)
    room = int(roomy[..., 0].max()) - 3  # cuts the longest prompts
    assert (roomy[..., 0] <= room).any()
    rows = read(world_file, tiny_model_dir, Mode.PICD, prompt_length=room)
    table = rows.lengths(9)
    for row in range(0, len(rows), 5):
        for stage in range(9):
            prompt_ids, response = rows.tokenize(row, stage)
            assert table[row, stage].tolist() == [len(prompt_ids), len(response.ids)]
            assert table[row, stage].tolist() == [
                min(room, roomy[row, stage, 0]),
                roomy[row, stage, 1],
            ]


def test_a_room_without_any_for_the_user_is_refused(world_file: Path, tiny_model_dir: Path) -> None:
    rows = read(world_file, tiny_model_dir, Mode.COT_SFT, prompt_length=12)
    with pytest.raises(GplanError, match=r"only 12.*data\.prompt_length"):
        rows.tokenize(0, 0)


def test_rows_without_reasoning_train_plans_only(
    world_rows: list[Sample], tiny_model_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plain.csv"
    bare = [dataclasses.replace(s, raw_labels=split_response(s.raw_labels)[1]) for s in world_rows]
    write_samples(path, bare)
    assert len(read(path, tiny_model_dir, Mode.DIRECT_SFT)) == len(bare)
    for mode in (Mode.COT_SFT, Mode.PICD):
        with pytest.raises(GplanError, match=r"40 of 40 rows.*gplan explain"):
            read(path, tiny_model_dir, mode)


def test_a_plan_beyond_the_latent_steps_trains_without_them_and_is_named_with_them(
    world_rows: list[Sample], tiny_model_dir: Path, tmp_path: Path
) -> None:
    library = IntentLibrary.load()
    bounds = library.plan_length.model_copy(update={"maximum": 12})
    longer = library.model_copy(update={"plan_length": bounds})
    tags = list(library.parameters["tag"].values or ())[:10]
    plan = canonical_plan([{"工具名称": "tool_7", "tag": tag} for tag in tags])
    write_samples(tmp_path / "rows.csv", [world_rows[0], world_rows[1].with_label(plan)])
    rows = read(tmp_path / "rows.csv", tiny_model_dir, Mode.DIRECT_SFT, library=longer)
    assert rows.response_text(1, 0) == plan and rows.lengths(1).shape == (2, 1, 2)
    rows = read(tmp_path / "rows.csv", tiny_model_dir, Mode.PAUSE, library=longer)
    said = f"row with id {world_rows[1].id}: No latent tokens for block STEP_10"
    with pytest.raises(GplanError, match=said):
        rows.lengths(1)


def test_faulty_rows_are_named_or_skipped(
    world_rows: list[Sample], tiny_model_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "faulty.csv"
    faulty = dataclasses.replace(world_rows[1], raw_labels='[{"工具名称": "tool_99"}]')
    write_samples(path, [world_rows[0], faulty, *world_rows[2:]])
    with pytest.raises(RowError, match=r"faulty\.csv, row 2, column raw_labels.*tool_99"):
        read(path, tiny_model_dir, Mode.PICD)
    faulty = FaultyRows("skip")
    rows = read(path, tiny_model_dir, Mode.PICD, faulty=faulty)
    assert len(rows) == len(world_rows) - 1
    assert [error.row for error in faulty.errors] == [2]


def test_picd_needs_latent_tokens(world_file: Path, tiny_hf_dir: Path) -> None:
    with pytest.raises(GplanError, match="latent tokens"):
        read(world_file, tiny_hf_dir, Mode.PICD)
