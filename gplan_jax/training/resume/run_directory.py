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
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gplan_jax.foundation import GplanError, files
from gplan_jax.foundation.config import parse_config, parse_yaml
from gplan_jax.foundation.paths import LOCK
from gplan_jax.training.steps.setup import CACHE_NAME
from gplan_jax.training.steps.train_config import TrainConfig

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
# Names of files: their content is compared instead, see ``run_record``.
CONTENT = ("model", "data.train", "data.service", "data.template", "data.on_error")
# Everything else is exact: the weights would be those of neither config.


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
        for names, effect in ((ROUNDING, "rounding"), (FREE + CONTENT, "free")):
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
        if not _holds_only_counts(directory):
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


def _holds_only_counts(directory: Path) -> bool:
    """A start that was killed leaves counted tokens, a reference and temporary files."""
    if not directory.is_dir() or any((directory / CHECKPOINTS_NAME).glob("*")):
        return False
    names = {path.name for path in directory.iterdir() if files.TEMPORARY not in path.name}
    return names <= {CACHE_NAME, INPUTS_NAME, CHECKPOINTS_NAME, LOCK}
