"""Compiled programs kept on disk, so that the second start of a job does not compile again."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

_PROGRAM, _TIME = "-cache", "-atime"  # JAX's names of a program and of when it was last used
_LIMIT_BYTES = 8 * 2**30  # a full-size training step takes some tens of MB; the oldest go first


def keep_compiled_programs(cpu_info: Path = Path("/proc/cpuinfo")) -> None:
    """Turns JAX's persistent compilation cache on, under the user's cache directory.

    JAX's own variables win where they are set: JAX_COMPILATION_CACHE_DIR names another place, and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. Each kind of CPU has a folder of its own in
    either place, since hosts may share it: JAX's keys hold its version and the program, but not
    the instructions that the program was compiled for. Must be called before JAX is imported.
    """
    if (place := os.environ.get("JAX_COMPILATION_CACHE_DIR")) is None:
        home = os.path.expanduser("~")
        if not (given := os.environ.get("XDG_CACHE_HOME")) and home == "~":
            return  # A container's user without a home: a shared place would not be safe to run.
        place = str(Path(given or Path(home) / ".cache") / "gplan" / "compiled")
    try:
        lines = cpu_info.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # "flags" of x86, "Features" of ARM
    features = [line for line in lines if line.lower().startswith(("flags", "features"))][:1]
    known = f"{platform.machine()} {features or platform.processor()}"
    folder = "cpu-" + hashlib.sha256(known.encode()).hexdigest()[:12]
    # Processes that this one starts inherit the folder. An empty place turns the cache off.
    if place and not place.endswith(folder):
        place = f"{place.rstrip('/')}/{folder}"  # as text: a bucket's address has two slashes
    os.environ["JAX_COMPILATION_CACHE_DIR"] = place
    # A process that was killed between the two files of a program leaves the first alone, and JAX
    # would fail at it, with a warning, whenever it keeps another program.
    for program in Path(place).glob(f"*{_PROGRAM}") if place else ():
        if not program.with_name(program.name.removesuffix(_PROGRAM) + _TIME).is_file():
            program.unlink(missing_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_LIMIT_BYTES))
