"""Rows as a random-access training set: a row and a stage give token ids and sections.

Token ids of a file's rows lie on disk, made once, by all cores, for every run and epoch:

CACHE/tokens-KEY/rows.array_record   a record a row: ids of its pieces (int32), then the row as JSON
CACHE/tokens-KEY/index.npz           lengths_NxP of the pieces, kinds_N of the rows
CACHE/tokens-KEY/content.json        the kinds, what was found wrong, a digest of all texts

KEY is a hash of all that the ids depend on: another file of rows, tokenizer or prompt has another.
The folder appears whole or not at all, and one process makes it while others wait.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

import gplan_jax
from gplan_jax.data.encoding import ChatEncoder, EncodedResponse
from gplan_jax.data.pieces import (
    USER,
    cut_row,
    parts_of,
    response_layout,
    response_text,
    shown_blocks,
)
from gplan_jax.data.tasks.task import Example, Mode, Task
from gplan_jax.foundation import GplanError, RowError, files
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.paths import alone_in
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.streams import cores, map_in_processes
from gplan_jax.objectives.curriculum import FORWARD, BlockOrder
from gplan_jax.reasoning import PLAN_SECTION, REASONING_SECTION, Prompt, write_response

ROWS, INDEX, CONTENT = "rows.array_record", "index.npz", "content.json"
CHUNK = 128  # rows that a process takes at a time
ALONE_UP_TO = 2048  # rows that are done before other processes would have started
MOST_PROCESSES = 16  # more than one process can read rows for

Kind = tuple[tuple[str, ...], bool, bool]
"""Of a row: the names of its blocks, whether it has their texts, whether it is cut into pieces."""


class TokenizedRows(Sequence[Example]):
    """The rows of a folder that ``open_rows`` made; only what is asked for is read."""

    def __init__(self, folder: Path, task: Task) -> None:
        self.folder, self._task = folder, task
        try:
            content = files.read_json(folder / CONTENT)
            with np.load(folder / INDEX) as index:
                self.lengths_NxP, self.kinds_N = index["lengths_NxP"], index["kinds_N"]
            self._records = grain.sources.ArrayRecordDataSource(str(folder / ROWS))
            if len(self._records) != len(self.kinds_N):
                raise ValueError(f"{len(self._records)} records for {len(self.kinds_N)} rows")
        except Exception as error:  # Readers of a file that is cut off raise many kinds.
            raise self._damaged(error) from None
        self.kinds: list[Kind] = [(tuple(names), *flags) for names, *flags in content["kinds"]]
        self.digest, self.errors, self.warned = (content[k] for k in ("digest", "errors", "warned"))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (TokenizedRows, (self.folder, self._task))  # reader processes open it themselves

    def __len__(self) -> int:
        return len(self.kinds_N)

    def __getitem__(self, row: int) -> Example:  # type: ignore[override]
        if row >= len(self):
            raise IndexError(row)
        text = self._record(row)[4 * int(self.lengths_NxP[row].sum()) :]
        key, cells, blocks, names, answer = json.loads(text)
        context = self._task.context_of(cells)
        return Example(key, context, tuple(map(tuple, blocks)), tuple(names), answer)

    def pieces(self, row: int) -> list[np.ndarray]:
        """int32 ids of each of a row's pieces; see ``cut_row``."""
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
    path: str | Path, cache: Path, *, encoder: ChatEncoder, task: Task, faulty: FaultyRows
) -> TokenizedRows:
    """The rows of a file, tokenized now or before.

    GplanError as ``Task.read``; also where the cache is damaged, or a tokenizing process was
    killed.
    """
    key = files.json_digest(
        [
            *(gplan_jax.__version__, Path(path).suffix, files.file_digest(path)),
            *(encoder.fingerprint, encoder.latents.to_dict(), faulty.on_error),
            *(task.name, task.response, task.prompt_sources),
        ]
    )
    folder = cache / f"tokens-{key[:16]}"
    if not folder.is_dir():
        with alone_in(folder, wait=True):
            if not folder.is_dir():  # another process may have made it meanwhile
                _write(folder, path, _Tokenizer(encoder, task), FaultyRows(faulty.on_error))
    rows = TokenizedRows(folder, task)
    for error in rows.errors:
        faulty.add(RowError(path, *error))
    faulty.warned |= rows.warned
    return rows


@dataclass(frozen=True)
class _Tokenizer:
    """Makes records of rows that come with their numbers; called in whichever process."""

    encoder: ChatEncoder
    task: Task

    def __call__(
        self, rows: Sequence[tuple[int, Example]]
    ) -> tuple[list[bytes], list[list[int]], list[Kind]]:
        records, lengths, kinds = [], [], list[Kind]()
        users = self.encoder.user_ids([self.task.prompt(row.context) for _, row in rows])
        for (number, row), user_ids in zip(rows, users, strict=True):
            pieces = cut_row(row, user_ids, self.encoder, number=number)
            content = [row.id, row.texts, row.blocks, row.block_names, row.answer]
            text = json.dumps(content, ensure_ascii=False)
            records.append(np.concatenate(pieces).tobytes() + text.encode())
            lengths.append([len(piece) for piece in pieces])
            kinds.append((row.block_names, bool(row.blocks), len(pieces) > 1))
        return records, lengths, kinds


def _write(folder: Path, path: str | Path, tokenizer: _Tokenizer, faulty: FaultyRows) -> None:
    latents, digest = tokenizer.encoder.latents, hashlib.sha256()
    kinds, kinds_N, lengths = dict[Kind, int](), list[int](), list[list[int]]()

    def numbered() -> Iterator[tuple[int, Example]]:
        for number, row in enumerate(tokenizer.task.read(path, latents, faulty)):
            spelt = write_response(row.blocks, row.answer, latents)
            digest.update(json.dumps([*row.texts, spelt], ensure_ascii=False).encode())
            yield number, row

    rows = numbered()
    first = list(islice(rows, ALONE_UP_TO))
    processes = min(cores(), MOST_PROCESSES)
    rest = chain(first, rows)
    chunks = iter(lambda: list(islice(rest, CHUNK)), [])
    if len(first) == ALONE_UP_TO and processes > 1:
        tokenized = map_in_processes(tokenizer, chunks, processes=processes)
    else:
        tokenized = map(tokenizer, chunks)
    with files.atomic_directory(folder) as temporary, ProgressBar("tokenizing rows", None) as bar:
        writer = ArrayRecordWriter(str(temporary / ROWS), "group_size:1,uncompressed")
        for records, row_lengths, row_kinds in tokenized:
            for record in records:
                writer.write(record)
            lengths += row_lengths
            kinds_N += [kinds.setdefault(kind, len(kinds)) for kind in row_kinds]
            bar.advance(steps=len(records))
        writer.close()
        lengths_NxP = np.zeros((len(lengths), max(map(len, lengths))), np.int32)
        for line, values in zip(lengths_NxP, lengths, strict=True):
            line[: len(values)] = values
        np.savez(temporary / INDEX, lengths_NxP=lengths_NxP, kinds_N=np.asarray(kinds_N, np.int32))
        content = {
            "kinds": list(kinds),
            "errors": [(e.row, e.column, e.problem, e.mend) for e in faulty.errors],
            "warned": faulty.warned,
            "digest": digest.hexdigest(),
        }
        files.write_json(temporary / CONTENT, content)


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows, tokenized, with all that puts a prompt and a response together."""

    examples: TokenizedRows  # on disk; each has reasoning in CoT-SFT, PICD and ICoT
    encoder: ChatEncoder
    task: Task  # prompts, and what they are cut to; a response is never cut
    mode: Mode  # what responses hold
    order: BlockOrder = FORWARD  # in which blocks are hidden

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        encoder: ChatEncoder,
        task: Task,
        mode: Mode,
        cache: Path,
        order: BlockOrder = FORWARD,
        faulty: FaultyRows | None = None,
    ) -> TrainingSet:
        """Reads a data file and checks every row against the task and the mode.

        ``cache`` is the folder that keeps the token ids; where it has them, nothing is read again.
        """
        if mode.response == "latent":
            encoder.require_latents()
        faulty = faulty or FaultyRows()
        rows = open_rows(path, cache, encoder=encoder, task=task, faulty=faulty)
        fit = [worded if mode.reads_reasoning else bool(names) for names, worded, _ in rows.kinds]
        bare = len(rows) - int(np.asarray(fit)[rows.kinds_N].sum())
        if bare and mode is not Mode.DIRECT_SFT:
            raise GplanError(
                f"{path}: {bare} of {len(rows)} rows have an answer without the reasoning that "
                f"mode={mode} trains on. {task.reasoning_mend}"
            )
        return cls(rows, encoder, task, mode, order)

    def __len__(self) -> int:
        return len(self.examples)

    def row_id(self, row: int) -> str:
        return self.examples[row].id

    def content_digest(self) -> str:
        """A hash of the texts of every row that training depends on."""
        return self.examples.digest

    @property
    def most_blocks(self) -> int:
        """The most reasoning blocks of a row, 0 where responses hold none."""
        return max(len(names) for names, *_ in self.examples.kinds) * self.mode.reads_reasoning

    def response_text(self, row: int, stage: int) -> str:
        """The response at compression stage g: blocks that ``order`` hides are latent or gone."""
        example = self.examples[row]
        shown = shown_blocks(self.mode, self.order, example.block_names, stage)
        return response_text(example, shown, self.encoder)

    @cached_property
    def first_prompt(self) -> Prompt:
        """The prompt of the first row; all have its system part."""
        return self.task.prompt(self.examples[0].context)

    @cached_property
    def prefix_ids(self) -> np.ndarray:
        """int32 [P]: what every row's prompt begins with, its system part."""
        return self.encoder.system_ids(self.first_prompt)

    def tokenize(self, row: int, stage: int) -> tuple[np.ndarray, EncodedResponse]:
        """Prompt ids and response of a row at a stage, put together from the row's pieces.

        They are what tokenizing the whole texts gives; the prompt is the same at all stages.
        """
        pieces = self.examples.pieces(row)
        prompt_ids = self.encoder.around_user(
            self.first_prompt, pieces[USER], max_length=self.task.most_prompt_tokens
        )
        names, _, cut = self.examples.kinds[self.examples.kinds_N[row]]
        if not cut:
            return prompt_ids, self.encoder.response(self.response_text(row, stage))
        shown = shown_blocks(self.mode, self.order, names, stage)
        *reasoning, plan = parts_of(response_layout(self.encoder, shown), pieces)
        ids = np.concatenate([*reasoning, plan, [self.encoder.end_id]], dtype=np.int32)
        sections = np.full(len(ids), PLAN_SECTION, np.int8)
        sections[: len(ids) - len(plan) - 1] = REASONING_SECTION
        return prompt_ids, EncodedResponse(ids, sections)

    def lengths(self, stages: int) -> np.ndarray:
        """int32 [N, stages, 2]: tokens of prompt and of response for every row and stage."""
        lengths_NxP, kinds_N = self.examples.lengths_NxP, self.examples.kinds_N
        table_NxGx2 = np.zeros((len(self), stages, 2), np.int32)
        no_user = np.zeros(0, np.int32)
        constant = len(self.encoder.around_user(self.first_prompt, no_user, max_length=sys.maxsize))
        table_NxGx2[..., 0] = constant + lengths_NxP[:, USER, None]
        if self.task.cuts_prompts:
            table_NxGx2[..., 0] = table_NxGx2[..., 0].clip(max=self.task.prompt_length)
        for number, (names, _, cut) in enumerate(self.examples.kinds):
            [alike_M] = np.nonzero(kinds_N == number)
            for stage in range(stages):
                shown = shown_blocks(self.mode, self.order, names, stage)
                try:
                    layout = response_layout(self.encoder, shown)
                except GplanError as error:  # its plan is longer than the latent vocabulary, say
                    name = self.row_id(int(alike_M[0]))
                    raise GplanError(f"The row with id {name}: {error}") from None
                if cut:
                    places = [part for part in layout if isinstance(part, int)]
                    constants = sum(len(part) for part in layout if not isinstance(part, int))
                    tokens_M = lengths_NxP[alike_M[:, None], places].sum(axis=1) + constants + 1
                else:
                    responses = (self.tokenize(row, stage)[1] for row in alike_M.tolist())
                    tokens_M = np.asarray([len(response.ids) for response in responses])
                table_NxGx2[alike_M, stage, 1] = tokens_M  # the end token among them
        return table_NxGx2
