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

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gplan_jax.evaluation.judge.rubric import Rubric
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, Plan, Sample, facts_of

PROMPTS = Path(__file__).parent / "prompts"
FILES = ("rubric.j2", "system.j2", "user.j2", "pair_system.j2", "pair_user.j2")
# The id tells nothing about the context, and the label is what a judge must never see.
HIDDEN = ("id", "raw_labels")
_MARKUP = frozenset("<>")


@dataclass(frozen=True)
class JudgePrompt:
    """A judge's prompt template: its name and the sources of its files."""

    name: str
    sources: Mapping[str, str]

    @classmethod
    def load(cls, name_or_dir: str | Path = "en") -> JudgePrompt:
        """Reads a shipped template by its name, or another one from its folder.

        Raises:
            GplanError: there is no such template, a file is missing, or its syntax is wrong.
        """
        folder = Path(name_or_dir)
        if not folder.is_dir():
            folder = PROMPTS / name_or_dir
        if not folder.is_dir():
            shipped = ", ".join(sorted(p.name for p in PROMPTS.iterdir() if p.is_dir()))
            raise GplanError(
                f"{name_or_dir} is neither a folder nor a shipped judge template ({shipped})."
            )
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise GplanError(f"Judge template {folder} lacks {' and '.join(missing)}.")
        try:
            sources = {name: (folder / name).read_text(encoding="utf-8") for name in FILES}
        except UnicodeDecodeError as error:
            raise GplanError(f"Judge template {folder} is not UTF-8 text: {error}.") from None
        prompt = cls(folder.name, sources)
        for name in FILES:  # A wrong template is better refused now than at the first row.
            prompt._template(name)
        return prompt

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
        system = self._fill("system.j2", rubric=rubric, library=library)
        return system, self._fill("user.j2", plan=quoted(plan), **_context(sample))

    def pair(
        self, sample: Sample, first: Plan, second: Plan, rubric: Rubric, library: IntentLibrary
    ) -> tuple[str, str]:
        """The system and the user text that ask which of two plans is better; raises as above."""
        system = self._fill("pair_system.j2", rubric=rubric, library=library)
        plans = {"plan_a": quoted(first), "plan_b": quoted(second)}
        return system, self._fill("pair_user.j2", **plans, **_context(sample))

    def _fill(self, name: str, **values: Any) -> str:
        try:
            return self._template(name).render(**values).strip()
        except Exception as error:  # Whatever somebody's template runs into.
            raise GplanError(
                f"Judge template {self.name}, {name}, can't be filled in: {error}."
            ) from None

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        return ImmutableSandboxedEnvironment(
            loader=jinja2.DictLoader(dict(self.sources)),
            autoescape=False,  # The text is read by a model, not by a browser.
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def _template(self, name: str) -> jinja2.Template:
        try:
            return self._environment.get_template(name)
        except jinja2.TemplateSyntaxError as error:
            place = f"Judge template {self.name}, {name}, line {error.lineno}"
            raise GplanError(f"{place}: {error.message}.") from None


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
