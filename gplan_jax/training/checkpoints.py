"""Checkpoints of a run: weights, optimizer, step and data iterator in one Orbax directory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from gplan_jax.foundation import GplanError
from gplan_jax.models.parameter_store import full_disk_errors, storage_reason
from gplan_jax.training.state import TrainState


class RunCheckpoints:
    """The newest ``keep`` checkpoints under one directory, written in the background.

    Orbax writes to a temporary name and renames: a checkpoint is whole or absent. A write that
    fails in the background is raised by the next call, at the latest on leaving the context.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        self._directory = directory
        self._checkpointer = ocp.training.Checkpointer(
            directory.absolute(),
            # The loop decides when to save; the default policy would add saves of its own.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with full_disk_errors(self._directory):
            self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """Steps taken at the newest checkpoint, or None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState, iterator: Any, *, step: int) -> None:
        """Copies state and iterator, then writes them while training goes on.

        Raises:
            OSError: ENOSPC where the disk is full; earlier checkpoints stay.
        """
        with full_disk_errors(self._directory):
            self._checkpointer.save_checkpointables_async(
                step, {"state": _plain(state), "data": iterator}
            )

    def restore(self, like: TrainState, iterator: Any) -> TrainState:
        """The state of the newest checkpoint in the layout of ``like``; moves ``iterator`` there.

        Raises:
            GplanError: the checkpoint does not fit the model or is torn.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _plain(like)
        )
        try:
            loaded = self._checkpointer.load_checkpointables(
                abstract_checkpointables={"state": abstract, "data": iterator}
            )
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            step = self.latest_step
            raise GplanError(
                f"{self._directory / str(step)} is torn or does not fit this run's model "
                f"({storage_reason(error)}); remove it to resume from an earlier checkpoint, or "
                "start a new run."
            ) from None
        state = loaded["state"]
        return TrainState(
            params=jax.tree.unflatten(jax.tree.structure(like.params), state["params"]),
            optimizer=jax.tree.unflatten(jax.tree.structure(like.optimizer), state["optimizer"]),
            step=state["step"],
        )


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as lists of arrays: free of the classes of Flax and optax, which may change."""
    return {
        "params": jax.tree.leaves(state.params),
        "optimizer": jax.tree.leaves(state.optimizer),
        "step": state.step,
    }
