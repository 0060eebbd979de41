"""Checkpoints under damage: every fault is seen, the one before takes over, the good ones stay."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json
from gplan_jax.models.checkpoints.model_directory import disk_errors
from gplan_jax.training.resume import checkpoints as checkpoints_module
from gplan_jax.training.resume.checkpoints import (
    RunCheckpoints,
    abstract,
    best_steps,
    named_arrays,
)
from gplan_jax.training.resume.run_directory import digest_arrays, make_record
from gplan_jax.training.steps.step import TrainState
from gplan_jax.training.steps.train_config import TrainConfig

INPUTS = {"rows": "r", "prompt": "p", "tokenizer": "t", "model": "m"}
CONFIG = TrainConfig.model_validate(
    {"mode": "picd", "model": "m", "output": "o", "data": {"train": "t"}, "seed": 7}
)


def make_state(seed: int) -> TrainState:
    rng = np.random.default_rng(seed)
    params = {
        "matrix": jnp.asarray(rng.normal(size=(64, 65)), jnp.float32),
        "norm": jnp.asarray(rng.normal(size=65), jnp.bfloat16),
    }
    state = TrainState.create(params, optax.adam(1e-3))
    return state.replace(
        optimizer=jax.tree.map(lambda x: x + seed, state.optimizer), step=jnp.int32(seed)
    )


def open_checkpoints(folder: Path, **options: Any) -> RunCheckpoints:
    return RunCheckpoints(folder, **{"keep": 3} | options)


def save(checkpoints: RunCheckpoints, state: TrainState) -> None:
    digests = digest_arrays(named_arrays(state))
    step = int(state.step)
    record = make_record(CONFIG, INPUTS, step=step, steps_per_epoch=5, digests=digests)
    checkpoints.save(state, record)


def restore(
    checkpoints: RunCheckpoints, **changes: Any
) -> tuple[TrainState, dict[str, Any]] | None:
    like = abstract(make_state(0))
    return checkpoints.restore(like, **{"inputs": INPUTS, "steps_per_epoch": 5} | changes)


def assert_same(mine: Any, theirs: Any) -> None:
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    with open_checkpoints(folder) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, make_state(step))
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "checkpoints"))


def test_the_newest_comes_back_bit_for_bit_with_its_record(folder: Path) -> None:
    with open_checkpoints(folder) as checkpoints:
        found = restore(checkpoints)
    assert found is not None
    state, record = found
    assert_same(state, make_state(3))
    assert (record["step"], record["data"], record["random"]) == (3, {"next_step": 3}, {"seed": 7})
    assert TrainConfig.model_validate(record["config"]) == CONFIG
    assert read_json(folder / "3" / "run" / "data.json")["inputs"] == INPUTS


def test_nothing_written_is_nothing_to_restore(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "new") as checkpoints:
        assert restore(checkpoints) is None


def data_file(checkpoint: Path) -> Path:
    files = (p for p in checkpoint.glob("state/**/d/*") if p.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


FAULTS: dict[str, Callable[[Path], None]] = {
    "flipped bit in the numbers": lambda c: flip(data_file(c)),
    "flipped bit near the end": lambda c: flip(data_file(c), 0.9),
    "truncated data": lambda c: truncate(data_file(c)),
    "missing data": lambda c: data_file(c).unlink(),
    "empty data": lambda c: data_file(c).write_bytes(b""),
    "flipped index": lambda c: flip(c / "state" / "manifest.ocdbt"),
    "missing index": lambda c: (c / "state" / "manifest.ocdbt").unlink(),
    "missing _METADATA": lambda c: (c / "state" / "_METADATA").unlink(),
    "truncated _METADATA": lambda c: truncate(c / "state" / "_METADATA"),
    "missing record": lambda c: (c / "run" / "data.json").unlink(),
    "truncated record": lambda c: truncate(c / "run" / "data.json"),
    "flipped record": lambda c: flip(c / "run" / "data.json"),
    "empty directory": empty,
    "no state": lambda c: shutil.rmtree(c / "state"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_torn_checkpoint_falls_back_to_the_one_before(
    fault: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    FAULTS[fault](folder / "3")
    with open_checkpoints(folder) as checkpoints:
        found = restore(checkpoints)
        assert found is not None
        assert_same(found[0], make_state(2))
        said = " ".join(capfd.readouterr().err.split())
        assert f"{folder / '3'} is torn (" in said and f"goes on from {folder / '2'}" in said
        assert "Traceback" not in said and len(said) < 800
        # The place of step 3 is free again, and a later save of it is the one that counts.
        save(checkpoints, make_state(3))
        checkpoints.wait()
        assert checkpoints.steps == [1, 2, 3]
    assert (folder.parent / "checkpoints-torn" / "3").is_dir()
    with open_checkpoints(folder) as checkpoints:
        found = restore(checkpoints)
    assert found is not None
    assert_same(found[0], make_state(3))


def test_without_a_whole_one_all_are_named_and_none_is_moved(folder: Path) -> None:
    for step in (1, 2, 3):
        FAULTS["missing data"](folder / str(step))
    with open_checkpoints(folder) as checkpoints, pytest.raises(GplanError) as raised:
        restore(checkpoints)
    for step in (1, 2, 3):
        assert f"{folder / str(step)}: " in str(raised.value)
        assert (folder / str(step)).is_dir()


def test_what_a_killed_writer_left_is_removed(folder: Path) -> None:
    left = folder / "4.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    with open_checkpoints(folder) as checkpoints:
        found = restore(checkpoints)
    assert found is not None and found[1]["step"] == 3
    assert not left.exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": INPUTS | {"model": "other"}}, "a checkpoint of another model than"),
        ({"inputs": INPUTS | {"tokenizer": "other"}}, "a checkpoint of another tokenizer than"),
        ({"steps_per_epoch": 6}, "counts 5 steps an epoch and this config 6"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(
    changes: dict[str, Any], said: str, folder: Path
) -> None:
    with open_checkpoints(folder) as checkpoints, pytest.raises(GplanError, match=said):
        restore(checkpoints, **changes)
    assert (folder / "3").is_dir()


def test_other_arrays_are_refused_and_not_taken_for_damage(folder: Path) -> None:
    like = abstract(make_state(0))
    like = like.replace(params=like.params | {"extra": like.params["norm"]})
    with (
        open_checkpoints(folder) as checkpoints,
        pytest.raises(GplanError, match="holds other arrays than this run"),
    ):
        checkpoints.restore(like, inputs=INPUTS, steps_per_epoch=5)


def test_an_error_that_is_not_of_the_files_sets_nothing_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("wrapped") from MemoryError("out of memory")

    monkeypatch.setattr(checkpoints_module.ocp, "load_checkpointables", fail)
    with open_checkpoints(folder) as checkpoints, pytest.raises(KeyError):
        restore(checkpoints)
    assert (folder / "3").is_dir()


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    scores: dict[int, float] = {}
    with open_checkpoints(tmp_path / "c", keep=1, keep_best=2, scores=scores) as checkpoints:
        for step, score in enumerate([0.3, 0.9, 0.1, float("nan"), 0.5, 0.2, 0.9], start=1):
            save(checkpoints, make_state(step))
            checkpoints.wait()
            scores[step] = score  # An evaluation ends after its save.
        save(checkpoints, make_state(8))
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [2, 7, 8]
    assert best_steps([1, 2, 4, 5, 7, 8], scores) == [2, 7, 5, 1]


def test_the_weights_of_one_checkpoint(folder: Path) -> None:
    like = abstract(make_state(0)).params
    with open_checkpoints(folder) as checkpoints:
        assert_same(checkpoints.restore_params(like, 2), make_state(2).params)
        flip(data_file(folder / "1"))
        with pytest.raises(GplanError, match=r"1: "):
            checkpoints.restore_params(like, 1)


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        open_checkpoints(tmp_path / "file" / "checkpoints")


@pytest.mark.parametrize("text", ["No space left on device", "Read-only file system"])
def test_errors_of_the_disk_come_out_as_such(text: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=text) as raised, disk_errors(tmp_path):
        raise KeyError("wrapped") from ValueError(f"UNAVAILABLE: write: {text} [tensorstore_spec")
    assert raised.value.filename == str(tmp_path)
