"""Runs of mode scdpo through the loop: reference, resume, first loss, bad input."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.training.loop import reference
from gplan_jax.training.loop.loop import train
from gplan_jax.training.loop.metrics_log import TIMINGS, read_log
from gplan_jax.training.loop.reference import read_table, write_table
from gplan_jax.training.steps.train_config import TrainConfig

MakePairConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="session")
def make_pair_config(pairs_file: Path, tiny_model_dir: Path) -> MakePairConfig:
    """Makes the config of a small run: pairs in batches of 4, 2 epochs."""

    def make(output: Path, **changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "mode": "scdpo",
            "model": str(tiny_model_dir),
            "output": str(output),
            "epochs": 2,
            "batch_size": 4,
            "data": {
                "train": str(pairs_file),
                "template": "compact_zh",
                "max_length": 1024,
                "length_multiple": 128,
                "response_multiple": 64,
            },
            "optimizer": {"schedule": "constant", "learning_rate": 1e-4, "warmup_ratio": 0.1},
            "precision": {"compute": "float32", "remat": "none"},
            "checkpoint": {"every_steps": 2, "keep": 2},
        }
        return TrainConfig.model_validate(values | changes)

    return make


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_pair_config: MakePairConfig
) -> TrainConfig:
    """A finished run and its config."""
    config = make_pair_config(tmp_path_factory.mktemp("preference") / "whole")
    train(config)
    return config


def steps_of(config: TrainConfig) -> list[dict[str, Any]]:
    records = read_log(Path(config.output) / "log.jsonl")
    return [record for record in records if record["kind"] == "step"]


def test_a_run_logs_rewards_terms_and_shares(finished: TrainConfig) -> None:
    steps = steps_of(finished)
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    first, last = steps[0], steps[-1]
    assert first["loss"] == pytest.approx(math.log(2) + 0.1, abs=1e-3)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert last["loss"] < first["loss"] and last["rewards/margins"] > 0
    config = finished.preference
    for record in steps:
        inside = record["gap/below"] + record["gap/inside"] + record["gap/above"]
        assert inside == pytest.approx(1, abs=1e-5)
        margin = record["rewards/chosen"] - record["rewards/rejected"]
        assert record["rewards/margins"] == pytest.approx(margin, abs=1e-5)
        total = (
            record["loss_dpo"]
            + config.anchor_weight * record["loss_anchor"]
            + config.gap_low_weight * record["loss_gap_low"]
            + config.gap_high_weight * record["loss_gap_high"]
            + config.center_weight * record["loss_center"]
        )
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["logps/chosen"] < 0 and record["logps/rejected"] < 0
        assert 0 <= record["anchor_violations"] <= 1
        assert record["tokens_per_second"] > 0
    assert first["learning_rate"] == 0 and last["learning_rate"] == pytest.approx(1e-4)


def test_the_finished_model_is_a_model_directory(finished: TrainConfig) -> None:
    from gplan_jax.data.tasks.gsisr_task import COUNTS_FILE, GsisrTask
    from gplan_jax.gsisr.intent_counts import IntentCounts
    from gplan_jax.models import load_qwen3

    model, pairs = Path(finished.output) / "model", Path(finished.data.train)
    assert GsisrTask.load(model).response == "latent"
    # A pair is two contexts with a plan each, and two lines of its file.
    lines = len(pairs.read_text(encoding="utf-8").splitlines())
    assert len(IntentCounts.load(model / COUNTS_FILE)) == lines
    load_qwen3(model)


def test_a_stopped_run_goes_on_bit_for_bit(
    finished: TrainConfig, make_pair_config: MakePairConfig, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished.output, half)
    shutil.rmtree(half / "model")
    # As after a kill: all but the older checkpoint is lost.
    steps = sorted(int(path.name) for path in (half / "checkpoints").iterdir())
    shutil.rmtree(half / "checkpoints" / str(steps[-1]))
    config = make_pair_config(half)
    train(config, resume=True)
    for one, other in zip(steps_of(config), steps_of(finished), strict=True):
        assert {k: v for k, v in one.items() if k not in TIMINGS} == {
            k: v for k, v in other.items() if k not in TIMINGS
        }


def test_the_reference_is_computed_once_and_changed_pairs_again(
    finished: TrainConfig,
    make_pair_config: MakePairConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "cache"
    [kept] = (Path(finished.output) / "cache").glob("reference-*.npz")
    cache.mkdir()
    shutil.copy(kept, cache)
    shared = {"reference_cache": str(cache)}
    train(make_pair_config(tmp_path / "again", preference=shared, epochs=1))
    count = len(read_table(kept))
    assert f"0 pairs computed, {count} read" in capsys.readouterr().err

    lines = Path(finished.data.train).read_text(encoding="utf-8").splitlines()
    changed = tmp_path / "changed.jsonl"
    records = [json.loads(line) for line in lines]
    for record in records[:2]:
        record["context"]["holidayflag"] = "1" if record["context"]["holidayflag"] == "0" else "0"
        record["context"]["profile_feat_5"] = "另一城市"
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    changed.write_text(text, encoding="utf-8")
    data = finished.data.model_dump() | {"train": str(changed)}
    train(make_pair_config(tmp_path / "changed", preference=shared, epochs=1, data=data))
    assert f"1 pairs computed, {count - 1} read" in capsys.readouterr().err
    assert len(read_table(cache / kept.name)) == count + 1


def test_other_weights_never_take_up_a_reference(
    finished: TrainConfig,
    make_pair_config: MakePairConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(Path(finished.output) / "cache", cache)
    trained = Path(finished.output) / "model"
    config = make_pair_config(
        tmp_path / "second",
        model=str(trained),
        epochs=1,
        preference={"reference_cache": str(cache)},
    )
    train(config)
    assert ", 0 read" in capsys.readouterr().err
    assert steps_of(config)[0]["loss"] == pytest.approx(math.log(2) + 0.1, abs=1e-3)


def test_a_resume_from_other_start_weights_is_refused(
    finished: TrainConfig, make_pair_config: MakePairConfig, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished.output, half)
    shutil.rmtree(half / "model")
    config = make_pair_config(half, model=str(Path(finished.output) / "model"))
    with pytest.raises(GplanError, match="checkpoint of another model"):
        train(config, resume=True)


def test_a_reference_that_is_not_of_these_weights_stops_the_first_step(
    finished: TrainConfig, make_pair_config: MakePairConfig, tmp_path: Path
) -> None:
    [kept] = (Path(finished.output) / "cache").glob("reference-*.npz")
    wrong = {digest: values + 1.0 * np.eye(2) for digest, values in read_table(kept).items()}
    write_table(tmp_path / "cache" / kept.name, {d: v.astype(np.float32) for d, v in wrong.items()})
    preference = {"reference_cache": str(tmp_path / "cache")}
    with pytest.raises(GplanError, match=r"which gives 0\.793147: the cached reference"):
        train(make_pair_config(tmp_path / "run", preference=preference))


@pytest.mark.parametrize("damage", ["torn", "flipped", "no archive"])
def test_a_damaged_cache_is_computed_again(
    finished: TrainConfig, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    [kept] = (Path(finished.output) / "cache").glob("reference-*.npz")
    path = tmp_path / kept.name
    content = kept.read_bytes()
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "no archive":
        path.write_text("digests")
    else:
        with np.load(kept) as stored:
            arrays = dict(stored)
        arrays["values"] = arrays["values"] + np.float32(1e-3)
        with path.open("wb") as out:
            np.savez(out, **arrays)
    assert read_table(path) == {}
    assert "is damaged" in capsys.readouterr().err


def test_missing_pairs_are_computed_in_batches_of_any_order(
    finished: TrainConfig, make_pair_config: MakePairConfig, tmp_path: Path
) -> None:
    """Pairs computed alone have the log-probabilities of those computed together."""
    [kept] = (Path(finished.output) / "cache").glob("reference-*.npz")
    whole = read_table(kept)
    some = dict(list(whole.items())[::3])
    write_table(tmp_path / "cache" / kept.name, some)
    preference = {"reference_cache": str(tmp_path / "cache")}
    train(make_pair_config(tmp_path / "run", preference=preference, epochs=1))
    again = read_table(tmp_path / "cache" / kept.name)
    assert again.keys() == whole.keys()
    for digest, values in whole.items():
        np.testing.assert_allclose(again[digest], values, rtol=1e-5, atol=1e-4)


def test_pairs_are_not_rows_and_rows_are_not_pairs(
    make_pair_config: MakePairConfig, training_rows: Path, pairs_file: Path, tmp_path: Path
) -> None:
    data = make_pair_config(tmp_path).data.model_dump()
    with pytest.raises(GplanError, match=r"\.jsonl"):
        train(make_pair_config(tmp_path / "rows", data=data | {"train": str(training_rows)}))
    with pytest.raises(GplanError, match=r"columns|context"):
        train(make_pair_config(tmp_path / "pairs", mode="picd"))


def test_another_prompt_than_the_models_own_is_said(
    finished: TrainConfig,
    make_pair_config: MakePairConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from gplan_jax.training.steps.setup import prepare

    trained = str(Path(finished.output) / "model")
    data = finished.data.model_dump() | {"max_length": 6000}
    prepare(make_pair_config(tmp_path, model=trained, data=data), tmp_path)
    assert "another prompt" not in capsys.readouterr().err
    other = make_pair_config(
        tmp_path, model=trained, data=data | {"template": "amap_zh", "prompt_length": 4000}
    )
    prepare(other, tmp_path)
    assert f"data.template={trained}/prompt" in capsys.readouterr().err


def test_the_reference_name_depends_on_precision(finished: TrainConfig) -> None:
    from gplan_jax.training.steps.setup import prepare

    run = prepare(finished, Path(finished.output))
    name = reference.reference_path(run).name
    bfloat16 = finished.model_copy(
        update={"precision": finished.precision.model_copy(update={"compute": "bfloat16"})}
    )
    assert reference.reference_path(prepare(bfloat16, Path(finished.output))).name != name
