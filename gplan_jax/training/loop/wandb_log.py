"""Weights & Biases, where ``logging.wandb_project`` asks for it: imported only then.

The run's id lies in RUN/wandb-id.txt, so that a resumed run goes on under it. Steps that a killed
run had already logged are logged again; W&B keeps the first figures, which are the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import secrets
from pathlib import Path
from typing import Any, Protocol

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_write

ID_NAME = "wandb-id.txt"


class WandbRun(Protocol):
    """What is used of a run of the wandb package."""

    def log(self, data: dict[str, Any], *, step: int) -> None:
        """Logs scalars of one step."""

    def finish(self) -> None:
        """Sends what is left."""


def require_wandb() -> None:
    """Raises GplanError where the wandb package is missing."""
    if importlib.util.find_spec("wandb") is None:
        raise GplanError(
            "logging.wandb_project is set, but the package wandb is not installed: "
            "pip install 'gplan-jax[wandb]', or leave logging.wandb_project out. log.jsonl and "
            "TensorBoard are written in any case."
        )


def open_wandb(directory: Path, *, project: str, config: dict[str, Any]) -> WandbRun:
    """Starts the run of ``directory`` in ``project``, or goes on with it.

    WANDB_MODE=offline keeps everything under RUN/wandb, for ``wandb sync`` later.

    Raises:
        GplanError: wandb is missing, or refuses (no key, no network).
    """
    require_wandb()
    wandb: Any = importlib.import_module("wandb")
    path = directory / ID_NAME
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
    try:
        return wandb.init(
            project=project,
            id=path.read_text(encoding="utf-8").strip(),
            name=directory.name,
            dir=str(directory),
            config=config,
            resume="allow",
        )
    except wandb.errors.Error as error:
        raise GplanError(
            f"Weights & Biases refused to start: {error} Log in with `wandb login`, set "
            "WANDB_MODE=offline, or leave logging.wandb_project out."
        ) from None
