"""Paths as people write them, and one command at a time in what it writes."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import pydantic

from gplan_jax.foundation.errors import GplanError

# The lock's name inside a directory; beside PATH it is .PATH.lock.
LOCK = ".lock"
_CLOUD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_held: set[Path] = set()  # what this process is alone in: a command's stages lie within its own


def is_cloud(given: str | Path) -> bool:
    """Whether it lies in a bucket or another store: gs://bucket, which as a Path is gs:/bucket."""
    return _CLOUD.match(str(given)) is not None


def local_path(given: str | Path) -> Path:
    """The path that somebody wrote, ``~`` and environment variables filled in.

    GplanError where it is empty, a cloud path, or names a variable that is not set.
    """
    text = str(given)
    if cloud := _CLOUD.match(text):
        raise GplanError(
            f"{given}: {cloud[1]} paths are neither read nor written here; name a local one: mount "
            "the bucket (gcsfuse, s3fs ...), or copy before and after."
        )
    if not text or "\0" in text:
        raise GplanError(f"{text!r} is no path; name a file or directory.")
    if "$" in text and not os.path.lexists(text):
        text = os.path.expandvars(text)
        if unset := re.search(r"\$(\w+|\{[^}]*\})", text):
            raise GplanError(f"{given}: the variable {unset[0]} is not set; export it first.")
    if text.startswith("~") and not os.path.lexists(text):
        home = os.path.expanduser(text)
        if home == text:
            raise GplanError(f"{given}: no such user's home is known; write the path out.")
        text = home
    return Path(text)


def _as_text(given: str) -> str:
    try:
        return str(local_path(given))
    except GplanError as error:
        raise ValueError(str(error)) from None


# A key of a config that holds a path.
PathText = Annotated[str, pydantic.AfterValidator(_as_text)]


def refuse_pattern(path: Path) -> None:
    """Raises GplanError where Orbax, which takes a path for a pattern, would not find it again."""
    if odd := re.search(r"[][*?]", str(path.resolve())):
        raise GplanError(
            f"{path.resolve()} holds {odd[0]!r}, and what is saved under such a name can't be read "
            "back; rename the directory, without any of [ ] * ?."
        )


@contextmanager
def alone_in(path: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other commands out of a file or directory while this one writes it.

    The lock lies beside it, or inside where nothing may be written beside it; the system lets go of
    it however this process ends. GplanError where another process is at work there (with ``wait``,
    it is waited for), or the path holds a character of patterns.
    """
    refuse_pattern(Path(path))
    target = Path(path).resolve()
    inside = target.is_dir() and not os.access(target.parent, os.W_OK)
    file = target / LOCK if inside else target.with_name(f".{target.name}{LOCK}")
    if target in _held:
        yield
        return
    made = [parent for parent in file.parents if not parent.exists()]
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read() or "another process"
            lock.close()
            raise GplanError(
                f"{path} is being written by {holder}; wait for it, or name another place."
            ) from None
        except OSError as error:
            # Some network file systems have no locks: then it is up to their users.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(file)):
                break
        lock.close()  # Whoever held it has ended and removed it.
    with lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        _held.add(target)
        try:
            yield
        finally:
            _held.remove(target)
            file.unlink(missing_ok=True)
            with suppress(OSError):  # What a command that came to nothing made for its lock alone.
                for parent in made:
                    parent.rmdir()
