"""Token ids on disk: made once for a file and all they depend on, whole or not at all."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gplan_jax.data import ChatEncoder, Mode, TrainingSet
from gplan_jax.data import training_set as tokenized_rows
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.training_set import CONTENT, INDEX, ROWS
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, write_samples


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(tiny_model_dir)


@pytest.fixture
def file(world_rows: list[Sample], tmp_path: Path) -> Path:
    write_samples(tmp_path / "rows.csv", world_rows[:12])
    return tmp_path / "rows.csv"


def read(
    file: Path, encoder: ChatEncoder, mode: Mode = Mode.PICD, faulty: FaultyRows | None = None,
    template: str = "compact_zh",
) -> TrainingSet:  # fmt: skip
    task = GsisrTask(PromptTemplate.load(template), IntentLibrary.load(), response=mode.response)
    return TrainingSet.read(
        file, encoder=encoder, task=task, mode=mode, cache=file.parent / "cache", faulty=faulty
    )


def folders(file: Path) -> set[str]:
    """Names in the cache, hidden ones too."""
    return {path.name for path in (file.parent / "cache").iterdir()}


def test_every_stage_of_every_mode_is_what_whole_texts_give(
    world_file: Path, world_rows: list[Sample], encoder: ChatEncoder
) -> None:
    for mode in set(Mode) - {Mode.SCDPO}:
        rows = read(world_file, encoder, mode)
        for row in range(0, len(rows), 3):
            context = rows.examples[row].context
            assert context == world_rows[row]
            for stage in (0, 1, 4, 99):
                prompt_ids, response = rows.tokenize(row, stage)
                due = encoder.response(rows.response_text(row, stage))
                np.testing.assert_array_equal(prompt_ids, rows.task.prompt_ids(context, encoder))
                np.testing.assert_array_equal(response.ids, due.ids)
                np.testing.assert_array_equal(response.sections, due.sections)


def test_rows_are_read_once_for_all_modes_of_a_prompt_and_never_held(
    file: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(file, encoder)
    [made] = folders(file)
    read(file, encoder, template="amap_zh")
    assert len(folders(file)) == 2
    with monkeypatch.context() as patch:
        patch.setattr(GsisrTask, "read", None)
        again = read(shutil.copy(file, file.with_name("moved.csv")), encoder, Mode.PAUSE)
        assert (
            again.examples.folder.name == made and again.content_digest() == first.content_digest()
        )
    # Reader processes open the files themselves.
    assert len(pickle.dumps(first.examples)) < 60_000
    there = pickle.loads(pickle.dumps(first.examples))
    np.testing.assert_array_equal(there.pieces(3)[0], first.examples.pieces(3)[0])
    assert list(there) == list(first.examples)
    with file.open("a") as rows:
        rows.write(file.read_text().splitlines()[1].replace("10000", "20000", 1) + "\n")
    assert len(read(file, encoder)) == 13 and len(folders(file)) == 3


def test_another_tokenizer_makes_its_own(
    file: Path, encoder: ChatEncoder, tiny_hf_dir: Path
) -> None:
    other = ChatEncoder.load(tiny_hf_dir)  # without the latent tokens
    sets = [read(file, e, Mode.DIRECT_SFT) for e in (encoder, other)]
    assert len(folders(file)) == 2
    for rows in sets:
        _, response = rows.tokenize(5, 0)
        assert rows.encoder.decode(response.ids[:-1]) == rows.examples[5].answer


def test_what_was_found_wrong_is_told_at_every_start(
    file: Path, world_rows: list[Sample], encoder: ChatEncoder, capsys: Any
) -> None:
    wrong = dataclasses.replace(world_rows[1], raw_labels='[{"工具名称": "tool_99"}]')
    write_samples(file, [world_rows[0], wrong, *world_rows[2:5]])
    said = []
    for _ in range(2):
        faulty = FaultyRows("skip")
        assert len(read(file, encoder, faulty=faulty)) == 4
        faulty.report()
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "row 2, column raw_labels" in said[0]
    with pytest.raises(RowError, match="row 2, column raw_labels"):  # whatever others skipped
        read(file, encoder)


@pytest.mark.parametrize("name", [ROWS, INDEX, CONTENT])
def test_a_damaged_cache_is_named_with_the_mend(
    file: Path, encoder: ChatEncoder, name: str
) -> None:
    path = read(file, encoder).examples.folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(GplanError, match=r"tokens-\w+ are damaged.*Remove the folder"):
        read(file, encoder).tokenize(11, 0)


def test_what_is_half_written_is_never_read(
    file: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tokenized_rows.np, "savez", fail)
        with pytest.raises(OSError, match="No space"):
            read(file, encoder)
    assert not (file.parent / "cache").exists()
    read(file, encoder)
    assert len(folders(file)) == 1


@pytest.mark.slow
def test_processes_write_the_same_bytes(
    file: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(file, encoder).examples.folder
    first = first.rename(first.with_name("alone"))
    monkeypatch.setattr(tokenized_rows, "ALONE_UP_TO", 5)
    monkeypatch.setattr(tokenized_rows, "CHUNK", 2)
    second = read(file, encoder).examples.folder
    for name in (ROWS, CONTENT):
        assert (first / name).read_bytes() == (second / name).read_bytes()
