"""Files and directories that appear whole or not at all; and JSON by the standard, where
Python's own takes and gives NaN and more.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.paths import LOCK

_HALF = re.compile("[\ud800-\udfff]")
TEMPORARY = ".tmp-"  # in the name of what is being written, or was when its process was killed


def parse_json(text: str | bytes) -> Any:
    """The value of one JSON document; bytes are UTF-8, with or without a byte order mark.

    ValueError where it is none; also where an object gives a key twice, on whose value readers
    disagree, a number is NaN or infinite, or a text holds half a character (a lone surrogate),
    which no file or tokenizer takes.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\u" in text:  # The only way to half a character in what was UTF-8.
        for key, part in value.items() if isinstance(value, dict) else [("", value)]:
            if found := _HALF.search(json.dumps([key, part], ensure_ascii=False)):
                raise ValueError(f"{key or 'a text'} holds half a character ({found[0]!a})")
    return value


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes, half a character as U+FFFD; ValueError for NaN and infinity."""
    return whole(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent))


def whole(text: str) -> str:
    """``text`` with U+FFFD for half a character (a lone surrogate), which a model may write."""
    return _HALF.sub("\ufffd", text)


def finite(value: Any) -> Any:
    """The same mappings, lists and values, with None for numbers that aren't finite."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = [key for key in values if keys.count(key) > 1]
        raise ValueError(f"an object gives {', '.join(repeated)} twice")
    return values


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number; write null where there is none")


def _finite(digits: str) -> float:
    return number if math.isfinite(number := float(digits)) else _no_number(digits)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its name when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    prefix = f".{path.name}{TEMPORARY}"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    temporary = Path(name)
    try:
        with _in_use(handle):
            yield temporary
            _follow_umask(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A temporary directory, renamed to the new ``path`` when the block ends well."""
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    prefix = f".{path.name}{TEMPORARY}"
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    try:
        with _in_use(os.open(temporary, os.O_RDONLY)):
            yield temporary
            for part in (temporary, *temporary.rglob("*")):
                _follow_umask(part)
            if path.exists():
                path.rmdir()
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _in_use(handle: int) -> Iterator[None]:
    """Marks a temporary file or directory as somebody's, for as long as this process lives."""
    try:
        with suppress(OSError):  # Where there are no locks, leftovers stay.
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Removes what processes that were killed have left of earlier tries at ``path``."""
    for left in path.parent.glob(f".{glob.escape(path.name)}{TEMPORARY}*"):
        with suppress(OSError):
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(handle)


def _follow_umask(path: Path) -> None:
    """tempfile and some libraries make private files; a result is as open as any other new one."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def refuse_existing(path: Path) -> None:
    """Raises GplanError where ``path`` already holds something."""
    if path.is_file():
        raise GplanError(f"{path} is a file; name a new directory for the output.")
    if path.is_dir() and any(entry.name != LOCK for entry in path.iterdir()):
        raise GplanError(
            f"{path} is not empty and is never overwritten; name a new directory or remove it."
        )


def report_path(out: str | Path) -> Path:
    """Where the counts and settings of what is in ``out`` are kept: x.csv -> x.report.json."""
    return Path(out).with_suffix(".report.json")


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as indented UTF-8 JSON, atomically; ValueError where it holds a NaN."""
    write_text(path, json_text(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file; GplanError names the file where it is missing or broken."""
    try:
        return parse_json(Path(path).read_bytes())
    except FileNotFoundError:
        raise GplanError(f"{path} does not exist.") from None
    except ValueError as error:
        raise GplanError(f"{path} is not valid UTF-8 JSON: {error}.") from None


def strict_json(text: str | bytes, what: str) -> Any:
    """The JSON value that ``text`` is, by the standard: one value and nothing around it.

    GplanError also where an object gives a key twice, on whose value readers would disagree, a
    number is NaN or infinite, or a text holds half a character.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        raise GplanError(f"{what} is not valid JSON: {error}") from None


def write_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Writes one compact JSON object a line, atomically."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json_text(row) + "\n")


def read_jsonl(path: str | Path) -> Iterator[Any]:
    """Yields the objects of a JSONL file; GplanError names the line that is broken."""
    try:
        for number, value in json_lines(path):
            if isinstance(value, ValueError):
                raise GplanError(f"{path}, line {number}: not UTF-8 JSON ({value}).")
            yield value
    except FileNotFoundError:
        raise GplanError(f"{path} does not exist.") from None


def read_records(
    path: str | Path, texts: Sequence[str], mend: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSONL file, numbered from 1; RowError where one lacks one of these texts."""
    for number, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict):
            raise RowError(path, number, None, "is not a JSON object", mend)
        for key in texts:
            if not isinstance(row.get(key), str):
                raise RowError(path, number, key, "is missing or not a string", mend)
        yield number, row


def json_lines(path: str | Path) -> Iterator[tuple[int, Any | ValueError]]:
    """Yields the number of each line that isn't blank, and its JSON value or what is wrong."""
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, parse_json(line)
                except ValueError as error:
                    yield number, error


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    if not Path(path).is_file():
        raise GplanError(f"{path} does not exist or is not a file.")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: str | Path) -> str:
    """SHA-256 over the names and contents of all files below ``folder``; GplanError where none."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise GplanError(f"{folder} is not a model directory: it is missing or empty.")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of what JSON can write, in hexadecimal digits; the order of keys is no part of it."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
