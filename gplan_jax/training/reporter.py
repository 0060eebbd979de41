"""Turns the metrics of a step into a log record and a progress line, one step behind the device."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import jax

from gplan_jax.data.batch_plan import EMPTY_ROW
from gplan_jax.data.pipeline import Batch
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.objectives.section_loss import Metrics
from gplan_jax.training.metrics_log import MetricsLog
from gplan_jax.training.run import Run


@dataclass
class StepReporter:
    """Holds the newest step's metrics until the next step is on its way.

    Reading a metric waits for the device; a step that is read only after the next was dispatched
    costs no idle time.
    """

    run: Run
    log: MetricsLog
    bar: ProgressBar
    _held: tuple[int, Batch, Metrics] | None = field(default=None, init=False)
    _last_report: float = field(default_factory=time.monotonic, init=False)

    def hold(self, taken: int, batch: Batch, metrics: Metrics) -> None:
        """Reports the step held before, then holds this one; ``taken`` counts steps from 1."""
        self.flush()
        self._held = (taken, batch, metrics)

    def flush(self) -> None:
        """Reports the held step, if any.

        Raises:
            GplanError: its loss is not finite; the ids of its rows are named.
        """
        if self._held is None:
            return
        taken, batch, metrics = self._held
        self._held = None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        seconds, self._last_report = now - self._last_report, now
        record = self._record(taken, batch, values) | {
            "tokens_per_second": round(float(batch["lengths"].sum()) / seconds, 1)
        }
        self.log.write(record)
        self.bar.advance(_note(record))
        if not math.isfinite(record["loss"]):
            samples = self.run.training_set.samples
            ids = ", ".join(samples[row].id for row in batch["rows"] if row != EMPTY_ROW)
            raise GplanError(
                f"The loss of step {taken} is {record['loss']}; its batch held the rows with id "
                f"{ids}. Look at these rows, or start anew with a lower optimizer.learning_rate."
            )

    def restart_clock(self) -> None:
        """Leaves out of the throughput what was not training: an evaluation, a checkpoint."""
        self._last_report = time.monotonic()

    def _record(self, taken: int, batch: Batch, values: dict[str, float]) -> dict[str, Any]:
        kept = {name: values[name] for name in ("loss", "loss_plan", "grad_norm")}
        if values["tokens_reasoning"]:
            kept["loss_reasoning"] = values["loss_reasoning"]
        return {
            "kind": "step",
            "step": taken,
            "epoch": int(batch["epoch"]),
            "stage": int(batch["stage"]),
            **kept,
            "learning_rate": float(self.run.schedule(taken - 1)),
        }


def _note(record: dict[str, Any]) -> str:
    parts = [f"epoch {record['epoch']}", f"stage {record['stage']}", f"loss {record['loss']:.3f}"]
    if "loss_reasoning" in record:
        parts.append(f"reasoning {record['loss_reasoning']:.3f}")
    parts.append(f"plan {record['loss_plan']:.3f}")
    parts.append(f"lr {record['learning_rate']:.1e}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)
