"""The rubric: by which axes a judge scores, as a data file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from pydantic import Field

from gplan_jax.evaluation.judge.verdict import HIGHEST, LOWEST
from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError

RUBRIC = Path(__file__).parent / "rubric.yaml"
_KEY = re.compile(r"[a-z][a-z0-9_]*")


class Axis(Config):
    """One axis: its name, what is asked, and what speaks for and against a plan."""

    name: str = Field(min_length=1)
    question: str = Field(min_length=1)
    positive: list[str] = Field(min_length=1)
    failures: list[str] = Field(min_length=1)


class Rubric(Config):
    """A rubric as its YAML file describes it; rubric.yaml explains each key."""

    name: str = Field(min_length=1)
    task: str = Field(min_length=1)
    axes: dict[str, Axis] = Field(min_length=1)
    levels: dict[int, str]
    rules: list[str] = Field(default_factory=list)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Rubric:
        """Reads a rubric file; the shipped one where ``path`` is None.

        Raises:
            GplanError: the file is missing, a key is unknown, missing or mistyped, an axis key
                can't name a field of a reply, or the levels are not 1 to 5; all faults at once.
        """
        path = Path(path or RUBRIC)
        rubric = load_config(cls, path)
        faults = [
            f"axes: {key!r} can't be a key of the reply; use small letters, digits and _"
            for key in rubric.axes
            if not _KEY.fullmatch(key)
        ]
        scores = list(range(LOWEST, HIGHEST + 1))
        if sorted(rubric.levels) != scores:
            given = ", ".join(map(str, sorted(rubric.levels)))
            faults.append(f"levels: given are {given or 'none'}; say what each of {scores} means")
        if faults:
            raise GplanError(f"{path} is not a valid rubric:\n  " + "\n  ".join(faults))
        return rubric

    @property
    def digest(self) -> str:
        """SHA-256 of the rubric's content."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
