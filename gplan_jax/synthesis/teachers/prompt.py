"""The prompt of a teacher, from a folder of Jinja templates, and how contexts go into it as data.

    answer.j2   the system prompt of a request for a plan: the library, the rules, the reply's form
    explain.j2  the system prompt of a request to explain a given plan
    context.j2  the user's turn: one context, and the plan to explain where there is one
    repair.j2   the turn that follows a faulty reply

The system prompts see ``library``; context.j2 sees ``row`` (columns
by their names), ``sample``, ``facts`` and ``plan`` (JSON text,
"" in a request for a plan); repair.j2 sees ``faults`` (texts). Examples are turns between system
prompt and context, so that all requests of a stratum begin alike. What a template fills in stays on
its line and holds no ``<`` or ``>``, as tags and control tokens do; ``{{ value | quoted }}`` also
writes it as a JSON string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gplan_jax.chat import Message
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, Violation, facts_of
from gplan_jax.gsisr.prompts import choose
from gplan_jax.gsisr.templates import Templates, read_templates
from gplan_jax.synthesis.teachers.reply import write_reply
from gplan_jax.synthesis.teachers.seed import Seed

PROMPTS = Path(__file__).parent / "prompts"
KIND = "teacher prompt"
FILES = ("answer.j2", "explain.j2", "context.j2", "repair.j2")
PromptKind = Literal["answer", "explain"]

MOST_SHOWN = 6000  # Characters of a faulty reply; one that never ended need not be paid for twice.
_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x7f\x85\u2028\u2029]+")
# <...> is how tags and most control tokens are written, [INST] how some are.
_OPENERS = re.compile(r"[<>]|\[(?=/?[A-Z_]+\])")


@dataclass(frozen=True)
class TeacherPrompt:
    """A compiled prompt: its name, its templates, and their sources for the record."""

    name: str
    templates: Templates
    sources: Mapping[str, str]

    @classmethod
    def load(cls, name_or_dir: str) -> TeacherPrompt:
        name, sources = read_templates(name_or_dir, shipped=[PROMPTS], files=FILES, kind=KIND)
        templates = Templates.compile(
            name,
            sources,
            kind=KIND,
            finalize=lambda value: guarded(value) if isinstance(value, str) else value,
            filters={"quoted": quoted, "choose": choose},
        )
        return cls(name, templates, sources)

    def system(self, kind: PromptKind, library: IntentLibrary) -> Message:
        return Message("system", self.templates.fill(f"{kind}.j2", library=library))

    def context(self, sample: Sample, plan: Plan | None = None) -> Message:
        """The user's turn for one row; GplanError where a time of it can't be read."""
        given = json.dumps(plan, ensure_ascii=False) if plan is not None else ""
        told = {"sample": sample, "row": sample.context(), "facts": facts_of(sample)}
        text = self.templates.fill("context.j2", plan=given, **told)
        return Message("user", text)

    def example(self, seed: Seed, kind: PromptKind) -> tuple[Message, Message]:
        """A seed as two turns: its context, and the reply that is wanted."""
        if kind == "answer":
            question, reply = self.context(seed.sample), write_reply(seed.trace, seed.plan)
        else:
            question, reply = self.context(seed.sample, seed.plan), write_reply(seed.trace, None)
        return question, Message("assistant", guarded(reply))

    def repair(self, reply: str, faults: Sequence[Violation]) -> tuple[Message, Message]:
        """What follows a faulty reply: the reply as it came, and what is wrong with it."""
        shown = reply if len(reply) <= MOST_SHOWN else reply[:MOST_SHOWN] + "……"
        asked = self.templates.fill("repair.j2", faults=[fault.message for fault in faults])
        return Message("assistant", guarded(shown, keep_lines=True)), Message("user", asked)


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
