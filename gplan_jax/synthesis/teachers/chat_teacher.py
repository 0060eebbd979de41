"""A language model as a teacher: ask, read strictly, check the rules, and ask once more if need be.

The source is the paper's section 3.2: few-shot prompting with seeds, the reasoning and the plan in
one reply. The repair is ours.

Its prompt is a folder of Jinja templates, into which contexts go as data:

    answer.j2   the system prompt of a request for a plan: the library, the rules, the reply's form
    explain.j2  the system prompt of a request to explain a given plan
    context.j2  the user's turn: one context, and the plan to explain where there is one
    repair.j2   the turn that follows a faulty reply

The system prompts see ``library``; context.j2 sees ``row`` (columns by their names), ``sample``,
``facts`` and ``plan`` (JSON text, "" in a request for a plan); repair.j2 sees ``faults`` (texts).
Examples are turns between system prompt and context, so that all requests of a stratum begin alike.
What a template fills in stays on its line and holds no ``<`` or ``>``, as tags and control tokens
do; ``{{ value | quoted }}`` also writes it as a JSON string.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from gplan_jax.chat import ChatClient, ChatConfig, ChatReply, ChatRequest, Ledger, Message
from gplan_jax.chat.client import Connect
from gplan_jax.chat.messages import ASK_AGAIN, RequestFailed
from gplan_jax.chat.reading import BEYOND_REPAIR, answer_text
from gplan_jax.chat.server_config import read_api_key
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, Violation, check_plan, facts_of
from gplan_jax.gsisr.prompts import Templates, choose, read_templates
from gplan_jax.reasoning import ReasoningTrace
from gplan_jax.synthesis.teachers.reply import (
    Faults,
    answer_schema,
    explanation_schema,
    read_answer,
    read_explanation,
    write_reply,
)
from gplan_jax.synthesis.teachers.seed_selection import Seed, SeedPool
from gplan_jax.synthesis.teachers.teacher import TeacherAnswer

PROMPTS = Path(__file__).parent / "prompts"
KIND = "teacher prompt"
FILES = ("answer.j2", "explain.j2", "context.j2", "repair.j2")
PromptKind = Literal["answer", "explain"]

MOST_SHOWN = 6000  # Characters of a faulty reply; one that never ended need not be paid for twice.
_LINE_BREAKS = re.compile(r"[\n\r\v\f\x1c-\x1e\x7f\x85\u2028\u2029]+")
# <...> is how tags and most control tokens are written, [INST] how some are.
_OPENERS = re.compile(r"[<>]|\[(?=/?[A-Z_]+\])")
R = TypeVar("R")
# Of the server's settings, those that say where and how fast, not what is answered.
_TRANSPORT = (
    "base_url", "api_key_env", "key_over_http", "concurrency", "timeout_s", "attempts",
    "backoff_s", "budget", "token_budget",
)  # fmt: skip


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


class TeacherConfig(Config):
    """A language model as a teacher: the server and the model, and how they are asked."""

    server: ChatConfig
    examples: Annotated[int, Field(ge=0)] = 4  # Seeds shown before each context.
    # A shipped prompt by its name, or a folder like it; amap_zh for rows of the public set and en
    # for others where None.
    template: str | None = None
    repair: bool = True  # Show the model a reply that breaks a rule, once, and take its second one.


class ChatTeacher:
    """A ``Teacher`` behind a chat server; every paid reply is kept in a cache file."""

    def __init__(
        self,
        config: TeacherConfig,
        cache: Path,
        library: IntentLibrary,
        seeds: SeedPool | None = None,
        connect: Connect = ChatClient,
    ) -> None:
        """Opens the cache; nothing is sent before the first call."""
        read_api_key(config.server)
        self._config, self._library, self._seeds = config, library, seeds
        usual = "en" if library.rows else "amap_zh"
        self._prompt = TeacherPrompt.load(config.template or usual)
        self._system = {task: self._prompt.system(task, library) for task in ("answer", "explain")}
        self._schema = answer_schema(library)
        self._shown: dict[tuple[PromptKind, int], tuple[Message, Message]] = {}
        self._client = connect(config.server, cache)
        self.name = config.server.model
        values = config.model_dump(mode="json")
        server = {k: v for k, v in values["server"].items() if k not in _TRANSPORT}
        self.settings = {**values, "server": server, "prompt": dict(self._prompt.sources)}

    @property
    def at_once(self) -> int:
        """The most requests at once; the client stays below it where the server asks it to."""
        # The client stays below it where the server asks it to.
        return self._client.at_once

    @property
    def ledger(self) -> Ledger:
        return self._client.ledger

    async def answer(self, sample: Sample) -> TeacherAnswer:
        """The model's plan and reasoning for a context; see ``Teacher.answer``.

        ``origin`` names the model, the requests' keys and their tokens. ServerUnavailable and
        BudgetSpent mean that no row has an answer any more.
        """
        messages = self._messages("answer", sample, None)
        request = ChatRequest(messages, self._schema, schema_name="plan")

        def read(reply: ChatReply) -> tuple[TeacherAnswer, Faults]:
            text, faults = read_answer(reply.text, reply.finish_reason, self._library)
            broken = faults or tuple(check_plan(text, self._library))
            return TeacherAnswer(text, faults=faults), broken

        answer, _, replies = await self._ask(request, read)

        def total(values: list[Any]) -> Any:
            return None if None in values else sum(values)

        # The same for replies of the server and of the cache.
        origin = {
            "model": replies[-1].model,
            "requests": [reply.key for reply in replies],
            "prompt_tokens": total([reply.prompt_tokens for reply in replies]),
            "completion_tokens": total([reply.completion_tokens for reply in replies]),
            "cost": total([reply.cost for reply in replies]),
            "structured": replies[0].structured,
            "repaired": len(replies) > 1,
        }
        return dataclasses.replace(answer, origin=origin)

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        if not plan:
            raise GplanError(f"Row {sample.id} has an empty plan; there is nothing to explain.")
        messages = self._messages("explain", sample, plan)
        request = ChatRequest(messages, explanation_schema(len(plan)), schema_name="reasoning")

        def read(reply: ChatReply) -> tuple[ReasoningTrace | None, Faults]:
            return read_explanation(reply.text, reply.finish_reason, len(plan))

        # A run repeated asks again: where the replies of earlier runs, which are in the cache, hold
        # no trace, for another draw.
        for draw in itertools.count():
            drawn = dataclasses.replace(request, draw=draw)
            trace, faults, replies = await self._ask(drawn, read)
            if trace is not None:
                return trace
            repairable = faults[0].code not in BEYOND_REPAIR
            if not (repairable and all(reply.cached for reply in replies)):
                break
        why = "; ".join(fault.message for fault in faults)
        said = f"The replies of {self.name} to row {sample.id} hold no trace: {why}."
        raise RequestFailed(said, ASK_AGAIN if repairable else "Change that and run again")

    async def close(self) -> None:
        await self._client.close()

    async def _ask(
        self, request: ChatRequest, read: Callable[[ChatReply], tuple[R, Faults]]
    ) -> tuple[R, Faults, list[ChatReply]]:
        """What was read from the reply, or from the repaired one where the first has faults."""
        reply = await self._client.ask(request)
        found, faults = read(reply)
        if not faults or not self._config.repair or faults[0].code in BEYOND_REPAIR:
            return found, faults, [reply]
        turns = (*request.messages, *self._prompt.repair(answer_text(reply.text), faults))
        second = await self._client.ask(dataclasses.replace(request, messages=turns))
        return *read(second), [reply, second]

    def _messages(self, task: PromptKind, sample: Sample, plan: Plan | None) -> tuple[Message, ...]:
        turns = [self._system[task]]
        if self._seeds is not None:
            for seed in self._seeds.examples(sample, self._config.examples):
                if (task, id(seed)) not in self._shown:
                    self._shown[task, id(seed)] = self._prompt.example(seed, task)
                turns += self._shown[task, id(seed)]
        return (*turns, self._prompt.context(sample, plan))
