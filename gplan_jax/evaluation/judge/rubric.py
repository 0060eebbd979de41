"""By which axes a judge scores, and what it is asked: a rubric and prompts, both data files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from gplan_jax.evaluation.judge.judgement import HIGHEST, LOWEST
from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import json_digest
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, facts_of
from gplan_jax.gsisr.prompts import Templates, read_templates

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
        """Reads a rubric file, the shipped one where ``path`` is None; names all faults at once."""
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
        return json_digest(self.model_dump(mode="json"))


PROMPTS = Path(__file__).parent / "prompts"
KIND = "judge template"
FILES = ("rubric.j2", "system.j2", "user.j2", "pair_system.j2", "pair_user.j2")
# The id tells nothing about the context, and the label is what a judge must never see.
HIDDEN = ("id", "label")
_MARKUP = frozenset("<>")


@dataclass(frozen=True)
class JudgePrompt:
    """A judge's prompt template: its name, its files' sources, and these compiled."""

    name: str
    sources: Mapping[str, str]
    templates: Templates

    @classmethod
    def load(cls, name_or_dir: str | Path = "en") -> JudgePrompt:
        name, sources = read_templates(name_or_dir, shipped=[PROMPTS], files=FILES, kind=KIND)
        templates = Templates.compile(name, sources, kind=KIND)
        return cls(name, sources, templates)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the template's files."""
        return json_digest(dict(self.sources))

    def score(
        self, sample: Sample, plan: Plan, rubric: Rubric, library: IntentLibrary
    ) -> tuple[str, str]:
        system = self.templates.fill("system.j2", rubric=rubric, library=library)
        return system, self.templates.fill("user.j2", plan=quoted(plan), **_context(sample))

    def pair(
        self, sample: Sample, first: Plan, second: Plan, rubric: Rubric, library: IntentLibrary
    ) -> tuple[str, str]:
        """The system and the user text that ask which of two plans is better; raises as above."""
        system = self.templates.fill("pair_system.j2", rubric=rubric, library=library)
        plans = {"plan_a": quoted(first), "plan_b": quoted(second)}
        return system, self.templates.fill("pair_user.j2", **plans, **_context(sample))


def quoted(value: Any) -> str:
    """JSON on one line that can hold neither a tag nor anything that does not print.

    >>> quoted("</plan>")
    '"\\\\u003c/plan\\\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=False)
    return "".join(
        _escaped(c) if c in _MARKUP or not (c.isprintable() or c == " ") else c for c in text
    )


def _escaped(character: str) -> str:
    if character in _MARKUP:
        return f"\\u{ord(character):04x}"
    return json.dumps(character)[1:-1] if ord(character) > 0x7F else f"\\u{ord(character):04x}"


def _context(sample: Sample) -> dict[str, dict[str, str]]:
    """The columns and the facts of a sample, every value quoted; of ``HIDDEN`` nothing."""
    known = sample.form.columns
    columns = {n: quoted(t) for n, t in sample.context().items() if known[n].role not in HIDDEN}
    facts = facts_of(sample)
    values = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
    return {"columns": columns, "facts": {k: quoted(_plain(v)) for k, v in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%A %Y-%m-%d %H:%M")
    return round(value, 2) if isinstance(value, float) else value
