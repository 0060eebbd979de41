"""What a checkpoint says about its run, and what a run says about the data it stands on.

CHECKPOINT/run/data.json holds the step, the next batch, the seed, the resolved config, fingerprints
of the inputs and a checksum of every array, so that a checkpoint can be judged without its run. All
that is random in a run is a function of the seed and of the step; there is no other random state.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import json_digest
from gplan_jax.training.resume.array_digests import ArrayDigest, weight_checksums
from gplan_jax.training.steps.setup import Run
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
