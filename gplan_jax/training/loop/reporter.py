"""Turns the metrics of a step into a log record and a progress line, one step behind the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import jax
import numpy as np

from gplan_jax.data.batch_plan import EMPTY_ROW
from gplan_jax.data.batches import LoadedBatch
from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.objectives.preference import loss_at_reference
from gplan_jax.training.hosts.processes import is_primary
from gplan_jax.training.loop.metrics_log import MetricsLog
from gplan_jax.training.loop.reference import reference_folder
from gplan_jax.training.loop.run_clock import RunClock
from gplan_jax.training.resume.array_digests import ArrayDigest
from gplan_jax.training.steps.objectives import Metrics
from gplan_jax.training.steps.setup import Run

_IDS_SHOWN = 8
# Reference and policy are compiled apart, and log-probabilities are sums over a hundred tokens.
_FIRST_LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
_NOTED = {
    "loss": "loss",
    "loss_reasoning": "reasoning",
    "loss_plan": "plan",
    "rewards/margins": "gap",
    "gap/inside": "inside",
    "center": "center",
}


@dataclass
class StepReporter:
    """Holds the newest step's metrics until the next step is on its way.

    Reading a metric waits for the device; a step that is read only after the next was dispatched
    costs no idle time. ``bar`` is None in all processes but the first; ``peak`` is what all devices
    could multiply, in operations a second.
    """

    run: Run
    log: MetricsLog
    clock: RunClock
    peak: float
    bar: ProgressBar | None
    _held: tuple[int, LoadedBatch, Metrics] | None = field(default=None, init=False)
    _rates: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # All at once: a rate computed between two steps would wait in the queue of the device.
        steps = np.arange(self.run.plan.total_steps)
        self._rates = np.asarray(jax.jit(jax.vmap(self.run.schedule))(steps))

    def hold(self, taken: int, loaded: LoadedBatch, metrics: Metrics) -> None:
        """Reports the step held before, then holds this one; ``taken`` counts steps from 1."""
        self.flush()
        self._held = (taken, loaded, metrics)

    def flush(self) -> None:
        """Reports the held step; GplanError where its loss or gradient isn't finite."""
        if self._held is None:
            return
        taken, loaded, metrics = self._held
        self._held = None
        seconds = max(self.clock.step_ended(), 1e-9)
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}

        # Token counts serve the metrics only, and a section without tokens has no loss.
        left_out = {"tokens_reasoning", "tokens_plan"}
        if values.get("tokens_reasoning", 1) == 0:
            left_out.add("loss_reasoning")
        # This process counts its share of the tokens; all shares have as many rows.
        shares = self.run.plan.batch_size / len(loaded.indices_B)
        model, frozen = self.run.model.config, bool(self.run.config.lora.rank)
        flops = loaded.work(shares).flops(model, frozen=frozen)
        spent = self.clock.seconds
        record = {
            "kind": "step",
            "step": taken,
            "epoch": int(loaded.epoch),
            **({} if loaded.stage is None else {"stage": int(loaded.stage)}),
            **{name: value for name, value in values.items() if name not in left_out},
            "learning_rate": float(self._rates[taken - 1]),
            "tokens_per_second": round(loaded.token_count() * shares / seconds, 1),
            "mfu": float(f"{flops / seconds / self.peak:.4g}"),
            "step_seconds": round(seconds, 5),
            "goodput": round(spent["step"] / sum(spent.values()), 4),
            "seconds": {phase: round(value, 4) for phase, value in spent.items()},
        }
        self.log.write(record)
        if self.bar:
            note = [f"{name} {record[name]}" for name in ("epoch", "stage") if name in record]
            note += [
                f"{word} {values[name]:.3f}" for name, word in _NOTED.items() if name in record
            ]
            note.append(f"lr {record['learning_rate']:.1e}")
            note.append(f"{record['tokens_per_second']:,.0f} tokens/s  MFU {record['mfu']:.1%}")
            self.bar.advance("  ".join(note))

        for name, what in (("loss", "loss"), ("grad_norm", "norm of the gradient")):
            if not math.isfinite(values[name]):
                self._stop(taken, values, f"The {what} of step {taken} is {values[name]}")
        config = self.run.config
        if taken == 1 and Mode(config.mode) is Mode.SCDPO:
            # Policy and reference are the same weights there, so the loss is known.
            expected = loss_at_reference(config.preference.loss, config.preference)
            if abs(values["loss"] - expected) > _FIRST_LOSS_TOLERANCE[config.precision.compute]:
                raise GplanError(
                    f"The loss of the first step is {values['loss']:.6f}, but policy and reference "
                    f"are the same weights there, which gives {expected:.6f}: the cached reference "
                    f"is not theirs. Remove reference-*.npz in {reference_folder(self.run)} and "
                    "start again."
                )

    def require_finite(self, taken: int, digests: Mapping[str, ArrayDigest]) -> None:
        """GplanError where an array of the state after step ``taken`` isn't finite."""
        names = [name for name, digest in digests.items() if not digest.finite]
        if names:
            more = f" and {len(names) - 1} other arrays" if len(names) > 1 else ""
            self._stop(taken, {}, f"After step {taken}, {names[0]}{more} of the state isn't finite")

    def _stop(self, taken: int, values: Mapping[str, float], problem: str) -> NoReturn:
        """Writes RUN/bad-batch-<step>.json and raises."""
        # A process holds its share of a batch; the plan knows all of it.
        spec = self.run.plan.batch(taken - 1)
        rows = [int(row) for row in spec.rows if row != EMPTY_ROW]
        ids = [self.run.training_set.row_id(row) for row in rows]
        path = self.run.directory / f"bad-batch-{taken}.json"
        if is_primary():
            bad = {
                "problem": problem,
                "step": taken,
                "epoch": int(spec.epoch),
                "stage": int(spec.stage),
                # JSON has no NaN.
                "metrics": {n: v if math.isfinite(v) else str(v) for n, v in values.items()},
                "rows": rows,
                "ids": ids,
            }
            write_json(path, bad)
        shown = ", ".join(ids[:_IDS_SHOWN]) + (", ..." if len(ids) > _IDS_SHOWN else "")
        raise GplanError(
            f"{problem}; its batch held the {len(ids)} rows with id {shown} (all of them in "
            f"{path}). No checkpoint holds it. Look at these rows, or start anew with a lower "
            "optimizer.learning_rate."
        )
