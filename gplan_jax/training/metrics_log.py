"""Where a run's figures go: one JSON object a step, and the same scalars for TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter

from gplan_jax.foundation.files import write_jsonl

LOG_NAME = "log.jsonl"


class MetricsLog:
    """Appends records to ``log.jsonl`` and TensorBoard events under one run directory.

    Args:
        directory: the run.
        resume_step: steps that the resumed checkpoint holds; later records, written by a run that
            died after it, are dropped so that each step stands once in the log.
    """

    def __init__(self, directory: Path, *, resume_step: int = 0) -> None:
        path = directory / LOG_NAME
        if path.is_file():
            write_jsonl(path, (r for r in read_log(path) if r["step"] <= resume_step))
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._events.close()

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record; its ``step`` counts the steps taken, from 1."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        group = "evaluation" if record.get("kind") == "evaluation" else "training"
        for name, value in record.items():
            if isinstance(value, int | float) and name != "step" and math.isfinite(value):
                self._events.add_scalar(f"{group}/{name}", value, record["step"])


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The records of a log; a last line torn by a killed process is left out."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [json.loads(line) for line in lines]
