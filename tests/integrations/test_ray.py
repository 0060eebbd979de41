"""Planning with Ray on this machine: the bytes of one process, whatever dies meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import gplan_jax
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.inference.prediction.predict import predict
from tests.integrations.ray_workers import killed

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytest.importorskip("ray.data", reason="the extra ray is not installed")

from gplan_jax.integrations.ray import PlanBatch, predict_with_ray  # noqa: E402

# A cluster and its workers take longer than all other tests of predictions.
pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    "template": "compact_zh", "prompt_length": 192, "response": "plan", "batch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    path = tmp_path_factory.mktemp("contexts") / "contexts.csv"
    write_samples(path, [row.with_label("") for row in world_rows[:24]])
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, data: Path) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    predict(tiny_model_dir, data, out, part_rows=4, **OPTIONS)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_workers_write_what_one_process_writes_though_one_is_killed(
    whole: Path, tiny_model_dir: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plans"
    with killed("_plan_shard", when=lambda: any(tmp_path.glob("plans.shards/*/part-*"))):
        predict_with_ray(tiny_model_dir, data, out, workers=2, part_rows=4, **OPTIONS)
    assert contents(out) == contents(whole)
    assert not out.with_name("plans.shards").exists()


def test_a_fault_in_a_worker_is_named_or_its_row_left_out(
    tiny_model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Template and library are found as seen from the command, wherever workers run."""
    lines = data.read_text(encoding="utf-8").splitlines()
    (tmp_path / "cut.csv").write_text("\n".join([*lines[:3], "1,2", lines[3]]), encoding="utf-8")
    gsisr = Path(gplan_jax.__file__).parent / "gsisr"
    shutil.copytree(gsisr / "prompts" / "compact_zh", tmp_path / "my_prompt")
    shutil.copy(gsisr / "libraries" / "amap.yaml", tmp_path / "my.yaml")
    monkeypatch.chdir(tmp_path)
    own = OPTIONS | {"template": "my_prompt", "library": "my.yaml", "part_rows": 4, "workers": 1}
    with pytest.raises(GplanError, match=r"cut.csv, row 3"):
        predict_with_ray(tiny_model_dir, "cut.csv", "out", **own)
    faulty = FaultyRows("skip")
    manifest = predict_with_ray(tiny_model_dir, "cut.csv", "out", faulty=faulty, **own)
    assert [error.row for error in faulty.errors] == [3]
    assert [part.answers for part in manifest.parts or ()] == [3]


def test_batches_of_a_dataset_get_their_plans(
    whole: Path, tiny_model_dir: Path, world_rows: list[Sample]
) -> None:
    import json

    lines = (whole / "part-0000000.jsonl").read_text(encoding="utf-8").splitlines()
    contexts = [row.to_dict() | {"segment": n} for n, row in enumerate(world_rows[:4])]
    ray.init(log_to_driver=False, include_dashboard=False, num_cpus=2)
    try:
        options = {"model": str(tiny_model_dir), **OPTIONS}
        planned = ray.data.from_items(contexts).map_batches(
            PlanBatch, fn_constructor_kwargs=options, concurrency=1, batch_size=4
        )
        rows = sorted(planned.take_all(), key=lambda row: row["segment"])
    finally:
        ray.shutdown()
    assert [row["text"] for row in rows] == [json.loads(line)["text"] for line in lines]
    assert [json.loads(row["plan"]) for row in rows] == [json.loads(line)["plan"] for line in lines]
    with pytest.raises(GplanError, match="no column id; it has segment"):
        PlanBatch(**options)({"segment": [1]})  # type: ignore[dict-item]
