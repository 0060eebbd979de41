"""Plans for a file of contexts of any length: read, planned and written in parts of so many rows.

A part is planned by itself: its rows go through a decoder of their own, and nothing that this one
learns reaches the next. So its bytes depend on its rows and the settings alone, whichever device or
machine plans it, before or after a kill; what is there already stays as it is. Memory holds the
rows of the parts that are being planned, one a device, and of as many that wait.

OUT/part-0000000.jsonl   answers to the first rows of the file, part-0000001 to as many after them
OUT/manifest.json        what they are made from; once all parts are there, their hashes too

The parts of shards are those of an undivided run.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import jax

import gplan_jax
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.registry import load_task
from gplan_jax.data.tasks.task import Task
from gplan_jax.foundation import files
from gplan_jax.foundation.config import Config, parse_config
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows, empty_data_set
from gplan_jax.foundation.files import (
    atomic_directory,
    file_digest,
    json_text,
    read_json,
    write_json,
)
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.row_files import ROW_MEND, cell_text, count_rows, import_parquet
from gplan_jax.foundation.streams import map_ordered
from gplan_jax.gsisr import RowForm, Sample
from gplan_jax.gsisr.row_form import public_form
from gplan_jax.inference.engine.planner import MAX_NEW_TOKENS, Answer, Planner
from gplan_jax.inference.engine.programs import PAGE
from gplan_jax.inference.engine.requests import DecodingMode

MANIFEST = "manifest.json"
PART_ROWS = 1000
Context = tuple[int, str, Any]  # a row's number in the file, its id and what prompts are made of
DEFAULTS = {
    option.name: option.default
    for option in inspect.signature(Planner.load).parameters.values()
    if option.kind is option.KEYWORD_ONLY
}
OF_TASK = ("template", "service", "prompt_length", "response")
# What columns of answers are to Parquet, where they are no text.
_TYPES = {
    **dict.fromkeys(("row", "rank"), "int64"),
    **dict.fromkeys(("exact", "latent_valid", "passed"), "bool"),
    "log_probability": "float64",
}


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


class _Stopped(Exception):
    """The command ends, so nobody wants the part that is being planned."""


def predict(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    contexts: Sequence[Context] | None = None,
    faulty: FaultyRows | None = None,
    shard: str | None = None,
    part_rows: int = PART_ROWS,
    output: Literal["jsonl", "parquet"] = "jsonl",
    devices: Sequence[jax.Device] | None = None,
    **options: Any,
) -> Manifest:
    """Plans the rows of ``data`` into ``out``, or those of them that are not there yet.

    The ``shard`` "i/n" is only the i-th of n equal ranges of whole parts, each of which answers
    ``part_rows`` rows. Each device has an engine; None takes all of this process. ``options`` are
    those of ``Planner.load``; without a ``mode``, answers that have a grammar are drafted. Only the
    ``contexts``, rows of ``data`` in order, are planned where they have been read already.

    Raises:
        GplanError: ``out`` holds something else, or plans of other inputs or settings.
        RowError: a row is faulty and is not to be left out. Finished parts stay.
    """
    data, out, faulty = Path(data), Path(out), faulty or FaultyRows()
    options = DEFAULTS | options | {"mode": options.get("mode")}
    task = load_task(Path(model), **{name: options[name] for name in OF_TASK})
    options["mode"] = options["mode"] or mode_of(task)
    options["max_new_tokens"] = options["max_new_tokens"] or MAX_NEW_TOKENS
    words = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard or "1/1")
    number, of = map(int, words.groups()) if words else (0, 0)
    if not 1 <= number <= of:
        raise GplanError(f"--shard {shard} is none; of four shards they are 1/4 to 4/4.")
    if not (rows := contexts[-1][0] if contexts else count_rows(data)):
        raise empty_data_set(data, [])

    # What is there already must be of the same inputs and settings.
    devices = devices or jax.local_devices()
    run = {
        "model": files.folder_hash(model),
        "data": files.file_digest(data),
        "rows": rows,
        "part_rows": part_rows,
        "output": output,
        "prompts": files.json_digest(task.prompt_sources),
        "prompt_length": task.prompt_length,
        "response": task.response,
        **{name: value for name, value in options.items() if name not in OF_TASK},
        "gplan_jax": gplan_jax.__version__,
        "jax": jax.__version__,
    }
    manifest = Manifest(run=run, shard=shard, devices=devices[0].device_kind)
    if (out / MANIFEST).is_file():
        found = Manifest.read(out)
        if what := differences(found, manifest):
            raise GplanError(
                f"{out} holds other plans: they differ in {what}. Name another --out, or remove "
                "that one to plan again."
            )
        if found.parts is not None and all((out / part.file).is_file() for part in found.parts):
            return found
    else:
        files.refuse_existing(out)
        manifest.write(out)

    total = -(-rows // part_rows)
    parts = range(total * (number - 1) // of, total * number // of)
    paths = {part: out / f"part-{part:07}.{output}" for part in parts}
    if missing := {part for part, path in paths.items() if not path.is_file()}:
        unplanned: Iterable[Context] = contexts or task.read_contexts(
            data, faulty, skip=min(missing) * part_rows
        )
        grouped = itertools.groupby(unplanned, lambda context: (context[0] - 1) // part_rows)
        until_last = itertools.takewhile(lambda part: part[0] <= max(missing), grouped)
        wanted = ((part, list(group)) for part, group in until_last if part in missing)
        idle: SimpleQueue[tuple[jax.Device, Planner]] = SimpleQueue()
        for device in devices:
            with jax.default_device(device):
                idle.put((device, Planner.load(model, **options)))
        stop, lock = threading.Event(), threading.Lock()

        def plan_part(part: int, contexts: Sequence[Context]) -> list[RowError]:
            """Plans and writes a part on an idle device; the faults of the rows it leaves out."""

            def on_row() -> None:
                if stop.is_set():
                    raise _Stopped
                with lock:
                    bar.advance(steps=1)

            device, planner = idle.get()
            try:
                with jax.default_device(device):
                    records, faults = plan_rows(planner, data, contexts, faulty.skips, on_row)
                if output == "jsonl":
                    files.write_jsonl(paths[part], records)
                else:
                    with files.atomic_write(paths[part]) as temporary:
                        table = answer_table(planner, records)
                        import_parquet().write_table(table, temporary)
            finally:
                idle.put((device, planner))
            return faults

        here = min(rows, parts.stop * part_rows) - parts.start * part_rows
        left = sum(min(part_rows, rows - part * part_rows) for part in missing)
        with ProgressBar("planning", here, start=here - left) as bar:
            try:
                for faults in map_ordered(
                    lambda part: asyncio.to_thread(plan_part, *part),
                    wanted,
                    at_once=len(devices),
                    window=2,
                ):
                    for fault in faults:
                        faulty.add(fault)
            finally:
                stop.set()
    written = [
        PartFile(file=path.name, answers=count_rows(path), sha256=files.file_digest(path))
        for path in paths.values()
        if path.is_file()  # None where all rows of a part are faulty.
    ]
    manifest = manifest.model_copy(update={"parts": written})
    manifest.write(out)
    return manifest


def mode_of(task: Task) -> DecodingMode:
    """How a task's answers are decoded unless it is said: drafted where they have a grammar."""
    free = not isinstance(task, GsisrTask) or task.response == "reasoning"
    return "unconstrained" if free else "drafted"


def load_planner(model: str | Path, **options: Any) -> Planner:
    """``Planner.load``; without a ``mode``, answers that have a grammar are drafted."""
    if not options.get("mode"):
        task = load_task(Path(model), **{name: options.get(name) for name in OF_TASK})
        options["mode"] = mode_of(task)
    return Planner.load(model, **options)


def contexts_of(
    columns: Mapping[str, Sequence[Any]], first: int = 1, form: RowForm | None = None
) -> list[Context]:
    """The contexts of a batch of another program's rows, numbered from ``first``.

    Cells are read as those of a file, and what pandas makes of an absent number is empty too.
    Columns that lack are empty, those that nobody knows are not looked at.

    Raises:
        GplanError: there is no id; RowError: a cell can't be read.
    """
    known = form or public_form()
    if (key := known.names["id"]) not in columns:
        raise GplanError(f"The batch has no column {key}; it has {', '.join(columns)}.")
    names = [name for name in known.columns if name in columns]
    contexts: list[Context] = []
    rows = zip(*(columns[name] for name in names), strict=True)
    for number, cells in enumerate(rows, start=first):
        texts = {}
        for name, cell in zip(names, cells, strict=True):
            try:
                texts[name] = "" if cell != cell else cell_text(cell)
            except ValueError as error:
                raise RowError("the batch", number, name, str(error), ROW_MEND) from None
        contexts.append((number, texts[key], Sample.from_context(texts, form)))
    return contexts


def plan_rows(
    planner: Planner,
    source: Path,
    contexts: Sequence[Context],
    skips: bool,
    on_row: Callable[[], None],
) -> tuple[list[dict[str, Any]], list[RowError]]:
    """Records of the answers to rows of a file, and the faults of rows that get none: their prompts
    can't be made, or leave no room for an answer. RowError for the first unless it ``skips`` them.
    """
    prompts, planned, faults = [], [], list[RowError]()
    room = planner.model.config.max_position_embeddings - planner.max_new_tokens - PAGE
    for number, row_id, context in contexts:
        try:
            prompt = planner.prompt(context, number - 1)
            if not planner.task.cuts_prompts and len(prompt.ids) > room:
                raise GplanError(
                    f"its prompt has {len(prompt.ids)} tokens, and beside an answer of "
                    f"{planner.max_new_tokens} the model has room for {room}"
                )
        except GplanError as error:
            faults.append(RowError(source, number, None, str(error).rstrip("."), ROW_MEND))
            if not skips:
                raise faults[0] from None
            continue
        prompts.append(prompt)
        planned.append((number, row_id, context))
    answers = planner.answers(prompts, planned[0][2], on_row=on_row) if prompts else []
    records = [
        _record(planner, number, row_id, rank, answer)
        for (number, row_id, _), found in zip(planned, answers, strict=True)
        for rank, answer in enumerate(found, start=1)
    ]
    return records, faults


def _record(
    planner: Planner, number: int, row_id: str, rank: int, answer: Answer
) -> dict[str, Any]:
    """One answer of a row; where there may be several, its rank and whether that is proven."""
    log = answer.log_probability
    return {
        "row": number,
        "id": row_id,
        **({"rank": rank, "exact": answer.exact} if planner.best else {}),
        **planner.task.read_answer(answer.text, planner.encoder),
        "text": answer.text,
        "log_probability": None if log is None else round(log, 6),
    }


def answer_table(planner: Planner, records: list[dict[str, Any]]) -> Any:
    """Records of ``plan_rows`` as a pyarrow table, in which plans are JSON text."""
    import pyarrow

    columns = _record(planner, 0, "", 1, Answer("", None))
    schema = pyarrow.schema([(name, _TYPES.get(name, "string")) for name in columns])
    for record in records:
        record |= {name: json_text(v) for name, v in record.items() if isinstance(v, list)}
    return pyarrow.Table.from_pylist(records, schema=schema)
