"""Rows of a file with their token ids on disk: made once, by all cores, for every run and epoch.

CACHE/tokens-KEY/rows.array_record   a record a row: ids of its pieces (int32), then the row as JSON
CACHE/tokens-KEY/index.npz           lengths_NxP of the pieces, kinds_N of the rows
CACHE/tokens-KEY/content.json        the kinds, the system prompt, what was found wrong, a digest

KEY is a hash of all that the ids depend on: another file of rows, tokenizer or prompt has another.
The folder appears whole or not at all, and one process makes it while others wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

import gplan_jax
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.pieces import NotCut, cut_row, whole_row
from gplan_jax.data.tasks.task import Example, Mode, Task
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows, OnError
from gplan_jax.foundation.files import (
    atomic_directory,
    file_digest,
    json_digest,
    read_json,
    write_json,
)
from gplan_jax.foundation.paths import alone_in
from gplan_jax.foundation.processes import core_count, map_in_processes
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.strict_json import json_text
from gplan_jax.objectives.curriculum import BlockOrder
from gplan_jax.reasoning import write_response

ROWS, INDEX, CONTENT = "rows.array_record", "index.npz", "content.json"
CHUNK = 128  # rows that a process takes at a time
ALONE_UP_TO = 2048  # rows that are done before other processes would have started
MOST_PROCESSES = 16  # more than one process can read rows for

Kind = tuple[tuple[str, ...], bool]
"""Of a row: the names of its blocks, and whether it has their texts."""
Tokenized = tuple[list[bytes], np.ndarray, list[Kind]]
"""Records of some rows, their lengths_CxP, their kinds."""


class TokenizedRows(Sequence[Example]):
    """The rows of a folder that ``open_rows`` made; only what is asked for is read."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self._task = folder, task
        try:
            content = read_json(folder / CONTENT)
            with np.load(folder / INDEX) as index:
                self.lengths_NxP, self.kinds_N = index["lengths_NxP"], index["kinds_N"]
            self._records = grain.sources.ArrayRecordDataSource(str(folder / ROWS))
            if len(self._records) != len(self.kinds_N):
                raise ValueError(f"{len(self._records)} records for {len(self.kinds_N)} rows")
        except Exception as error:  # Readers of a file that is cut off raise many kinds.
            raise self._damaged(error) from None
        self.kinds: list[Kind] = [(tuple(names), worded) for names, worded in content["kinds"]]
        self.whole: bool = content["whole"]  # whether responses are whole pieces
        self.system: str = content["system"]
        self.digest: str = content["digest"]  # of all texts that training depends on
        self.faults: dict[str, Any] = content["faults"]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (TokenizedRows, (self.folder, self._task))  # reader processes open it themselves

    def __len__(self) -> int:
        return len(self.kinds_N)

    def __getitem__(self, row: int) -> Example:  # type: ignore[override]
        if row >= len(self):
            raise IndexError(row)
        text = self._record(row)[4 * int(self.lengths_NxP[row].sum()) :]
        key, cells, blocks, names, answer = json.loads(text)
        context = self._task.context_type(*cells)
        return Example(key, context, tuple(map(tuple, blocks)), tuple(names), answer)

    def pieces(self, row: int) -> list[np.ndarray]:
        """int32 ids of each of a row's pieces; see ``pieces``."""
        ends = self.lengths_NxP[row].cumsum().tolist()
        ids = np.frombuffer(self._record(row), np.int32, count=ends[-1])
        return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _record(self, row: int) -> bytes:
        try:
            return self._records[row]
        except Exception as error:  # of the library that reads it
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> GplanError:
        return GplanError(
            f"The token ids in {self.folder} are damaged ({error}). Remove the folder, and they "
            "are made again."
        )


def open_rows(
    path: str | Path,
    cache: Path,
    *,
    encoder: ChatEncoder,
    task: Task,
    mode: Mode,
    order: BlockOrder,
    faulty: FaultyRows | None = None,
) -> TokenizedRows:
    """The rows of a file, tokenized now or before.

    They are the same for every ``mode`` and ``order``, unless responses have to be whole pieces.

    Raises:
        GplanError: as ``Task.read``; the cache is damaged; a process that tokenizes was killed.
    """
    faulty = faulty or FaultyRows()
    key = [
        *(gplan_jax.__version__, Path(path).suffix, file_digest(path), encoder.fingerprint),
        *(encoder.latents.to_dict(), task.name, task.response, task.prompt_sources),
        faulty.on_error,
    ]
    works = [_Work(encoder, task), _Work(encoder, task, (mode, order))]
    digests = [json_digest(key), json_digest([*key, mode, order.model_dump()])]
    folders = [cache / f"tokens-{digest[:16]}" for digest in digests]
    if not any(folder.is_dir() for folder in folders):
        try:
            _write(folders[0], path, works[0], faulty.on_error)
        except NotCut:
            _write(folders[1], path, works[1], faulty.on_error)
    rows = TokenizedRows(next(folder for folder in folders if folder.is_dir()), task)
    faulty.add_known(path, rows.faults)
    return rows


@dataclass(frozen=True)
class _Work:
    """Tokenizes rows, given with their numbers, in whichever process."""

    encoder: ChatEncoder
    task: Task
    whole: tuple[Mode, BlockOrder] | None = None  # where responses are whole pieces

    def __call__(self, rows: Sequence[tuple[int, Example]]) -> Tokenized:
        records, lengths, kinds = [], [], list[Kind]()
        users = self.encoder.user_ids([self.task.prompt(row.context) for _, row in rows])
        for (number, row), user_ids in zip(rows, users, strict=True):
            try:
                if self.whole:
                    mode, order = self.whole
                    pieces = whole_row(row, user_ids, self.encoder, mode=mode, order=order)
                else:
                    pieces = cut_row(row, user_ids, self.encoder, number=number)
            except GplanError as error:  # its plan is longer than the latent vocabulary, say
                raise GplanError(f"The row with id {row.id}: {error}") from None
            cells = [getattr(row.context, field.name) for field in fields(row.context)]
            text = json_text([row.id, cells, row.blocks, row.block_names, row.answer])
            records.append(np.concatenate(pieces).tobytes() + text.encode())
            lengths.append([len(piece) for piece in pieces])
            kinds.append((row.block_names, bool(row.blocks)))
        return records, _padded(lengths), kinds


def _write(folder: Path, path: str | Path, work: _Work, on_error: OnError) -> None:
    """Makes the folder, unless another process has made it meanwhile; NotCut as ``cut_row``."""
    faulty, digest = FaultyRows(on_error), hashlib.sha256()
    system, kinds = "", dict[Kind, int]()
    lengths, kinds_N = list[np.ndarray](), list[int]()

    def numbered() -> Iterator[tuple[int, Example]]:
        for number, row in enumerate(work.task.read(path, work.encoder.latents, faulty)):
            nonlocal system
            if number == 0:
                system = work.task.prompt(row.context).system
            spelt = write_response(row.blocks, row.answer, work.encoder.latents)
            texts = json.dumps([*astuple(row.context), spelt], ensure_ascii=False)
            digest.update(texts.encode())
            yield number, row

    with alone_in(folder, wait=True):
        if folder.is_dir():
            return
        rows = numbered()
        first = list(islice(rows, ALONE_UP_TO))
        rest = chain(first, rows)
        chunks = iter(lambda: list(islice(rest, CHUNK)), [])
        processes = min(core_count(), MOST_PROCESSES) if len(first) == ALONE_UP_TO else 1
        if processes > 1:
            tokenized = map_in_processes(work, chunks, processes=processes)
        else:
            tokenized = map(work, chunks)
        with atomic_directory(folder) as temporary, ProgressBar("tokenizing rows", None) as bar:
            writer = ArrayRecordWriter(str(temporary / ROWS), "group_size:1,uncompressed")
            try:
                for records, lengths_CxP, chunk_kinds in tokenized:
                    for record in records:
                        writer.write(record)
                    lengths.append(lengths_CxP)
                    kinds_N += [kinds.setdefault(kind, len(kinds)) for kind in chunk_kinds]
                    bar.advance(steps=len(records))
            finally:
                writer.close()
            np.savez(
                temporary / INDEX,
                lengths_NxP=_padded([line for part in lengths for line in part]),
                kinds_N=np.asarray(kinds_N, np.int32),
            )
            content = {
                "kinds": list(kinds),
                "whole": work.whole is not None,
                "system": system,
                "digest": digest.hexdigest(),
                "faults": faulty.to_dict(),
            }
            write_json(temporary / CONTENT, content)


def _padded(lengths: Sequence[Sequence[int]]) -> np.ndarray:
    """int32, filled up with zeros on the right."""
    padded = np.zeros((len(lengths), max(map(len, lengths))), np.int32)
    for line, values in zip(padded, lengths, strict=True):
        line[: len(values)] = values
    return padded
