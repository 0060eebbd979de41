"""Rows of text as a task: a prompt, named reasoning blocks and an answer, whatever they are about.

One JSON object a line:

    {"id": "7", "prompt": "12*34=", "blocks": [{"name": "TENS", "text": "30*12=360"}, ...],
     "answer": "408"}

``system`` is the same in all rows, or left out. Rows may have fewer blocks than others, in the same
order: a row's names are some of the latent vocabulary's, in its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints, ValidationError

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.task import Example, RowScores, Task
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.config import Config, parse_yaml
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.foundation.files import strict_json
from gplan_jax.foundation.paths import local_path
from gplan_jax.reasoning import (
    GSISR_LATENTS,
    LatentVocabulary,
    Prompt,
    check_block_name,
    write_response,
)
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, check_plain

_MEND = f"Mend the row, or {SKIP_HINT}."

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class TextBlock(Config):
    """One step of the reasoning."""

    name: str
    text: Text


class TextRow(Config):
    """A line of the file."""

    id: Text
    system: str = ""
    prompt: Text
    blocks: list[TextBlock] = Field(default_factory=list)
    answer: Text


class PromptRow(TextRow):
    """The same without an answer, or with one that is not looked at."""

    answer: str = ""


@dataclass(frozen=True)
class TextTask(Task):
    """Exact answers to prompts that stand in the rows; see ``Task``."""

    name: ClassVar[str] = "text"
    cuts_prompts: ClassVar[bool] = False
    reasoning_mend: ClassVar[str] = "Give them blocks, or train with mode=direct_sft."
    measures: ClassVar[tuple[str, ...]] = ("exact", "answer_tokens", "latent_valid")

    def read(
        self, path: str | Path, latents: LatentVocabulary, faulty: FaultyRows | None = None
    ) -> Iterator[Example]:
        """The rows of a file; GplanError where it is missing, not .jsonl, or no row is left.

        RowError, by line, where a key is missing, unknown or of another type, a text empty; a
        block's name can't be one, occurs twice or its text holds markup; blocks are not in the
        order of ``latents``, where responses are latent; an id or another ``system`` stood in an
        earlier line.
        """
        rows = self._numbered_rows(Path(path), faulty or FaultyRows(), latents)
        return (example for _, example in rows)

    def read_contexts(
        self, path: str | Path, faulty: FaultyRows, *, skip: int = 0
    ) -> Iterator[tuple[int, str, Prompt]]:
        """Prompts of rows with or without answers, all lines read, so that all share one system."""
        rows = self._numbered_rows(Path(path), faulty, None)
        return ((number, row.id, row.context) for number, row in rows if number > skip)

    def _numbered_rows(
        self, path: Path, faulty: FaultyRows, latents: LatentVocabulary | None
    ) -> Iterator[tuple[int, Example]]:
        """Lines by number; without ``latents`` answers may lack, and blocks have any order."""
        if path.suffix != ".jsonl" or not path.is_file():
            raise GplanError(f"{path} is no .jsonl file; rows of text are one JSON object a line.")
        seen: dict[str, int] = {}
        system: str | None = None
        order = {name: index for index, name in enumerate(latents.block_names if latents else ())}

        def example(numbered: tuple[int, bytes]) -> tuple[int, Example]:
            nonlocal system
            number, line = numbered
            key, mend = None, _MEND
            try:
                kind = TextRow if latents else PromptRow
                row = kind.model_validate(strict_json(line, "The line"))
                key = "blocks"
                names = tuple(block.name for block in row.blocks)
                for block in row.blocks:
                    check_block_name(block.name)
                    check_plain(block.text, f"Block {block.name}")
                if len(set(names)) < len(names):
                    raise GplanError("a block occurs twice")
                places = [order.get(name, -1) for name in names if latents]
                if self.response == "latent" and (-1 in places or places != sorted(places)):
                    mend = f"Convert the checkpoint with --latents {path}, or {SKIP_HINT}."
                    raise GplanError(
                        f"blocks {', '.join(names)} are not some of the model's latent vocabulary, "
                        f"in its order: {', '.join(order)}"
                    )
                key = "answer"
                check_plain(row.answer, "The answer")
                key = "system"
                if system is not None and row.system != system:
                    raise GplanError("another system prompt than in the rows before; all share one")
                key = "id"
                if row.id in seen:
                    raise GplanError(f"{row.id} is the id of line {seen[row.id]} already")
            except ValidationError as error:
                fault = error.errors()[0]
                where = ".".join(map(str, fault["loc"])) or None
                raise RowError(path, number, where, fault["msg"], _MEND) from None
            except GplanError as error:
                raise RowError(path, number, key, str(error).rstrip("."), mend) from None
            seen[row.id], system = number, row.system
            blocks = tuple((block.name, block.text) for block in row.blocks)
            prompt = Prompt(row.system, row.prompt)
            return number, Example(row.id, prompt, blocks, names, row.answer)

        with path.open("rb") as file:
            lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            yield from faulty.sound(path, lines, example)

    def context_of(self, texts: Sequence[Any]) -> Prompt:
        return Prompt(*texts)

    def prompt(self, context: Prompt) -> Prompt:
        return context

    def score(self, text: str, example: Example, encoder: ChatEncoder) -> RowScores:
        """Whether the answer is the row's to the letter; the share of the row's answer tokens that
        stand in their place; whether what stands before is the row's latent prefix, if one is due.
        """
        prefix, close, _ = text.partition(THOUGHT_CLOSE)
        answer = self.read_answer(text, encoder)["answer"]
        tokens, wanted = (encoder.response(t).ids[:-1].tolist() for t in (answer, example.answer))
        hits = sum(a == b for a, b in zip(tokens, wanted, strict=False))
        latent = ((name, None) for name in example.block_names)
        due = write_response(latent, "", encoder.latents) if self.response == "latent" else ""
        values = {"exact": float(answer == example.answer), "answer_tokens": hits / len(wanted)}
        if not due:
            return RowScores(values, None)
        failure = None if prefix + close == due else f"prefix: {prefix + close} where {due} is due"
        return RowScores({**values, "latent_valid": float(failure is None)}, failure)

    def read_answer(self, text: str, encoder: ChatEncoder) -> dict[str, Any]:
        """What follows the reasoning, or all of it where there is none."""
        _, close, rest = text.partition(THOUGHT_CLOSE)
        return {"answer": (rest if close else text).strip()}


def text_latents(path: str | Path, *, width: int) -> LatentVocabulary:
    """The latent vocabulary of a task: ``width`` tokens for each block that its rows name.

    A name that is new in a row stands behind the row's names before it. A ``.yaml`` file is a list
    of names in their order. GplanError where the file is broken, names no block, or rows disagree.
    """
    path = local_path(path)
    if path.suffix in (".yaml", ".yml"):
        names = parse_yaml(path.read_text("utf-8"), source=str(path)) if path.is_file() else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise GplanError(f"{path} is no YAML list of block names.")
        return LatentVocabulary(tuple(names), max_steps=0, width=width)
    order: list[str] = []
    for example in TextTask().read(path, GSISR_LATENTS):
        place = 0
        for name in example.block_names:
            if name not in order:
                order.insert(place, name)
            elif order.index(name) < place:
                raise GplanError(
                    f"{path}: the row with id {example.id} has {name} after blocks that stand "
                    f"behind it in the rows before ({', '.join(order)}). Write the blocks of all "
                    "rows in one order, or list their names in a .yaml file."
                )
            place = order.index(name) + 1
    if not order:
        raise GplanError(f"{path} names no reasoning block; use --latents none.")
    return LatentVocabulary(tuple(order), max_steps=0, width=width)


def texts_of_rows(path: str | Path) -> Iterator[str]:
    """Roles, prompts and responses of a file's rows: what a tokenizer of their own is fitted to."""
    for row in TextTask().read(path, GSISR_LATENTS):
        response = write_response(row.blocks, row.answer, GSISR_LATENTS)
        yield from ("system\nuser\nassistant\n", row.context.system, row.context.user, response)
