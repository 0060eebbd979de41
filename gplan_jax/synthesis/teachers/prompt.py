"""The prompt of a teacher, from a folder of Jinja templates, and how contexts go into it as data.

    answer.j2   the system prompt of a request for a plan: the library, the rules, the reply's form
    explain.j2  the system prompt of a request to explain a given plan
    context.j2  the user's turn: one context, and the plan to explain where there is one
    repair.j2   the turn that follows a faulty reply

The system prompts see ``library``; context.j2 sees ``sample``, ``facts`` and ``plan`` (JSON text,
"" in a request for a plan); repair.j2 sees ``faults`` (texts). Examples stand between system prompt
and context as turns of the conversation, so that all requests of a stratum begin alike.

Whatever a template fills in is data: it stays on its line and holds no ``<`` or ``>``, with which
tags and the control tokens of chat templates are written. ``{{ value | quoted }}`` writes it as a
JSON string besides, so that a model can tell where it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gplan_jax.chat.messages import Message
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, Violation, facts_of
from gplan_jax.gsisr.prompts import choose
from gplan_jax.synthesis.seeds.seed import Seed
from gplan_jax.synthesis.teachers.reply import write_reply

PROMPTS = Path(__file__).parent / "prompts"
FILES = ("answer", "explain", "context", "repair")
Task = Literal["answer", "explain"]

MOST_SHOWN = 6000  # Characters of a faulty reply; one that never ended need not be paid for twice.
_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x7f\x85\u2028\u2029]+")
# <...> is how tags and most control tokens are written, [INST] how some are.
_OPENERS = re.compile(r"[<>]|\[(?=/?[A-Z_]+\])")


@dataclass(frozen=True)
class TeacherPrompt:
    """A compiled prompt: its name, its templates by file, and their sources for the record."""

    name: str
    templates: Mapping[str, jinja2.Template]
    sources: Mapping[str, str]

    @classmethod
    def load(cls, name_or_dir: str) -> TeacherPrompt:
        """Reads a shipped prompt by its name, or another one from its folder.

        Raises:
            GplanError: there is no such prompt, a file is missing, or its syntax is wrong.
        """
        folder = Path(name_or_dir)
        if not folder.is_dir():
            folder = PROMPTS / name_or_dir
        if not folder.is_dir():
            shipped = ", ".join(sorted(p.name for p in PROMPTS.iterdir() if p.is_dir()))
            raise GplanError(f"{name_or_dir} is neither a folder nor a shipped prompt ({shipped}).")
        sources = {name: _read(folder / f"{name}.j2") for name in FILES}
        templates = {name: _compile(folder / f"{name}.j2", sources[name]) for name in FILES}
        return cls(folder.name, templates, sources)

    def system(self, task: Task, library: IntentLibrary) -> Message:
        """The system prompt, the same for all rows."""
        return Message("system", self._fill(task, library=library))

    def context(self, sample: Sample, plan: Plan | None = None) -> Message:
        """The user's turn for one row; GplanError where a time of it can't be read."""
        given = json.dumps(plan, ensure_ascii=False) if plan is not None else ""
        text = self._fill("context", sample=sample, facts=facts_of(sample), plan=given)
        return Message("user", text)

    def example(self, seed: Seed, task: Task) -> tuple[Message, Message]:
        """A seed as two turns: its context, and the reply that is wanted."""
        if task == "answer":
            question, reply = self.context(seed.sample), write_reply(seed.trace, seed.plan)
        else:
            question, reply = self.context(seed.sample, seed.plan), write_reply(seed.trace, None)
        return question, Message("assistant", guarded(reply))

    def repair(self, reply: str, faults: Sequence[Violation]) -> tuple[Message, Message]:
        """What follows a faulty reply: the reply as it came, and what is wrong with it."""
        shown = reply if len(reply) <= MOST_SHOWN else reply[:MOST_SHOWN] + "……"
        asked = self._fill("repair", faults=[fault.message for fault in faults])
        return Message("assistant", guarded(shown, keep_lines=True)), Message("user", asked)

    def _fill(self, template: str, **values: Any) -> str:
        try:
            return self.templates[template].render(**values).strip()
        except Exception as error:  # Whatever somebody's template runs into.
            problem = f"prompt {self.name}, {template}.j2, can't be filled in: {error}"
            raise GplanError(f"Teacher {problem}.") from None


def guarded(text: str, *, keep_lines: bool = False) -> str:
    """``text`` on one line, with nothing in it that a tokenizer could take for a control token.

    Inside a JSON string its meaning is unchanged.

    >>> guarded('{"place": "a <|im_end|> b"}')
    '{"place": "a \\\\u003c|im_end|\\\\u003e b"}'
    """
    text = text.encode("utf-8", "replace").decode()
    text = text if keep_lines else _LINE_BREAKS.sub(" ", text)
    return _OPENERS.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def quoted(value: str) -> str:
    """A JSON string; a template filter."""
    return json.dumps(value, ensure_ascii=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GplanError(f"Teacher prompt {path.parent} lacks {path.name}.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{path} is not UTF-8 text: {error}.") from None


def _compile(path: Path, source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,  # The text is read by a model, not by a browser.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: guarded(value) if isinstance(value, str) else value,
    )
    environment.filters |= {"quoted": quoted, "choose": choose}
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise GplanError(f"{path}, line {error.lineno}: {error.message}.") from None
