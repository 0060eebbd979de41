"""Prompts from template files: a folder with ``system.j2`` and ``user.j2`` in Jinja syntax.

A template sees ``sample`` (the columns), ``facts`` (see ``Facts``) and ``library``. What it writes
is plain text: a value is never read as template code, takes up one line at most, and the encoder
turns none of it into a control token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.gsisr.facts import facts_of, place_kind
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.samples import Sample

PROMPTS = Path(__file__).parent / "prompts"
_FILES = ("system.j2", "user.j2")
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


@dataclass(frozen=True)
class Prompt:
    """The two parts of a request; ``system`` is the same for all samples of a template."""

    system: str
    user: str


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt template: its name and the sources of its two parts."""

    name: str
    system: str
    user: str

    @classmethod
    def load(cls, name_or_dir: str | Path = "amap_zh") -> PromptTemplate:
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
                f"{name_or_dir} is neither a folder nor a shipped prompt template ({shipped})."
            )
        if missing := [name for name in _FILES if not (folder / name).is_file()]:
            raise GplanError(f"Prompt template {folder} lacks {' and '.join(missing)}.")
        try:
            system, user = ((folder / name).read_text(encoding="utf-8") for name in _FILES)
        except UnicodeDecodeError as error:
            raise GplanError(f"Prompt template {folder} is not UTF-8 text: {error}.") from None
        template = cls(folder.name, system, user)
        _compile(template)  # A wrong template is better refused now than at the first row.
        return template

    def save(self, folder: str | Path) -> None:
        """Writes the template's files into ``folder``, from where ``load`` reads them."""
        for name, source in zip(_FILES, (self.system, self.user), strict=True):
            with atomic_write(Path(folder) / name) as temporary:
                temporary.write_text(source, encoding="utf-8")

    def render(self, sample: Sample, library: IntentLibrary) -> Prompt:
        """Fills the template in for one sample.

        Raises:
            GplanError: the template names something that does not exist, or the sample has a
                time that can't be read.
        """
        system, user = _compile(self)
        facts = facts_of(sample)
        try:
            return Prompt(
                system=system.render(library=library).strip(),
                user=user.render(sample=sample, facts=facts, library=library).strip(),
            )
        except Exception as error:  # Whatever somebody's template runs into.
            raise GplanError(f"Prompt template {self.name} can't be filled in: {error}.") from None


@cache
def _compile(template: PromptTemplate) -> tuple[jinja2.Template, jinja2.Template]:
    # Sandboxed: a template may come with somebody else's model directory.
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,  # The text is read by a model, not by a browser.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_one_line,
    )
    environment.filters |= {"bucket": bucket, "choose": choose, "place_kind": place_kind}
    compiled = []
    for name, source in zip(_FILES, (template.system, template.user), strict=True):
        try:
            compiled.append(environment.from_string(source))
        except jinja2.TemplateSyntaxError as error:
            place = f"Prompt template {template.name}, {name}, line {error.lineno}"
            raise GplanError(f"{place}: {error.message}.") from None
    return compiled[0], compiled[1]


def bucket(
    value: float | None, steps: Sequence[tuple[float, str]], beyond: str, absent: str
) -> str:
    """The word of the first step whose bound ``value`` stays below; a template filter.

    >>> bucket(1.5, [(0, "past"), (2, "soon")], "later", "unknown")
    'soon'
    """
    if value is None:
        return absent
    return next((word for bound, word in steps if value < bound), beyond)


def choose(value: bool | None, yes: str, no: str, absent: str = "") -> str:
    """A word for each of True, False and None; a template filter."""
    if value is None:
        return absent
    return yes if value else no


def _one_line(value: Any) -> Any:
    """Keeps a value from opening a new line, where it could pass for a part of the template."""
    return _LINE_BREAKS.sub(" ", value) if isinstance(value, str) else value
