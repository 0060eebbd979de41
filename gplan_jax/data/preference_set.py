"""Context pairs as a random-access training set: a pair gives four sequences of token ids.

Both responses are in fully latent form. The two prompts of a pair are cut alike where they are too
long, so what they share stays shared; where it ends is found in the token ids themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.task import Example, ExamplePair, Task
from gplan_jax.foundation import RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows, empty_data_set
from gplan_jax.foundation.files import atomic_write, json_lines
from gplan_jax.foundation.progress import track
from gplan_jax.reasoning import write_response

ALIKE, NO_REASONING = -1, -2


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of a pair."""

    # whole ones, of the anchor and of the counterfactual context
    prompts: tuple[np.ndarray, np.ndarray]
    # the one that fits each of them, the end token included
    responses: tuple[np.ndarray, np.ndarray]
    # Leading tokens that both prompts have in common, the system part included; the last token of a
    # prompt never counts, since its state predicts the response.
    shared: int

    def response(self, context: int, choice: int) -> np.ndarray:
        """Under context 0 or 1 the chosen (0) or rejected (1) response."""
        return self.responses[context ^ choice]


@dataclass(frozen=True)
class PreferenceSet:
    """Context pairs with all that turns one into tokens. Pure: nothing is kept between calls."""

    pairs: tuple[ExamplePair, ...]
    encoder: ChatEncoder
    task: Task  # prompts, and what they are cut to; a response is never cut
    source: Path  # the file they came from, for messages

    @classmethod
    def read(
        cls, path: str | Path, *, encoder: ChatEncoder, task: Task, faulty: FaultyRows | None = None
    ) -> PreferenceSet:
        encoder.require_latents()
        pairs = task.read_pairs(path, encoder.latents, faulty)
        return cls(tuple(pairs), encoder, task, Path(path))

    def __len__(self) -> int:
        return len(self.pairs)

    def row_id(self, row: int) -> str:
        return self.pairs[row].key

    def content_digest(self) -> str:
        """A hash of the texts of every pair that training depends on."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            texts = [text for row in pair.examples for text in row.texts]
            digest.update(json.dumps(texts, ensure_ascii=False).encode())
        return digest.hexdigest()

    @property
    def examples(self) -> Iterator[Example]:
        """Every context of every pair and the answer that fits it."""
        return (example for pair in self.pairs for example in pair.examples)

    @cached_property
    def prefix_ids(self) -> np.ndarray:
        """int32 [P]: what every prompt begins with, its system part."""
        return self.encoder.system_ids(self.task.prompt(self.pairs[0].examples[0].context))

    def tokenize(self, row: int) -> TokenizedPair:
        """Token ids of a pair; both prompts lose as many tokens as the longer one has to."""
        prompts = [self.task.prompt(example.context) for example in self.pairs[row].examples]
        one, other = self.encoder.prompts_cut_alike(prompts, max_length=self.task.prompt_length)
        first, second = self._responses(row)
        longest = min(len(one), len(other)) - 1
        differ = np.flatnonzero(one[:longest] != other[:longest])
        shared = int(differ[0]) if len(differ) else longest
        return TokenizedPair((one, other), (first, second), shared)

    def response_lengths(self, *, cache_dir: Path | None = None) -> np.ndarray:
        """int32 [N]: tokens of the longer response of every pair, kept as ``fitting`` keeps its."""
        digest = hashlib.sha256(self.encoder.fingerprint.encode())
        for pair in self.pairs:
            digest.update("".join(f"{self._latent(e)}\0" for e in pair.examples).encode())
        return _cached_counts(
            cache_dir,
            f"pair-responses-{digest.hexdigest()[:16]}",
            lambda: [
                max(map(len, self._responses(row)))
                for row in track(range(len(self)), "counting responses")
            ],
        )

    def fitting(
        self, *, cache_dir: Path | None = None, faulty: FaultyRows | None = None
    ) -> tuple[PreferenceSet, np.ndarray]:
        """The pairs that can be trained on, and int32 [N, 3]: their tokens by level of the tree.

        The levels are what both prompts share below the system part, the longer of their rests
        (the last prompt token left out, which the leaf begins with), and the longer response. A
        pair can't be trained on where a response has no reasoning, or the template shows nothing
        of what has changed, so that one prompt would want two plans.
        """
        whole = hashlib.sha256("".join(map(self.digest, range(len(self)))).encode()).hexdigest()
        table_Nx3 = _cached_counts(
            cache_dir,
            f"pair-lengths-{whole[:16]}",
            lambda: [self._levels(row) for row in track(range(len(self)), "counting tokens")],
        )
        sound_N = table_Nx3[:, 0] >= 0
        # The file is read again only where a fault is to be named by its line: a pair's first one.
        lines: dict[str, int] = {}
        if not sound_N.all():
            for number, value in json_lines(self.source):
                if isinstance(value, dict) and "pair" in value:
                    lines.setdefault(value["pair"], number)
        faulty = faulty or FaultyRows()
        faults = [
            self._fault(self.pairs[row], int(table_Nx3[row, 0]), lines)
            for row in np.flatnonzero(~sound_N)
        ]
        for fault in faults:
            faulty.add(fault)
        if not sound_N.any():
            raise empty_data_set(self.source, faults)
        pairs = tuple(self.pairs[row] for row in np.flatnonzero(sound_N))
        return dataclasses.replace(self, pairs=pairs), table_Nx3[sound_N]

    def whole_lengths(self, levels_Nx3: np.ndarray) -> np.ndarray:
        """int32 [N, 1, 2]: tokens of the longer prompt and response, as a batch plan wants them."""
        prompts_N = len(self.prefix_ids) + levels_Nx3[:, :2].sum(axis=1) + 1
        return np.stack([prompts_N, levels_Nx3[:, 2]], axis=1)[:, None]

    def digest(self, row: int) -> str:
        """A hash of all that the token ids of a pair depend on: texts, tokenizer, length."""
        room = f"prompts of {self.task.prompt_length}"
        digest = hashlib.sha256(f"{room}|{self.encoder.fingerprint}".encode())
        for example in self.pairs[row].examples:
            prompt = self.task.prompt(example.context)
            digest.update(f"{prompt.system}\0{prompt.user}\0{self._latent(example)}\0".encode())
        return digest.hexdigest()

    def _responses(self, row: int) -> list[np.ndarray]:
        return [self.encoder.response(self._latent(e)).ids for e in self.pairs[row].examples]

    def _latent(self, example: Example) -> str:
        blocks = [(name, None) for name, _ in example.blocks]
        return write_response(blocks, example.answer, self.encoder.latents)

    def _levels(self, row: int) -> Sequence[int]:
        """Tokens of a pair by level; the first number is a code where it can't be trained on."""
        if not all(example.blocks for example in self.pairs[row].examples):
            return NO_REASONING, 0, 0
        tokens = self.tokenize(row)
        if np.array_equal(*tokens.prompts):
            return ALIKE, 0, 0
        shared = max(tokens.shared - len(self.prefix_ids), 0)
        rest = max(map(len, tokens.prompts)) - tokens.shared - 1
        return shared, rest, max(map(len, tokens.responses))

    def _fault(self, pair: ExamplePair, code: int, first_lines: Mapping[str, int]) -> RowError:
        problem, mend = {
            ALIKE: (
                f"the contexts of pair {pair.key} differ in "
                f"{', '.join(pair.changed)}, but their prompts are the same",
                "Choose a template that shows them, or perturbations that it shows",
            ),
            NO_REASONING: (
                f"pair {pair.key} has a response without reasoning, which has no latent form",
                "Let a teacher write it",
            ),
        }[code]
        line = first_lines.get(pair.key, 1)
        return RowError(self.source, line, None, problem, f"{mend}, or {SKIP_HINT}.")


def _cached_counts(
    cache_dir: Path | None, name: str, count: Callable[[], Sequence[Any]]
) -> np.ndarray:
    """int32 table of ``count()``, read from ``cache_dir``/``name``.npy where that stands.

    ``name`` holds a hash of everything the counts depend on, so a resumed run need not count again.
    """
    path = cache_dir / f"{name}.npy" if cache_dir else None
    if path and path.is_file():
        return np.load(path)
    table = np.asarray(count(), np.int32)
    if path:
        with atomic_write(path) as temporary, temporary.open("wb") as out:
            np.save(out, table)
    return table
