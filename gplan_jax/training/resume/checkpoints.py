"""Checkpoints of a run: weights, optimizer, step and a record of the run, in one Orbax directory.

    CHECKPOINTS/<step>/state/         the arrays of the TrainState, sharded files
    CHECKPOINTS/<step>/run/data.json  see ``run_directory``
    CHECKPOINTS-torn/<step>/          what a resumed run could not read and set aside

Every process takes part in every call.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from gplan_jax.foundation import GplanError
from gplan_jax.models.checkpoints.model_directory import causes_of, disk_errors, storage_reason
from gplan_jax.training.hosts.processes import any_fault, barrier, is_primary, log_once
from gplan_jax.training.resume.run_directory import (
    Record,
    check_belongs,
    digest_arrays,
    read_record,
    wrong_arrays,
)
from gplan_jax.training.steps.step import Params, TrainState

Tree = TypeVar("Tree")
_REASON_LENGTH = 300


@dataclass
class KeepNewestAndBest:
    """Keeps the ``newest`` checkpoints and the ``best`` by score (higher is better).

    An evaluation ends after its checkpoint was handed to the writer (a kill in between must not
    cost the steps), so scores come later than saves; Orbax's own BestN wants them at the save.
    """

    newest: int
    best: int
    scores: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax asks at each save, the new checkpoint included."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.newest :], *best_steps(steps, self.scores)[: self.best]}
        return [step in kept for step in steps]


def best_steps(steps: Sequence[int], scores: Mapping[int, float]) -> list[int]:
    """The steps that have a score, best first; of equals, the earlier."""
    scored = [step for step in steps if math.isfinite(scores.get(step, math.nan))]
    return sorted(scored, key=lambda step: (-scores[step], step))


class RunCheckpoints:
    """The checkpoints under one directory, written in the background.

    Orbax writes to a temporary name and renames: a checkpoint is whole or absent, unless the disk
    or somebody damages it later. A write that fails in the background is raised (OSError) by the
    next call, at the latest on leaving the context. The ``keep`` newest are kept, and the
    ``keep_best`` best by ``scores``, to which the caller adds. What a killed writer left is
    removed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int,
        keep_best: int = 0,
        scores: Mapping[int, float] | None = None,
    ) -> None:
        self._directory = directory
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            # A directory that can't be written is better found now than after an epoch.
            tempfile.TemporaryFile(dir=directory).close()
            self._checkpointer = ocp.training.Checkpointer(
                directory.absolute(),
                context=_context(),
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=KeepNewestAndBest(
                    keep, keep_best, {} if scores is None else scores
                ),
                cleanup_tmp_directories=True,
            )

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(self, *_: object) -> None:
        with disk_errors(self._directory):
            self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """Steps taken at each checkpoint, ascending; the one being written is the last."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(self, state: TrainState, record: Record) -> None:
        """Copies the state, then writes it and its record while training goes on."""
        with disk_errors(self._directory):
            self._checkpointer.save_checkpointables_async(
                record["step"],
                {"state": _plain(state), "run": record},
                # The loop decides when to save; a policy that says no would lose it in silence.
                force=True,
            )

    def wait(self) -> None:
        """Returns once everything handed to ``save`` is on disk."""
        with disk_errors(self._directory):
            self._checkpointer.wait()

    def restore(
        self, like: TrainState, *, inputs: Mapping[str, str], steps_per_epoch: int
    ) -> tuple[TrainState, Record] | None:
        """The newest whole checkpoint in the layout of ``like``; None where there is none.

        Torn ones are set aside with a warning, so that later saves of their steps find the place
        free. ``like`` holds shapes, dtypes and shardings (``abstract``), on any mesh. GplanError
        where none is whole, or the newest readable one belongs to another run.
        """
        torn: dict[int, str] = {}
        for step in reversed(self.steps):
            found = self._read(step, like, inputs, steps_per_epoch)
            if not isinstance(found, str):
                self._set_aside(torn, instead=step)
                return found
            torn[step] = found
        if torn:
            reasons = [f"{self._directory / str(step)}: {why}" for step, why in torn.items()]
            raise GplanError(
                "No checkpoint of this run is whole:\n  "
                + "\n  ".join(reasons)
                + "\nBring one back from a copy, or start a new run in another directory."
            )
        return None

    def restore_params(self, like: Params, step: int) -> Params:
        """One checkpoint's weights in the layout of ``like``; GplanError where it can't be read."""
        names = [f"params.{number}" for number in range(len(jax.tree.leaves(like)))]
        try:
            record = read_record(self._directory / str(step))
            loaded = self._load(step, {"params": jax.tree.leaves(like)}, partial=True)["params"]
        except Exception as error:
            raise GplanError(f"{self._directory / str(step)}: {_torn_reason(error)}") from None
        if wrong_arrays(record, digest_arrays(dict(zip(names, loaded, strict=True)))):
            raise GplanError(f"{self._directory / str(step)}: its weights are damaged.")
        return jax.tree.unflatten(jax.tree.structure(like), loaded)

    def _read(
        self, step: int, like: TrainState, inputs: Mapping[str, str], steps_per_epoch: int
    ) -> tuple[TrainState, Record] | str:
        """The state and record of a checkpoint, or what is wrong with it."""
        path, fault = self._directory / str(step), None
        try:
            record = read_record(path)
        except (OSError, ValueError) as error:
            fault = _torn_reason(error)
        if fault := any_fault(fault):
            return fault
        wanted = named_arrays(like)
        check_belongs(record, path, inputs=inputs, steps_per_epoch=steps_per_epoch, arrays=wanted)
        try:
            loaded = self._load(step, _plain(like))
        except Exception as error:
            fault = _torn_reason(error)
        if fault := any_fault(fault):
            return fault
        state = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(_in_order(loaded)))
        if wrong := wrong_arrays(record, digest_arrays(named_arrays(state))):
            return f"{len(wrong)} of its {len(wanted)} arrays are damaged, {wrong[0]} first"
        return state, record

    def _load(self, step: int, abstract: dict[str, Any], *, partial: bool = False) -> Any:
        # Each process reads alone: with Orbax's barriers, one that fails would leave the others
        # waiting for it.
        context = _context(alone=True)
        context.pytree.loading.partial_load = partial
        with context, _quiet_failures():
            loaded = ocp.load_checkpointables(
                (self._directory / str(step)).absolute(), {"state": abstract}
            )
            # Where an array's files are gone, Orbax can return nothing in its place.
            if any(x is None for x in jax.tree.leaves(loaded, is_leaf=lambda x: x is None)):
                raise ValueError("an array is lost")
        return loaded["state"]

    def _set_aside(self, torn: Mapping[int, str], *, instead: int) -> None:
        if not torn:
            return
        place = self._directory.with_name(self._directory.name + "-torn")
        barrier("torn checkpoints are known")
        for step, why in torn.items():
            target = place / str(step)
            while target.exists():
                target = target.with_name(target.name + "-again")
            log_once(
                f"warning: {self._directory / str(step)} is torn ({why}). It is moved to {target}; "
                f"the run goes on from {self._directory / str(instead)}."
            )
            if is_primary():
                place.mkdir(exist_ok=True)
                os.replace(self._directory / str(step), target)
        barrier("torn checkpoints are set aside")
        self._checkpointer.reload()


def abstract(state: Tree) -> Tree:
    """Shapes, dtypes and shardings of a state or a part of it: what ``restore`` needs."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def named_arrays(state: TrainState) -> dict[str, Any]:
    """The arrays of a state by the names that checkpoints give them."""
    plain = _plain(state)
    arrays = {f"params.{n}": x for n, x in enumerate(plain["params"])}
    arrays |= {f"optimizer.{n}": x for n, x in enumerate(plain["optimizer"])}
    return arrays | {"step": plain["step"]}


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as lists of arrays: free of the classes of Flax and optax, which may change."""
    return {
        "params": jax.tree.leaves(state.params),
        "optimizer": jax.tree.leaves(state.optimizer),
        "step": state.step,
    }


def _in_order(plain: Mapping[str, Any]) -> TrainState:
    """A TrainState of lists: its leaves stand in the order of the real one's."""
    return TrainState(params=plain["params"], optimizer=plain["optimizer"], step=plain["step"])


def _context(*, alone: bool = False) -> ocp.Context:
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="run")
    context = ocp.Context()
    context.checkpointables.registry = registry
    if alone:
        context.multiprocessing_options.primary_host = jax.process_index()
        context.multiprocessing_options.active_processes = {jax.process_index()}
    return context


def _torn_reason(error: Exception) -> str:
    """What is wrong with the files; an error that is not theirs (memory, permission) is raised."""
    cause = causes_of(error)[-1]
    theirs = (ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError, EOFError)
    if not isinstance(cause, theirs):
        raise error
    lines = storage_reason(cause).strip("'\"").splitlines()
    return (lines[0] if lines else type(cause).__name__)[:_REASON_LENGTH]


@contextmanager
def _quiet_failures() -> Iterator[None]:
    """Keeps Orbax's unfinished coroutines from printing pages when a read fails."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
