"""What a run does once and not on every host: the first process writes, all of them agree."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console


def is_primary() -> bool:
    """True in the one process that writes logs, configs and models."""
    return jax.process_index() == 0


def say(message: str) -> None:
    """Prints one message to stderr, once for all processes."""
    if is_primary():
        Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


def meet(name: str) -> None:
    """Waits until every process has come to the point ``name``."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_fault(fault: str | None) -> str | None:
    """The fault of this process, or word of another's; None where no process has one.

    Every process must call it, so that all take the same way on.
    """
    if jax.process_count() == 1:
        return fault
    faulty = np.flatnonzero(multihost_utils.process_allgather(np.asarray(fault is not None)))
    if fault is None and len(faulty):
        return "process " + ", ".join(map(str, faulty)) + " could not read it"
    return fault
