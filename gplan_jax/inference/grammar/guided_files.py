"""Plans as context-free grammars, for the guided decoding of other servers.

GUIDED/plan.ebnf    for xgrammar (vLLM's and SGLang's default)
GUIDED/plan.lark    for llguidance
GUIDED/latent.*     the same behind the latent prefix, as many steps as intents

They hold a plan's JSON to the library: its tools, their parameters in order, admissible values, the
plan length. They don't know what a plan holds already: repeated intents, exclusive groups and
references to a place that no intent has yielded are left to ``check_plan``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.files import atomic_write
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.reasoning import latent_prefix
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, THOUGHT_OPEN

Syntax = Literal["ebnf", "lark"]


@dataclass(frozen=True)
class _Notation:
    """How a grammar file is written; a literal is JSON text in both."""

    header: str  # first lines
    root: str  # name of the rule that a response follows
    define: str  # between a rule's name and its body
    token: Callable[[int], str]  # a vocabulary entry by its id
    text: str  # the terminal of any JSON text but the empty one


_NOTATIONS: dict[Syntax, _Notation] = {
    "ebnf": _Notation(
        header="",
        root="root",
        define=" ::= ",
        token=lambda index: f"Token({index})",
        text=r'TEXT ::= "\"" ([^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))+ "\""',
    ),
    "lark": _Notation(
        header="%llguidance {}\n",
        root="start",
        define=": ",
        token=lambda index: f"<[{index}]>",
        text=r'TEXT: /"([^"\\\x00-\x1f]|\\(["\\\/bfnrt]|u[0-9a-fA-F]{4}))+"/',
    ),
}


def plan_grammar(library: IntentLibrary, syntax: Syntax) -> str:
    """The grammar of a response that is a plan and nothing else, as a file's text."""
    bounds = library.plan_length
    return _file(library, syntax, [_plan(bounds.minimum, bounds.maximum, "")])


def latent_grammar(library: IntentLibrary, encoder: ChatEncoder, syntax: Syntax) -> str:
    """The grammar of a latent prefix and a plan with as many intents as the prefix has steps.
    Latent tokens stand in it by id: as text they could also be written in other tokens.
    """
    encoder.require_latents()
    latents, token = encoder.latents, _NOTATIONS[syntax].token
    bounds = library.plan_length
    plans = []
    for steps in range(bounds.minimum, min(bounds.maximum, latents.max_steps) + 1):
        text = latent_prefix(latents, steps)[len(THOUGHT_OPEN) : -len(THOUGHT_CLOSE)]
        ids = " ".join(token(int(index)) for index in encoder.response(text).ids[:-1])
        plans.append(f"{_literal(THOUGHT_OPEN)} {ids} {_plan(steps, steps, THOUGHT_CLOSE)}")
    return _file(library, syntax, plans)


def write_guided_files(folder: Path, library: IntentLibrary, encoder: ChatEncoder) -> list[Path]:
    """Writes all grammar files of a model; those in latent form where it has the latent tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    latent = len(encoder.latent_ids) == len(encoder.latents.tokens)
    paths = []
    for syntax in _NOTATIONS:
        texts = {"plan": plan_grammar(library, syntax)}
        if latent:
            texts["latent"] = latent_grammar(library, encoder, syntax)
        for name, text in texts.items():
            paths.append(folder / f"{name}.{syntax}")
            with atomic_write(paths[-1]) as temporary:
                temporary.write_text(text, encoding="utf-8")
    return sorted(paths)


def _file(library: IntentLibrary, syntax: Syntax, plans: list[str]) -> str:
    notation = _NOTATIONS[syntax]
    rules = [(notation.root, plans), *_intent_rules(library)]
    lines = [name + notation.define + "\n    | ".join(choices) for name, choices in rules]
    if any(parameter.values is None for parameter in library.parameters.values()):
        lines.append(notation.text)
    return notation.header + "\n".join(lines) + "\n"


def _plan(minimum: int, maximum: int, before: str) -> str:
    more = f" ({_literal(',')} intent){{{minimum - 1},{maximum - 1}}}" if maximum > 1 else ""
    return f"{_literal(before + '[')} intent{more} {_literal(']')}"


def _intent_rules(library: IntentLibrary) -> Iterator[tuple[str, list[str]]]:
    """The rule of an intent, and the names of tools and values as terminals.

    Terminals, because llguidance ends a plan where 2,000 alternatives of rules could go on: so
    tools that are alike but for the name are one alternative. They have numbers: names are free
    text.
    """
    values = {
        key: ["TEXT"]
        if p.values is None
        else [_literal(_literal(value)) for value in p.values if value]
        for key, p in library.parameters.items()
    }
    terminals = {key: f"VALUE{number}" for number, key in enumerate(values, 1) if values[key]}
    tools: dict[str, list[str]] = {}  # what follows a tool's name -> the names
    for name, tool in library.tools.items():
        if not terminals.keys() >= set(tool.parameters):
            continue
        parts = []
        for key, terminal in terminals.items():
            pair = f"{_literal(',' + _literal(key) + ':')} {terminal}"
            if key in tool.parameters:
                parts.append(pair)
            elif key in tool.optional:
                parts.append(f"({pair})?")
        head = _literal(f"{{{_literal(library.tool_key)}:{_literal(name)}")
        tools.setdefault(" ".join([*parts, _literal("}")]), []).append(head)
    yield "intent", [f"TOOL{number} {rest}" for number, rest in enumerate(tools, 1)]
    yield from ((f"TOOL{number}", heads) for number, heads in enumerate(tools.values(), 1))
    yield from ((terminal, values[key]) for key, terminal in terminals.items())


def _literal(text: str) -> str:
    """A literal of either notation, which both escape as JSON does; and JSON's own text."""
    return json.dumps(text, ensure_ascii=False)
