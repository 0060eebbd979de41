"""The directory of a run: made once, continued only when asked, never overwritten.

RUN/config.yaml     the config as it was resolved; a directory without it holds no run
RUN/inputs.json     fingerprints of rows, prompt, tokenizer and model
RUN/cache/          token ids of the rows
RUN/log.jsonl       a record a step; RUN/tensorboard the same for TensorBoard
RUN/checkpoints/    weights, optimizer, step and record of the newest and best steps
RUN/evaluation/     predictions and metrics of each evaluation
RUN/bad-batch-N.json  the rows of step N, whose loss was not finite
RUN/stalled-N.txt   the stacks of process N, where the watchdog ended it
RUN/best/           the model of the best evaluation, where checkpoint.keep_best asks for it
RUN/model/          the finished model directory: what evaluate, plan and export read

CHECKPOINT/run/data.json holds the step, the next batch, the seed, the resolved config, fingerprints
of the inputs and a checksum of every array, so that a checkpoint can be judged without its run. All
that is random in a run is a function of the seed and of the step; there is no other random state.

Checksums of arrays are computed on their devices, equal on every mesh, host and file format. A
checkpoint stores them beside the arrays and compares them after reading: that covers the whole way
from device to file and back, where OCDBT checks only its own index and not the numbers, and a
flipped bit in them is read without a word. It costs one pass over the memory of each device
(milliseconds for gigabytes), where hashing the files would read all of them again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import yaml
from flax import nnx
from jax import Array

from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation import GplanError, files
from gplan_jax.foundation.config import parse_config, parse_yaml
from gplan_jax.foundation.files import json_digest
from gplan_jax.foundation.paths import LOCK
from gplan_jax.models import Qwen3
from gplan_jax.training.steps.setup import CACHE_NAME, Run
from gplan_jax.training.steps.train_config import TrainConfig

RECORD_FILE = Path("run", "data.json")
# A state of another model or vocabulary has no meaning here; rows and prompts a user may change.
ARCHITECTURE = {"model": "model", "tokenizer": "tokenizer"}
CONTENT = {
    "rows": "training rows (data.train, or what data.on_error leaves out of them)",
    "prompt": "prompt template or intent library",
    "cut": "what prompts are cut to (data.prompt_length, or by the longest response)",
}
UNCUT = json_digest(None)
Record = dict[str, Any]
CONFIG_NAME, INPUTS_NAME = "config.yaml", "inputs.json"
CHECKPOINTS_NAME = "checkpoints"
MODEL_NAME, BEST_NAME = "model", "best"

# Which keys of the config may change when a run is resumed, and what that does to the result.
# Free ones cannot touch the weights: where things lie, what is logged, kept and evaluated.
FREE = (
    *("output", "checkpoint", "logging", "evaluation", "preference.reference_cache", "watchdog"),
    *("data.test", "data.cache", "data.threads", "data.workers"),
)
# The same sums in another order: equal to the tolerance of floating point, not in bits.
ROUNDING = (
    *("mesh", "accumulation_steps", "precision.remat", "precision.attention", "loss.vocab_chunk"),
    *("data.layout", "data.length_multiple", "data.response_multiple"),
)
# Names of files: their content is compared instead, see ``fingerprint_inputs``.
FILE_NAMES = ("model", "data.train", "data.service", "data.template", "data.on_error")
# Everything else is exact: the weights would be those of neither config.


@dataclass(frozen=True)
class ArrayDigest:
    """One array: its dtype, shape, ``checksum`` of bits and places, and whether all is finite."""

    dtype: str
    shape: tuple[int, ...]
    checksum: int
    finite: bool


def digest_arrays(arrays: Mapping[str, Array]) -> dict[str, ArrayDigest]:
    """The digest of each array; waits for the devices.

    ``checksum = sum_i mix(bits_i xor i * 0x9E3779B9) mod 2^32``, i the flat index and mix the
    finalizer of MurmurHash3. mix is a bijection, so one changed word always changes the sum; sums
    of integers do not depend on their order, so any sharding gives the same.
    """
    found = jax.device_get(_checksums(dict(arrays)))
    return {
        name: ArrayDigest(str(x.dtype), x.shape, int(found[name][0]), bool(found[name][1]))
        for name, x in arrays.items()
    }


def weight_checksums(model: Qwen3) -> list[int]:
    """The checksum of each of a model's weights, adapters left out, in a fixed order."""
    arrays = enumerate(jax.tree.leaves(nnx.state(model, nnx.Param)))
    return [d.checksum for d in digest_arrays({str(n): x for n, x in arrays}).values()]


@jax.jit
def _checksums(arrays: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Name -> checksum, and whether all is finite."""
    return {name: (_checksum(x), jnp.isfinite(x).all()) for name, x in arrays.items()}


def _checksum(x: Array) -> Array:
    # The bits as 32-bit words; a trailing axis holds the two halves of 64-bit numbers.
    if x.dtype == jnp.bool_:
        words = x.astype(jnp.uint32)
    else:
        word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[min(x.dtype.itemsize, 4)]
        words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    # The flat index of each word, without a reshape: that would gather a sharded array.
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    h = words ^ (index * jnp.uint32(0x9E3779B9))
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def fingerprint_inputs(run: Run) -> dict[str, str]:
    """Hashes of what a run reads: rows with labels, prompt and library, tokenizer, model shape,
    and what its prompts are cut to, if any is.

    Content and not paths: files may move. The weights that a run starts from count where adapters
    are trained on top of them or where they are the reference of preferences; otherwise a resumed
    run takes all weights from the checkpoint.
    """
    rows = run.training_set
    weights_stay = run.config.lora.rank or Mode(run.config.mode) is Mode.SCDPO
    weights = weight_checksums(run.model) if weights_stay else []
    return {
        "rows": rows.content_digest(),
        "prompt": json_digest(rows.task.prompt_sources),
        "cut": json_digest(rows.task.prompt_length) if run.full_prompts else UNCUT,
        "tokenizer": rows.encoder.fingerprint,
        "model": json_digest([dataclasses.asdict(run.model.config), weights]),
    }


def make_record(
    config: TrainConfig,
    inputs: Mapping[str, str],
    *,
    step: int,
    steps_per_epoch: int,
    digests: Mapping[str, ArrayDigest],
) -> Record:
    """The record of the checkpoint of ``step``, with a digest of itself."""
    record: Record = {
        "step": step,
        "steps_per_epoch": steps_per_epoch,
        "data": {"next_step": step},
        "random": {"seed": config.seed},
        "config": config.model_dump(),
        "inputs": dict(inputs),
        "arrays": {name: [d.dtype, list(d.shape), d.checksum] for name, d in digests.items()},
    }
    return record | {"digest": json_digest(record)}


def read_record(checkpoint: Path) -> Record:
    """A checkpoint's record; FileNotFoundError or ValueError where it is missing or damaged."""
    record = json.loads((checkpoint / RECORD_FILE).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.pop("digest", None) != json_digest(record):
        raise ValueError(f"{RECORD_FILE} is damaged")
    return record


def check_belongs(
    record: Record,
    checkpoint: Path,
    *,
    inputs: Mapping[str, str],
    steps_per_epoch: int,
    arrays: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
    """GplanError where this run could not go on from a checkpoint, whatever the user allows.

    It is of another model or tokenizer, counts its steps by other epochs, or holds other arrays.
    """
    others = [name for key, name in ARCHITECTURE.items() if record["inputs"][key] != inputs[key]]
    if others:
        raise GplanError(
            f"{checkpoint} is a checkpoint of another {' and '.join(others)} than "
            f"the config names (it was written with model={record['config']['model']}). Name that "
            "one, or start a new run in another directory with output=DIR."
        )
    if record["steps_per_epoch"] != steps_per_epoch:
        raise GplanError(
            f"{checkpoint} counts {record['steps_per_epoch']} steps an epoch and this config "
            f"{steps_per_epoch} (batch_size or the number of rows has changed), so rows would be "
            "skipped or seen twice. Start a new run; model=RUN/model begins from finished weights."
        )
    saved = {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in record["arrays"].items()}
    wanted = {name: (str(x.dtype), x.shape) for name, x in arrays.items()}
    if saved != wanted:
        odd = next(name for name in saved | wanted if saved.get(name) != wanted.get(name))
        raise GplanError(
            f"{checkpoint} holds other arrays than this run ({odd}: {saved.get(odd)} there, "
            f"{wanted.get(odd)} here). precision.params and the optimizer cannot change in a run; "
            "start a new one."
        )


def changed_content(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which of rows, prompt and its cut have other content than before, in words."""
    # Runs of before 2026-12 cut each prompt by its own response: the same only where none is cut.
    known = {"cut": UNCUT, **before} if before else now
    return [words for key, words in CONTENT.items() if known[key] != now[key]]


def wrong_arrays(record: Record, digests: Mapping[str, ArrayDigest]) -> Sequence[str]:
    """Names of the arrays that are not what was saved."""
    saved = record["arrays"]
    return [name for name, digest in digests.items() if saved[name][-1] != digest.checksum]


@dataclass(frozen=True)
class ConfigChanges:
    """Lines ``key: was a, now b`` by what they mean for the result."""

    free: tuple[str, ...] = ()
    rounding: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every change, the grave ones first."""
        return self.exact + self.rounding + self.free

    def describe(self) -> str:
        """What is logged before a run goes on with a changed config; "" where nothing changed."""
        texts = {
            "The result is that of neither config (--allow-changes)": self.exact,
            "The sums are the same in another order: equal to rounding, not bit for bit": (
                self.rounding
            ),
            "Without effect on the weights": self.free,
        }
        parts = ["\n    ".join([f"  {text}:", *lines]) for text, lines in texts.items() if lines]
        first = "The config has changed since the run was last started."
        return "\n".join([first, *parts]) if parts else ""


def compare_configs(before: TrainConfig, now: TrainConfig) -> ConfigChanges:
    """The differences of two configs. New file names are free: their content is compared."""
    found: dict[str, list[str]] = {"free": [], "rounding": [], "exact": []}
    for key, old, new in _differences(before.model_dump(), now.model_dump()):
        kind = "exact"
        for names, effect in ((ROUNDING, "rounding"), (FREE + FILE_NAMES, "free")):
            if any(f"{key}.".startswith(f"{name}.") for name in names):
                kind = effect
        found[kind].append(f"{key}: was {old!r}, now {new!r}")
    return ConfigChanges(**{kind: tuple(lines) for kind, lines in found.items()})


def _differences(
    before: dict[str, Any], now: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key, new in now.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def open_run(
    config: TrainConfig, *, resume: bool, allow_changes: bool = False
) -> tuple[Path, ConfigChanges]:
    """The run's directory, free or holding this run when resuming, and what its config changes.

    Nothing is written yet: a run that fails on bad input leaves its directory free for the next.
    GplanError where the directory holds something and ``resume`` is not set; there is nothing to
    resume; or the config changes what the weights will be and ``allow_changes`` is not set, or the
    run is finished.
    """
    directory = Path(config.output)
    stored = directory / CONFIG_NAME
    if not resume:
        if stored.is_file():
            raise GplanError(
                f"{directory} already holds a run; continue it with --resume, or name another "
                "directory with output=DIR."
            )
        # A start that was killed leaves counted tokens, a reference and temporary files.
        left = {CACHE_NAME, INPUTS_NAME, CHECKPOINTS_NAME, LOCK}
        begun = directory.is_dir() and not any((directory / CHECKPOINTS_NAME).glob("*"))
        if not begun or any(
            path.name not in left and files.TEMPORARY not in path.name
            for path in directory.iterdir()
        ):
            files.refuse_existing(directory)
        return directory, ConfigChanges()
    if not stored.is_file():
        raise GplanError(f"{directory} holds no run to resume; start one without --resume.")
    values = parse_yaml(stored.read_text("utf-8"), source=str(stored))
    if not isinstance(values, dict):
        raise GplanError(f"{stored} is not the config of a run; bring it back from a copy.")
    changes = compare_configs(parse_config(TrainConfig, values, source=str(stored)), config)
    if changes.exact and (directory / MODEL_NAME).is_dir():
        raise GplanError(
            f"{directory} is finished and its config has changed:\n  "
            + "\n  ".join(changes.exact)
            + f"\nStart a new run with output=DIR; model={directory / MODEL_NAME} begins from it."
        )
    if changes.exact and not allow_changes:
        raise GplanError(
            f"{directory} was started with another config; the weights would be those of neither:"
            "\n  "
            + "\n  ".join(changes.exact)
            + "\nTake these back, start a new run with output=DIR, or go on all the same with "
            "--allow-changes."
        )
    return directory, changes


def stored_inputs(directory: Path) -> dict[str, str]:
    """The fingerprints that a run was started with; empty where it died before it wrote them."""
    path = directory / INPUTS_NAME
    return files.read_json(path) if path.is_file() else {}


def record_run(config: TrainConfig, inputs: Mapping[str, str], directory: Path) -> None:
    """Writes inputs and config, anew where a run goes on: now the directory holds a run."""
    files.write_json(directory / INPUTS_NAME, dict(inputs))
    text = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
    files.write_text(directory / CONFIG_NAME, text)
