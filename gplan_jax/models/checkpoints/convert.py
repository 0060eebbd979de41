"""Hugging Face checkpoint -> GPlan model directory and back, one parameter in memory at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory
from gplan_jax.foundation.progress import track
from gplan_jax.models.checkpoints import hugging_face, model_directory
from gplan_jax.models.checkpoints.adapters import CONFIG, FOLDER, Adapter, read_adapter
from gplan_jax.models.checkpoints.hub import model_path, origin_of
from gplan_jax.models.checkpoints.tokenizer_files import (
    TokenizerExtension,
    check_size,
    check_tokenizer,
    extend_tokenizer,
)

_VOCABULARY_MULTIPLE = 128
_NOISE = 0.1  # of the spread of the real rows: new tokens start alike, but not the same
_ROWS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
    """What a conversion or export did."""

    directory: Path
    parameters: int  # number of weights; a tied embedding counts once
    dtype: str  # of the embedding
    tokens_added: int  # those that were new to the tokenizer
    new_tokens: dict[str, int]  # all asked-for (or recorded) ones and their ids
    rows_before: int  # of the embedding
    rows_after: int


def convert_checkpoint(
    hf_dir: str | Path,
    out_dir: str | Path,
    *,
    new_tokens: Sequence[str] = (),
    metadata: dict[str, Any] | None = None,
    seed: int = 0,
    adapter: str | Path | None = None,
    progress: bool = False,
) -> CheckpointReport:
    """Turns a Hugging Face Qwen3 checkpoint, a directory or hub id, into a GPlan model directory.

    New tokens take the ids after the tokenizer's, in their order. Their rows (of the embedding, and
    of an untied head) are the mean of the rows of existing tokens plus noise from ``seed``; all
    other weights keep their bytes and dtype. Where the ids do not fit, the matrices grow to a
    multiple of 128 rows. ``metadata`` is kept in gplan.json, beside the ``base``: name, revision
    and license, where known. ``out_dir`` appears whole or not at all. An ``adapter`` in PEFT's
    format is merged into the weights; its rows win over new ones, and where it brings a tokenizer,
    that replaces the checkpoint's.

    GplanError where the checkpoint is not whole, does not match its config, or its tokenizer has
    more ids than the embedding has rows; the adapter does not fit it (``read_adapter``) or gives a
    token another id; or ``out_dir`` holds something.
    """
    source = model_path(hf_dir)
    if model_directory.is_model_directory(source):
        mend = "it needs no conversion" if adapter is None else "gplan export it first"
        raise GplanError(f"{source} is a GPlan model directory already; {mend}.")
    config = model_directory.read_config(source)
    tensors = hugging_face.stored_tensors(source)
    hugging_face.check_tensors(tensors, config, source=str(source))
    folder = None if adapter is None else Path(adapter)
    brings_tokenizer = folder is not None and (folder / "tokenizer.json").is_file()
    extension = extend_tokenizer(source, () if brings_tokenizer else new_tokens)
    rows = config.vocab_size
    if extension is not None:
        check_size(extension.size_before, source / "tokenizer.json", rows=rows)
    if folder is not None and brings_tokenizer:
        ours = extension.tokenizer.get_vocab() if extension else {}
        extension = extend_tokenizer(folder, new_tokens)
        theirs = extension.tokenizer.get_vocab() if extension else {}
        if other := [token for token in ours if theirs.get(token) != ours[token]]:
            raise GplanError(
                f"{folder / 'tokenizer.json'} is of another vocabulary: {other[0]!r} is "
                f"{theirs.get(other[0])} there and {ours[other[0]]} in {source} ({len(other)} "
                f"tokens differ); give the base that {CONFIG} names."
            )
    if extension is not None and extension.size_after > rows:
        rows = -(-extension.size_after // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
    low_rank = None if folder is None else read_adapter(folder, config, rows=rows)
    tensors = tensors if low_rank is None else low_rank.merged_into(tensors)
    dtype = tensors[hugging_face.EMBEDDING].dtype
    by_path = {rule.path: rule for rule in hugging_face.rules(config)}

    def read(path: str) -> np.ndarray:
        parameter = hugging_face.read_parameter(by_path[path], tensors, config)
        if path in ("embedding", "head") and extension is not None:
            rng = np.random.default_rng([seed, path == "head"])
            parameter = _with_new_rows(parameter, rows, extension, rng)
        return low_rank.put_rows(path, parameter) if low_rank else parameter

    origin = origin_of(source)
    record = model_directory.ModelRecord(
        new_tokens=extension.ids if extension else {},
        original_tokens=extension.size_before if extension else None,
        original_vocab_size=config.vocab_size,
        ships_lm_head=hugging_face.LM_HEAD in tensors,
        source_dtype=str(dtype),
        metadata=({"base": origin} if origin else {}) | (metadata or {}),
    )
    with atomic_directory(out_dir) as target:
        model_directory.copy_companions(source, target, vocab_size=rows, dtype=dtype)
        if folder is not None:
            model_directory.copy_tokenizer(folder, target)
        if extension:
            extension.write(target)
        record.write(target)
        written = model_directory.save_parameters(target / model_directory.PARAMS, by_path, read)
        _exhaust(written, "converting", len(by_path), progress)
    return CheckpointReport(
        directory=Path(out_dir),
        parameters=hugging_face.parameter_count(dataclasses.replace(config, vocab_size=rows)),
        dtype=str(dtype),
        tokens_added=len(extension.added) if extension else 0,
        new_tokens=record.new_tokens,
        rows_before=config.vocab_size,
        rows_after=rows,
    )


def export_checkpoint(
    model_dir: str | Path,
    out_dir: str | Path,
    *,
    rows_of: Adapter | None = None,
    add: Callable[[Path], None] | None = None,
    progress: bool = False,
) -> CheckpointReport:
    """Turns a GPlan model directory into a Hugging Face checkpoint that transformers loads.

    Weights that training has not touched come out byte for byte as they were converted;
    ``lm_head.weight`` of a tied model is written only where its source held it; rows of embedding
    and head that an adapter (``rows_of``) has trained take their places. ``add`` writes more files
    into the directory before it appears, whole or not at all. GplanError where
    ``model_dir`` is not whole, its tokenizer has more ids than the embedding has rows, or
    ``out_dir`` holds something.
    """
    source = Path(model_dir)
    record, config = model_directory.ModelRecord.read(source), model_directory.read_config(source)
    check_tokenizer(source, rows=config.vocab_size, needed=bool(record.new_tokens))
    store = model_directory.ParameterStore(source / model_directory.PARAMS, config)
    dtypes = store.dtypes

    def read(path: str) -> np.ndarray:
        return rows_of.put_rows(path, store.read(path)) if rows_of else store.read(path)

    tensors = hugging_face.checkpoint_tensors(
        read, dtypes, config, ships_lm_head=record.ships_lm_head
    )
    with atomic_directory(out_dir) as target:
        model_directory.copy_companions(
            source, target, vocab_size=config.vocab_size, dtype=dtypes["embedding"]
        )
        if add:
            add(target)
        _exhaust(hugging_face.write_sharded(target, tensors), "exporting", len(tensors), progress)
    return CheckpointReport(
        directory=Path(out_dir),
        parameters=hugging_face.parameter_count(config),
        dtype=str(dtypes["embedding"]),
        tokens_added=0,
        new_tokens=record.new_tokens,
        rows_before=record.original_vocab_size,
        rows_after=config.vocab_size,
    )


def export_adapter(
    model_dir: str | Path, out_dir: str | Path, *, rows_in_base: bool = False
) -> Adapter:
    """Writes the adapter that a run trained, and its tokenizer, for PEFT.

    vLLM refuses rows of the vocabulary. ``rows_in_base`` writes ``out_dir``/adapter without them
    and ``out_dir``/base, the checkpoint it was trained on with them; an adapter without rows needs
    that not. GplanError where the run trained no adapter, or its base is gone from its place.
    """
    source, out = Path(model_dir), Path(out_dir)
    if not (source / FOLDER).is_dir():
        raise GplanError(
            f"{source} has no {FOLDER}/: only a run with lora.rank leaves one; export its weights "
            "without --adapter."
        )
    config = model_directory.read_config(source)
    adapter = read_adapter(source / FOLDER, config, rows=config.vocab_size)
    with atomic_directory(out) as target:
        folder = target
        if rows_in_base and adapter.rows:
            export_checkpoint(adapter.base, target / "base", rows_of=adapter)
            adapter, folder = adapter.without_rows(str(out / "base")), target / FOLDER
        adapter.write(folder)
        model_directory.copy_tokenizer(source, folder)
    return adapter


def _with_new_rows(
    matrix_VxD: np.ndarray, rows: int, extension: TokenizerExtension, rng: np.random.Generator
) -> np.ndarray:
    """Returns the matrix with ``rows`` rows, those of added tokens and grown ones filled in."""
    fresh = sorted(extension.ids[token] for token in extension.added)
    fresh += [row for row in range(len(matrix_VxD), rows) if row not in set(fresh)]
    if not fresh:
        return matrix_VxD
    # Mean row and standard deviation about it, in float64, some rows at a time.
    real_RxD = matrix_VxD[: extension.size_before]
    total_D, squares = np.zeros(real_RxD.shape[1]), 0.0
    for start in range(0, len(real_RxD), _ROWS_AT_ONCE):
        part = real_RxD[start : start + _ROWS_AT_ONCE].astype(np.float32)
        total_D += part.sum(axis=0, dtype=np.float64)
        squares += float(np.square(part).sum(dtype=np.float64))
    mean_D = total_D / len(real_RxD)
    spread = max(squares / real_RxD.size - float(np.square(mean_D).mean()), 0.0) ** 0.5
    noise = rng.standard_normal((len(fresh), matrix_VxD.shape[1]), dtype=np.float32)
    if rows > len(matrix_VxD):
        grown = np.empty((rows, matrix_VxD.shape[1]), matrix_VxD.dtype)
        grown[: len(matrix_VxD)] = matrix_VxD
        matrix_VxD = grown
    matrix_VxD[fresh] = (mean_D.astype(np.float32) + _NOISE * spread * noise).astype(
        matrix_VxD.dtype
    )
    return matrix_VxD


def _exhaust(names: Iterator[str], description: str, total: int, progress: bool) -> None:
    for _ in track(names, description, total) if progress else names:
        pass
