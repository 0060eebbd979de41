"""The side of bench_train.py that starts and asks the PyTorch step (torch_padded_step.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_layouts import Layout, labelled
from bench_process import JsonProcess

from gplan_jax.data import Mode
from gplan_jax.foundation.files import write_json
from gplan_jax.models import Qwen3
from gplan_jax.models.checkpoints.hugging_face import checkpoint_tensors, write_sharded
from gplan_jax.models.checkpoints.model_directory import model_parameters


class TorchSteps:
    """The PyTorch step in a process of its own, one batch at a time."""

    def __init__(self, python: Path | str, folder: Path, batch_size: int) -> None:
        self.batch_size = batch_size
        self._process = JsonProcess(python, "torch_padded_step.py", folder)
        self.versions = self._process.first

    def step(self, number: int) -> dict[str, Any]:
        """Takes the step on batch ``number``: seconds, loss and peak_gib."""
        return self._process.ask(number)

    def close(self) -> None:
        """Ends the process."""
        self._process.close()


@contextmanager
def torch_steps(
    python: Path | str | None, folder: Path, padded: Layout, numbers: Sequence[int]
) -> Iterator[TorchSteps | None]:
    """Starts the PyTorch step on the weights and batches of ``padded``; None without a Python.

    Args:
        python: one that has torch and transformers.
        folder: takes the weights and the batches.
        padded: the padded layout of the run.
        numbers: steps whose batches it is to take.
    """
    if python is None:
        yield None
        return
    write_checkpoint(padded.run.model, folder / "model")
    for number in numbers:
        arrays: dict[str, Any] = labelled(padded.load(number))
        np.savez(folder / f"batch_{number}.npz", **arrays)
    job = {
        "platform": jax.devices()[0].platform,
        "threads": os.cpu_count(),
        "micro_rows": padded.micro_rows,
        "by_section": padded.run.training_set.mode is Mode.PICD,
        "bfloat16": padded.run.config.precision.compute == "bfloat16",
    }
    write_json(folder / "job.json", job)
    worker = TorchSteps(python, folder, padded.run.config.batch_size)
    try:
        worker.step(numbers[0])  # the first step is slower
        yield worker
    finally:
        worker.close()


def write_checkpoint(model: Qwen3, folder: Path) -> None:
    """Writes a model's weights as transformers reads them."""
    parameters = model_parameters(model)
    tensors = checkpoint_tensors(
        lambda path: np.asarray(parameters[path]),
        {path: np.dtype(value.dtype) for path, value in parameters.items()},
        model.config,
        ships_lm_head=False,
    )
    folder.mkdir()
    write_json(folder / "config.json", model.config.to_hf() | {"dtype": "float32"})
    for _ in write_sharded(folder, list(tensors)):
        pass
