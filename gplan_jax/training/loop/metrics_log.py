"""Where a run's figures go: one JSON object a step, the same scalars for TensorBoard and W&B.

Weights & Biases is imported only where ``logging.wandb_project`` asks for it. The run's id lies in
RUN/wandb-id.txt, so that a resumed run goes on under it. Steps that a killed run had already logged
are logged again; W&B keeps the first figures, which are the same.

The metrics of a step become a log record and a progress line one step behind the device.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jax
import numpy as np
from tensorboardX import SummaryWriter

from gplan_jax.data.batch_plan import EMPTY_ROW
from gplan_jax.data.batches import LoadedBatch
from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import finite, json_text, write_json, write_jsonl, write_text
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.objectives.preference import loss_at_reference
from gplan_jax.training.hosts.processes import is_primary, log_once
from gplan_jax.training.loop.reference import reference_folder
from gplan_jax.training.loop.run_clock import RunClock
from gplan_jax.training.resume.run_directory import ArrayDigest
from gplan_jax.training.steps.objectives import Metrics
from gplan_jax.training.steps.setup import Run

LOG_NAME, WANDB_ID_NAME = "log.jsonl", "wandb-id.txt"
# What two runs with the same losses need not have in common.
TIMINGS = frozenset({"tokens_per_second", "mfu", "step_seconds", "goodput", "seconds"})
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


class MetricsLog:
    """Appends records to ``log.jsonl``, TensorBoard and, where asked for, Weights & Biases.

    Only the first process writes; in the others nothing happens. Records beyond ``resume_step``,
    the steps that a resumed checkpoint holds, were written by a run that died after it: they are
    dropped, so that each step stands once in the log.
    """

    def __init__(
        self,
        directory: Path,
        *,
        resume_step: int = 0,
        wandb_project: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._open = is_primary()
        self._wandb: WandbRun | None = None
        if not self._open:
            return
        path = directory / LOG_NAME
        if path.is_file():
            write_jsonl(path, (r for r in _whole_records(directory) if r["step"] <= resume_step))
        with ExitStack() as stack:
            self._file = stack.enter_context(path.open("a", encoding="utf-8"))
            self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)
            stack.callback(self._events.close)
            if wandb_project is not None:
                self._wandb = open_wandb(directory, project=wandb_project, config=config or {})
                stack.callback(self._wandb.finish)
            self._closing = stack.pop_all()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._closing.close()

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record; its ``step`` counts the steps taken, from 1."""
        if not self._open:
            return
        self._file.write(json_text(finite(record)) + "\n")
        self._file.flush()
        scalars = dict(_scalars(record))
        for name, value in scalars.items():
            self._events.add_scalar(name, value, record["step"])
        if self._wandb is not None and scalars:
            self._wandb.log(scalars, step=record["step"])


class WandbRun(Protocol):
    """What is used of a run of the wandb package."""

    def log(self, data: dict[str, Any], *, step: int) -> None:
        """Logs scalars of one step."""

    def finish(self) -> None:
        """Sends what is left."""


def require_wandb() -> None:
    """Raises GplanError where the wandb package is missing."""
    if importlib.util.find_spec("wandb") is None:
        raise GplanError(
            "logging.wandb_project is set, but the package wandb is not installed: "
            "pip install 'gplan-jax[wandb]', or leave logging.wandb_project out. log.jsonl and "
            "TensorBoard are written in any case."
        )


def open_wandb(directory: Path, *, project: str, config: dict[str, Any]) -> WandbRun:
    """Starts the run of ``directory`` in ``project``, or goes on with it.

    WANDB_MODE=offline keeps everything under RUN/wandb, for ``wandb sync`` later. GplanError where
    wandb is missing, or refuses (no key, no network).
    """
    require_wandb()
    wandb: Any = importlib.import_module("wandb")
    path = directory / WANDB_ID_NAME
    if not path.is_file():
        write_text(path, secrets.token_hex(8) + "\n")
    try:
        return wandb.init(
            project=project,
            id=path.read_text(encoding="utf-8").strip(),
            name=directory.name,
            dir=str(directory),
            config=config,
            resume="allow",
        )
    except wandb.errors.Error as error:
        raise GplanError(
            f"Weights & Biases refused to start: {error} Log in with `wandb login`, set "
            "WANDB_MODE=offline, or leave logging.wandb_project out."
        ) from None


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log; a last line torn by a killed process is left out."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [json.loads(line) for line in lines]


def evaluation_scores(directory: Path, metric: str) -> dict[int, float]:
    """Step -> ``metric`` of each evaluation in a run's log."""
    return {
        record["step"]: record[metric]
        for record in _whole_records(directory)
        if record.get("kind") == "evaluation" and record.get(metric) is not None
    }


def best_evaluation(directory: Path, metric: str) -> str | None:
    """The best evaluation of a run in words; None where there was none with that figure."""
    scores = evaluation_scores(directory, metric)
    if not scores:
        return None
    step = max(scores, key=lambda step: (scores[step], -step))
    return f"{metric} {scores[step]:.4f} at step {step}"


def seconds_before(directory: Path, step: int) -> dict[str, float]:
    """Seconds by phase that a run's log tells of, where it goes on from the checkpoint of ``step``.

    What steps beyond it took is "lost". What a killed run did after its last record isn't known.
    """
    records = [r for r in _whole_records(directory) if "seconds" in r]
    if not records:
        return {}
    kept = [record["seconds"]["step"] for record in records if record["step"] <= step]
    spent = dict(records[-1]["seconds"])
    lost = spent["step"] - (kept[-1] if kept else 0.0)
    return spent | {"step": spent["step"] - lost, "lost": spent["lost"] + lost}


def speed_and_time(directory: Path) -> dict[str, str]:
    """The speed of a run's steps, and where its wall time went, in words by name."""
    records = [r for r in _whole_records(directory) if "seconds" in r]
    steps = [r for r in records if r["kind"] == "step" and r.get("step_seconds")]
    if not steps:
        return {}
    total = sum(r["step_seconds"] for r in steps)
    tokens, mfu = (
        sum(r[name] * r["step_seconds"] for r in steps) / total
        for name in ("tokens_per_second", "mfu")
    )
    spent = records[-1]["seconds"]
    shares = {phase: value / sum(spent.values()) for phase, value in spent.items()}
    others = sorted(shares.keys() - {"step"}, key=lambda phase: -shares[phase])
    listed = [f"{phase} {shares[phase]:.0%}" for phase in others if shares[phase] >= 0.005]
    return {
        "speed": f"{tokens:,.0f} tokens/s, MFU {mfu:.1%} of the measured peak",
        "wall time": ", ".join([f"steps {shares['step']:.0%} (goodput)", *listed]),
    }


def _whole_records(directory: Path) -> Iterator[dict[str, Any]]:
    """A run's records that can be read; a damaged line must not keep it from going on."""
    path = directory / LOG_NAME
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = finite(json.loads(line))
            record["step"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                log_once(f"warning: {path}, line {number} is damaged and is left out")
            continue
        yield record


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    if record.get("kind") not in ("step", "evaluation"):
        return
    group = "evaluation" if record["kind"] == "evaluation" else "training"
    for name, value in record.items():
        if isinstance(value, int | float) and name != "step" and math.isfinite(value):
            yield f"{group}/{name}", value
    spent = record.get("seconds", {})
    for phase, seconds in spent.items():
        yield f"wall_time/{phase}", seconds / sum(spent.values())


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
