"""What a run does once and not on every host: the first process writes, all of them agree."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

last_barrier = "none"  # what a process that hangs was last at


def is_primary() -> bool:
    """True in the one process that writes logs, configs and models."""
    return jax.process_index() == 0


def log_once(message: str) -> None:
    """Prints one message to stderr, once for all processes."""
    if is_primary():
        Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


def barrier(name: str) -> None:
    """Waits until every process has come to the point ``name``."""
    global last_barrier
    last_barrier = name
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def differing(digests: Mapping[str, str]) -> list[str]:
    """The keys whose hexadecimal digests are not the same in every process."""
    if jax.process_count() == 1:
        return []
    keys = sorted(digests)
    own = np.asarray([list(bytes.fromhex(digests[key])[:8]) for key in keys], np.uint8)
    of_all = multihost_utils.process_allgather(own)
    return [key for n, key in enumerate(keys) if (of_all[:, n] != of_all[0, n]).any()]


def any_fault(fault: str | None, elsewhere: str = "could not read it") -> str | None:
    """The fault of this process, or word of another's; None where no process has one.

    Every process must call it, so that all take the same way on.
    """
    if jax.process_count() == 1:
        return fault
    faulty = np.flatnonzero(multihost_utils.process_allgather(np.asarray(fault is not None)))
    if fault is None and len(faulty):
        return "process " + ", ".join(map(str, faulty)) + f" {elsewhere}"
    return fault
