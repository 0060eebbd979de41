"""What a judge is asked: the rubric and the tools in words, then context and plan as quoted data.

A request is made from a sample's context columns and a parsed plan. There is no way in for a label,
another prediction or the reasoning before the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from gplan_jax.evaluation.judge.rubric import Rubric
from gplan_jax.gsisr import COLUMNS, IntentLibrary, Plan, Sample, facts_of
from gplan_jax.gsisr.templates import Templates, read_templates

PROMPTS = Path(__file__).parent / "prompts"
KIND = "judge template"
FILES = ("rubric.j2", "system.j2", "user.j2", "pair_system.j2", "pair_user.j2")
# The id tells nothing about the context, and the label is what a judge must never see.
HIDDEN = ("id", "raw_labels")
_MARKUP = frozenset("<>")


@dataclass(frozen=True)
class JudgePrompt:
    """A judge's prompt template: its name, its files' sources, and these compiled."""

    name: str
    sources: Mapping[str, str]
    templates: Templates

    @classmethod
    def load(cls, name_or_dir: str | Path = "en") -> JudgePrompt:
        """Reads a shipped template by its name, or another one from its folder.

        Raises:
            GplanError: there is no such template, a file is missing, or its syntax is wrong.
        """
        name, sources = read_templates(name_or_dir, shipped=PROMPTS, files=FILES, kind=KIND)
        templates = Templates.compile(name, sources, kind=KIND)
        return cls(name, sources, templates)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the template's files."""
        text = json.dumps(dict(self.sources), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def score(
        self, sample: Sample, plan: Plan, rubric: Rubric, library: IntentLibrary
    ) -> tuple[str, str]:
        """The system and the user text that ask for the scores of one plan.

        Raises:
            GplanError: the template names what does not exist, or the sample has a time that
                can't be read.
        """
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
    columns = {name: quoted(getattr(sample, name)) for name in COLUMNS if name not in HIDDEN}
    facts = facts_of(sample)
    values = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
    return {"columns": columns, "facts": {k: quoted(_plain(v)) for k, v in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%A %Y-%m-%d %H:%M")
    return round(value, 2) if isinstance(value, float) else value
