"""What a directory of planned parts says of itself, and how several are put together.

OUT/part-0000000.jsonl   answers to the first rows of the file, part-0000001 to as many after them
OUT/manifest.json        what they are made from; once all parts are there, their hashes too

A part is a function of its rows and of what the manifest says, so the parts of shards are those of
an undivided run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gplan_jax.foundation.config import Config, parse_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, file_digest, read_json, write_json

MANIFEST = "manifest.json"


class PartFile(Config):
    """A part that is there, its answers (one a row, or the best of each row) and its hash."""

    file: str
    answers: int
    sha256: str


class Manifest(Config):
    """See above; all but ``parts`` stands from the first moment on."""

    run: dict[str, Any]  # all that answers depend on
    shard: str | None  # "2/4", None for all of the file
    devices: str  # the kind that the first run had
    parts: list[PartFile] | None = None

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a directory; GplanError where it is broken."""
        return parse_config(cls, read_json(folder / MANIFEST), source=str(folder / MANIFEST))

    def write(self, folder: Path) -> None:
        """Writes ``folder/manifest.json``."""
        write_json(folder / MANIFEST, self.model_dump())


def differences(one: Manifest, other: Manifest, *, shards: bool = True) -> str:
    """The settings in which two directories differ, and whether as shards; "" for none."""
    first, second = ({**m.run, "shard": shards and m.shard} for m in (one, other))
    return ", ".join(key for key in first | second if first.get(key) != second.get(key))


def merge_shards(folder: str | Path, out: str | Path) -> Manifest:
    """Copies the parts of all shards in the directories below ``folder`` into the new ``out``.

    What is there then is what an undivided run writes, byte for byte.

    Raises:
        GplanError: no shard is there, one is missing, doubled, unfinished or changed since, or they
            are of different models, data or settings; nothing is written.
    """
    shards: dict[str, tuple[Path, Manifest]] = {}
    for path in sorted(path.parent for path in Path(folder).glob(f"*/{MANIFEST}")):
        shard = Manifest.read(path)
        if shard.shard is None or shard.parts is None:
            state = "not finished" if shard.parts is None else "no shard, but plans of a whole file"
            raise GplanError(f"{path} is {state}; run its command again, or move it elsewhere.")
        if shard.shard in shards:
            other, _ = shards[shard.shard]
            raise GplanError(f"Shard {shard.shard} is there twice, {other} and {path}; remove one.")
        shards[shard.shard] = path, shard
        first_path, first = next(iter(shards.values()))
        if what := differences(first, shard, shards=False):
            raise GplanError(
                f"{path} and {first_path} don't belong together: they differ in {what}. Plan that "
                "shard again, or move it elsewhere."
            )
    if not shards:
        raise GplanError(f"{folder} holds no shards; their directories stand there side by side.")
    of = str(first.shard).partition("/")[2]
    names = [f"{number}/{of}" for number in range(1, int(of) + 1)]
    if odd := set(names) ^ set(shards):
        raise GplanError(
            f"{folder} should hold the shards 1/{of} to {of}/{of} and no others; at fault are "
            f"{', '.join(sorted(odd))}: plan them, or move them elsewhere."
        )
    parts: list[PartFile] = []
    with atomic_directory(out) as together:
        for path, shard in map(shards.__getitem__, names):
            for part in shard.parts or ():
                source = path / part.file
                if not source.is_file() or file_digest(source) != part.sha256:
                    raise GplanError(
                        f"{source} is missing or was changed since it was planned; remove it and "
                        "run the command of its shard again."
                    )
                shutil.copyfile(source, together / part.file)
                parts.append(part)
        merged = first.model_copy(update={"shard": None, "parts": parts})
        merged.write(together)
    return merged
