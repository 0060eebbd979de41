"""Planning over many machines with Ray: `gplan predict --engine ray`, and a class for any dataset.

    ds = ray.data.read_parquet("s3://contexts").map_batches(
        PlanBatch, fn_constructor_kwargs={"model": "run/model"}, concurrency=8, num_gpus=1
    )

The command deals the parts of a file to tasks, each of which plans a shard of it as one machine
does. A task whose worker dies runs again and goes on at its first missing part, so the bytes are
those of one process. OUT and the data lie where all nodes see them.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.extras import load_extra
from gplan_jax.foundation.faulty_rows import FaultyRows, OnError
from gplan_jax.foundation.files import refuse_existing
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.row_files import count_rows
from gplan_jax.foundation.strict_json import json_text
from gplan_jax.inference.prediction.manifest import Manifest, merge_shards
from gplan_jax.inference.prediction.predict import (
    PART_ROWS,
    contexts_of,
    load_planner,
    plan_rows,
    predict,
)

PURPOSE = "planning with Ray"
# A worker that dies is replaced; what kills as many as this is no accident.
RETRIES = 5


class PlanBatch:
    """Batches of contexts -> the same with their plans, for ``ray.data.Dataset.map_batches``.

    A batch is a dict of columns [B]; those of the public schema make the context, others are
    passed on, and columns that lack are empty. New ones: ``plan`` (JSON), ``text``,
    ``latent_valid``, ``passed``, ``log_probability``. The model is loaded once an actor.

    Args:
        model: a model directory that every node can read.
        options: of ``Planner.load``; plans are drafted unless a ``mode`` is given.

    Raises:
        GplanError: a row's prompt can't be made; the row is named by its place in the batch.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self._planner = load_planner(model, **options)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        contexts = contexts_of(_cells(batch))
        records, _ = plan_rows(
            self._planner, Path("the batch"), contexts, skips=False, on_row=lambda: None
        )
        found: dict[str, Any] = dict(batch)
        found["plan"] = np.array([json_text(record["plan"]) for record in records])
        for name in ("text", "latent_valid", "passed", "log_probability"):
            found[name] = np.array([record[name] for record in records])
        return found


def predict_with_ray(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    faulty: FaultyRows | None = None,
    workers: int | None = None,
    address: str | None = None,
    part_rows: int = PART_ROWS,
    **options: Any,
) -> Manifest:
    """What ``predict`` does with a file, as tasks of a Ray cluster.

    Args:
        workers: shards that are planned at once; None for as many as the cluster has GPUs or TPU
            hosts, or else nodes.
        address: of the cluster; None for ``RAY_ADDRESS``, or a cluster on this machine.
        faulty, part_rows, options: of ``predict``.

    Raises:
        GplanError: as ``predict``; or a worker died again and again. What is planned stays.
    """
    ray = load_extra("ray", "ray", PURPOSE)
    out = Path(out).resolve()
    shards = out.with_name(f"{out.name}.shards")
    refuse_existing(out)  # now, not when all is planned
    ray.init(address, ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    try:
        found = ray.cluster_resources()
        device = next((kind for kind in ("GPU", "TPU") if found.get(kind)), None)
        count = workers or int(found[device] if device else len(ray.nodes()))
        parts = -(-count_rows(Path(data)) // part_rows)
        count = max(1, min(count, parts))
        task = ray.remote(max_retries=RETRIES, **({"resources": {"TPU": 1}} if device == "TPU" else
                          {"num_gpus": 1 if device else 0}))(_plan_shard)  # fmt: skip
        model, data, faulty = Path(model).resolve(), Path(data).resolve(), faulty or FaultyRows()
        options |= {name: _absolute(options.get(name)) for name in ("template", "library")}
        tasks = running = [
            task.remote(
                *(model, data, shards / str(number), f"{number}/{count}"),
                faulty.on_error,
                options | {"part_rows": part_rows},
            )
            for number in range(1, count + 1)
        ]
        with ProgressBar("shards", count) as bar:
            while running:
                done, running = ray.wait(running)
                ray.get(done[0])
                bar.advance(steps=1)
        for fault in itertools.chain.from_iterable(ray.get(tasks)):
            faulty.add(fault)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, GplanError) else GplanError(f"{error}") from None
    except ray.exceptions.RayError as error:
        raise GplanError(
            f"A worker of Ray died {RETRIES + 1} times ({str(error).splitlines()[0]}). What is "
            f"planned stays in {shards}; run the command again, perhaps with more memory a worker."
        ) from None
    finally:
        ray.shutdown()
    manifest = merge_shards(shards, out)
    shutil.rmtree(shards)
    return manifest


def _plan_shard(
    model: Path, data: Path, out: Path, shard: str, on_error: OnError, options: Mapping[str, Any]
) -> list[RowError]:
    faulty = FaultyRows(on_error)
    predict(model, data, out, shard=shard, faulty=faulty, **options)
    return faulty.errors


def _cells(batch: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Columns as Python's values; of times, NumPy would make numbers of nanoseconds."""
    columns = {name: np.asarray(column) for name, column in batch.items()}
    return {
        name: (column.astype("datetime64[us]") if column.dtype.kind == "M" else column).tolist()
        for name, column in columns.items()
    }


def _absolute(name: str | None) -> str | None:
    """A path as workers find it from wherever they run; the name of what is shipped stays one."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name
