"""Compiled programs kept on disk, so that the second start of a job does not compile again."""

from __future__ import annotations

import os
from pathlib import Path

_LIMIT_BYTES = 8 * 2**30  # a full-size training step takes some tens of MB; the oldest go first


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, under the user's cache directory.

    JAX's own variables win where they are set: JAX_COMPILATION_CACHE_DIR names another place, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. Must be called before JAX is imported.
    """
    home = os.path.expanduser("~")
    if not (given := os.environ.get("XDG_CACHE_HOME")) and home == "~":
        return  # A container's user without a home: a shared place would not be safe to run from.
    caches = Path(given or Path(home) / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "gplan" / "compiled"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_LIMIT_BYTES))
