"""A process of a run that fails alone ends the others, which would wait for it in a collective."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

import jax

WATCH_SECONDS, GRACE_SECONDS = 1.0, 5.0
FAILED_EXIT = 1
GONE = jax.errors.JaxRuntimeError
"""What the store raises where the coordinator has ended: there is nobody to tell or to ask."""
_FAILURES = "gplan/failed/"


class PeerWatch:
    """Looks in the background whether another process has failed, and then ends this one."""

    def __init__(self, process: int) -> None:
        from jax._src.distributed import global_state  # The store has no public name.

        self._process, self._over = process, threading.Event()
        self._store: Any = global_state.client
        self._thread = threading.Thread(target=self._look, name="gplan-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stops looking; this process is on its way out."""
        self._over.set()
        self._thread.join()

    def announce(self, message: str) -> None:
        """Tells the others why this process fails."""
        said = {"host": socket.gethostname(), "message": message}
        with suppress(GONE):
            self._store.key_value_set(f"{_FAILURES}{self._process}", json.dumps(said))

    def _look(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            with suppress(GONE):
                if failures := self._store.key_value_dir_get(_FAILURES):
                    return self._stop(*failures[0])

    def _stop(self, key: str, value: str) -> None:
        # Often all fail alike, by bad input: then each ends by itself, with its own message.
        if self._over.wait(GRACE_SECONDS):
            return
        said = json.loads(value)
        print(
            f"error: process {key.removeprefix(_FAILURES)} on {said['host']} failed, so process "
            f"{self._process} stops as well: {said['message']}",
            file=sys.stderr,
            flush=True,
        )
        # The main thread may wait in a collective that nothing interrupts. JAX's shutdown is a
        # barrier: without us the one that failed would wait there, and be aborted.
        with suppress(GONE):
            jax.distributed.shutdown()
        os._exit(FAILED_EXIT)
