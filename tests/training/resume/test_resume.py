"""Runs that were stopped, damaged or changed: they go on exactly, or say why not."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import yaml
from flax import nnx

from gplan_jax.data import Task
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.gsisr import read_samples, write_samples
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.training.loop.loop import train
from gplan_jax.training.loop.metrics_log import TIMINGS, best_evaluation, read_log
from gplan_jax.training.resume.preemption import RunStopped, StopSignals
from gplan_jax.training.steps.setup import Run
from gplan_jax.training.steps.train_config import TrainConfig

MakeConfig = Callable[..., TrainConfig]
STOPPED_AT = 7  # In the middle of the second epoch, where no checkpoint is due.


def steps_of(run: str | Path) -> list[dict[str, Any]]:
    records = [r for r in read_log(Path(run) / "log.jsonl") if r["kind"] == "step"]
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in records]


def weights(model: Path) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(load_qwen3(model), nnx.Param))]


def assert_same_end(run: Path, unbroken: TrainConfig, folder: str = "model") -> None:
    assert steps_of(run) == steps_of(unbroken.output)
    for mine, theirs in zip(
        weights(run / folder), weights(Path(unbroken.output) / "model"), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def stop_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives in the middle of a step."""

    def reached(self: StopSignals, taken: int) -> bool:
        if taken == step:
            signal.raise_signal(signal.SIGTERM)
        return self._number is not None

    patch.setattr(StopSignals, "reached", reached)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, make_config: MakeConfig) -> Path:
    """A run that SIGTERM stopped after step 7."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(STOPPED_AT, patch)
        with pytest.raises(RunStopped, match=r"SIGTERM after step 7 of 15.*--resume") as raised:
            train(make_config(run))
    assert raised.value.exit_code == 143
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_a_stopped_run_goes_on_bit_for_bit(
    run: Path, make_config: MakeConfig, unbroken: TrainConfig
) -> None:
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [6, 7]
    assert [record["step"] for record in steps_of(run)] == list(range(1, STOPPED_AT + 1))
    record = read_json(run / "checkpoints" / "7" / "run" / "data.json")
    assert record["data"] == {"next_step": 7} and record["random"] == {"seed": 0}
    train(make_config(run), resume=True)
    assert_same_end(run, unbroken)
    # The run was moved: a change without effect, but not kept silent about.
    changes = [r["changes"] for r in read_log(run / "log.jsonl") if r["kind"] == "resume"]
    assert len(changes) == 1 and changes[0][0].startswith("output: was ")
    assert yaml.safe_load((run / "config.yaml").read_text())["output"] == str(run)


def test_a_torn_checkpoint_costs_its_steps_and_nothing_else(
    run: Path, make_config: MakeConfig, unbroken: TrainConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    newest = run / "checkpoints" / "7"
    data = max(newest.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    train(make_config(run), resume=True)
    said = " ".join(capfd.readouterr().err.split())
    assert f"{newest} is torn" in said and f"goes on from {run / 'checkpoints' / '6'}" in said
    assert_same_end(run, unbroken)
    assert (run / "checkpoints-torn" / "7").is_dir()


def test_another_order_of_sums_is_allowed_and_told(
    run: Path, make_config: MakeConfig, unbroken: TrainConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = make_config(run, accumulation_steps=2, loss={"vocab_chunk": 100})
    train(changed, resume=True)
    said = capfd.readouterr().err
    assert "not bit for bit" in said and "accumulation_steps: was 1, now 2" in said
    losses = [[r["loss"] for r in steps_of(name)] for name in (run, unbroken.output)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert yaml.safe_load((run / "config.yaml").read_text())["accumulation_steps"] == 2


def test_other_content_under_the_same_paths_is_seen(
    run: Path, make_config: MakeConfig, training_rows: Path, tmp_path: Path
) -> None:
    rows = list(read_samples(training_rows))
    config = make_config(run)

    def with_rows(samples: list[Any]) -> TrainConfig:
        write_samples(tmp_path / "rows.csv", samples)
        data = config.data.model_copy(update={"train": str(tmp_path / "rows.csv")})
        return config.model_copy(update={"data": data})

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(GplanError, match="started with other content of: training rows"):
        train(with_rows(rows[::-1]), resume=True)
    template = tmp_path / "template"
    with pytest.raises(GplanError, match="counts 5 steps an epoch and this config 4"):
        train(with_rows(rows[:16]), resume=True, allow_changes=True)
    from gplan_jax.gsisr import PromptTemplate

    shipped = PromptTemplate.load("compact_zh")
    shipped.save(template)
    (template / "user.j2").write_text(shipped.user + "\n。", encoding="utf-8")
    data = config.data.model_copy(update={"template": str(template)})
    with pytest.raises(GplanError, match="other content of: prompt template or intent library"):
        train(config.model_copy(update={"data": data}), resume=True)
    after = {path: path.read_bytes() for path in before}
    assert after == before


def test_a_checkpoint_of_another_model_or_tokenizer_is_refused(
    run: Path, make_config: MakeConfig, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    values = read_json(model / "config.json")
    write_json(model / "config.json", values | {"rms_norm_eps": 1e-3})
    with pytest.raises(GplanError, match="7 is a checkpoint of another model than"):
        train(make_config(run, model=str(model)), resume=True)
    write_json(model / "config.json", values)
    tokenizer = read_json(model / "tokenizer.json")
    first, second = (t for t in list(tokenizer["model"]["vocab"].items())[300:302])
    tokenizer["model"]["vocab"] |= {first[0]: second[1], second[0]: first[1]}
    write_json(model / "tokenizer.json", tokenizer)
    with pytest.raises(GplanError, match="7 is a checkpoint of another tokenizer than"):
        train(make_config(run, model=str(model)), resume=True, allow_changes=True)
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [6, 7]


def test_the_best_is_kept_and_an_evaluation_that_was_cut_off_is_made_up(
    tmp_path: Path, make_config: MakeConfig, unbroken: TrainConfig
) -> None:
    config = make_config(
        tmp_path / "run",
        checkpoint={"keep": 1, "keep_best": 1, "best_metric": "nes"},
        evaluation={"every_epochs": 1},
    )
    scores, called = {"epoch-001": 0.2, "epoch-002": 0.9, "epoch-003": 0.4}, []

    def evaluate(model: Qwen3, task: Task, folder: Path) -> dict[str, float]:
        called.append(folder.name)
        if called.count("epoch-002") == 1 and folder.name == "epoch-002":
            signal.raise_signal(signal.SIGTERM)
        folder.mkdir(parents=True)
        return {"acc1": 0.0, "nes": scores[folder.name]}

    run = tmp_path / "run"
    with pytest.raises(RunStopped, match="after step 10 of 15"):
        train(config, evaluate=evaluate)
    assert [r["step"] for r in read_log(run / "log.jsonl") if r["kind"] == "evaluation"] == [5]
    train(config, resume=True, evaluate=evaluate)
    assert called == ["epoch-001", "epoch-002", "epoch-002", "epoch-003"]
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [10, 15]
    assert best_evaluation(run, "nes") == "nes 0.9000 at step 10"
    assert_same_end(run, unbroken)
    best, last = weights(run / "best"), weights(run / "model")
    assert any((a != b).any() for a, b in zip(best, last, strict=True))
    assert (run / "best" / "tokenizer.json").is_file()


def test_keep_best_wants_a_figure_that_exists(run: Path, make_config: MakeConfig) -> None:
    keep = {"keep_best": 1, "best_metric": "bleu"}
    with pytest.raises(GplanError, match="keep_best goes by evaluations, and there are none"):
        train(make_config(run, checkpoint=keep), resume=True)

    def evaluate(model: Qwen3, task: Task, folder: Path) -> dict[str, float]:
        return {"acc1": 0.0, "nes": 0.0}

    config = make_config(run, checkpoint=keep, evaluation={"every_epochs": 1})
    with pytest.raises(GplanError, match=r"best_metric=bleu is no figure .* acc1, nes"):
        train(config, resume=True, evaluate=evaluate)


def test_fewer_epochs_than_were_trained_are_refused(run: Path, make_config: MakeConfig) -> None:
    changed = make_config(run, epochs=1, optimizer={"schedule": "constant"})
    with pytest.raises(GplanError, match="has taken 7 steps, and this config ends after 5"):
        train(changed, resume=True, allow_changes=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB; only the superuser can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_stops_the_run_and_costs_nothing(
    run: Path, small_disk: Path, make_config: MakeConfig, unbroken: TrainConfig
) -> None:
    moved = Path(shutil.copytree(run, small_disk / "run"))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**18))
    with pytest.raises(OSError) as raised:
        train(make_config(moved), resume=True)
    assert raised.value.errno == errno.ENOSPC
    assert {"6", "7"} <= {path.name for path in (moved / "checkpoints").iterdir()}
    ballast.unlink()
    train(make_config(moved), resume=True)
    assert_same_end(moved, unbroken)


def test_a_read_only_disk_is_named_before_training(
    run: Path, small_disk: Path, make_config: MakeConfig
) -> None:
    moved = Path(shutil.copytree(run, small_disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError) as raised:
        train(make_config(moved), resume=True)
    assert raised.value.errno == errno.EROFS
    assert sorted(path.name for path in (moved / "checkpoints").iterdir()) == ["6", "7"]


class ReadersGone:
    """Batches until the reader processes die."""

    def __init__(self, batches: Any, told: bool) -> None:
        self.batches, self.told, self.left = batches, told, 2

    def __next__(self) -> Any:
        if self.left:
            self.left -= 1
            return next(self.batches)
        if self.told:
            signal.raise_signal(signal.SIGTERM)
        raise OSError("handle is closed")

    def close(self) -> None:
        self.batches.close()


@pytest.mark.parametrize("told", [True, False])
def test_readers_that_a_signal_ended_first_do_not_hide_it(
    told: bool, run: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Run.batches
    monkeypatch.setattr(Run, "batches", lambda *a: ReadersGone(batches(*a), told))
    expected = (RunStopped, "after step 9 of 15") if told else (OSError, "handle is closed")
    with pytest.raises(expected[0], match=expected[1]):
        train(make_config(run), resume=True)
    newest = max(int(p.name) for p in (run / "checkpoints").iterdir())
    assert newest == (9 if told else 8)
