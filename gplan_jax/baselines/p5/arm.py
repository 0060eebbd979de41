"""P5 as an arm: text in, text out (Geng et al. 2022, "Recommendation as language processing").

A row is short fields, and fields and plans are token ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import nnx
from pydantic import Field
from tokenizers import models, pre_tokenizers

from gplan_jax.baselines.fitting.network import Batch, FitInput, FitSettings, Recipe, network_arm
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode, history_only
from gplan_jax.baselines.t5.model import T5, T5Config
from gplan_jax.baselines.t5.plans import plan_constraint, plan_decoder, plan_loss
from gplan_jax.data.batch_plan import round_up
from gplan_jax.gsisr import (
    Intent,
    IntentLibrary,
    PromptTemplate,
    Sample,
    Service,
    canonical_plan,
    long_term,
    short_term,
)
from gplan_jax.gsisr.facts import request_time
from gplan_jax.gsisr.prompts import bucket
from gplan_jax.gsisr.service import COMPACT

PAD, UNKNOWN, END = 0, 1, 2
_SPECIAL = ("<pad>", "<unknown>", "<end>")
_VOCABULARY_STEP = 256
_LENGTH_STEP = 16

Fields = Sequence[str]

TEMPLATE = "compact_zh"
# A prompt is to stay short: where facts tell what the history means, less of it is written.
_HABITS = {InputMode.FULL: 2, InputMode.HISTORY: 4}
_EVENTS = {InputMode.FULL: 3, InputMode.HISTORY: 8}
_PROFILE = (1, 2, 3, 4, 10, 11, 12)
_AGES = (
    (1, "1小时内"), (3, "3小时内"), (12, "12小时内"), (24, "1天内"), (72, "3天内"), (168, "7天内"),
)  # fmt: skip


@cache
def _template_of(folder: Path) -> PromptTemplate:
    return Service.load(folder).template(COMPACT)


def prompt_fields(sample: Sample, mode: InputMode, library: IntentLibrary) -> tuple[str, ...]:
    """The fields of a row's prompt, from profile codes over histories to the facts of now.

    The facts are the lines of the planners' compact prompt, and so is their order; HISTORY leaves
    them out and shows the profile, the first habits and the latest events only. The label is never
    looked at. GplanError where a time of the row can't be read.
    """
    if mode is InputMode.HISTORY:
        sample = history_only(sample)
    codes = [(i, getattr(sample, f"profile_feat_{i}")) for i in _PROFILE]
    fields = ["画像 " + " ".join(f"{i}={code}" for i, code in codes if code)]
    for habit in long_term(sample.long_term_behavior, sample.form)[: _HABITS[mode]]:
        fields.append(f"常去 {habit.category} {_relation(habit.place, sample)}")
    events = short_term(sample.short_term_behavior_seq, request_time(sample), sample.form)
    for event in events[-_EVENTS[mode] :]:
        hours = (request_time(sample) - event.when).total_seconds() / 3600
        age, actions = bucket(hours, _AGES, "更早", "未知"), "&".join(event.actions)
        place = _relation(event.place, sample)
        fields.append(f"{age} {actions} {event.locality} {event.category} {place}")
    if mode is InputMode.FULL:
        own = library.folder if library.rows else None
        template = _template_of(own) if own else PromptTemplate.load(TEMPLATE)
        fields += template.render(sample.with_label(""), library).user.splitlines()
    return tuple(field.strip() for field in fields if field.strip())


def _relation(place: str, sample: Sample) -> str:
    """Which of the row's own places it is; "" where none."""
    own = (
        ("订单地", sample.trigger_4),
        ("此地", sample.current_poi_name),
        ("家", sample.profile_feat_6),
        ("公司", sample.profile_feat_8),
    )
    return next((name for name, value in own if value == place), "")


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of prompts and plans.

    A field of a prompt falls into words at blanks and colons, and before a number with its unit:
    "时段:凌晨0点" is 时段, 凌晨, 0点. All tokens of a field, and so of one
    entry of a history, share a whole-word id, as the pieces of an item's name do in P5.
    """

    tokenizer: tokenizers.Tokenizer
    codes: tuple[tuple[int, ...], ...]  # of each atom: its tool, then each parameter with its value
    parts: dict[int, tuple[str, str]]  # token of plans -> the key and value that it writes
    size: int  # V, rounded up so that folds whose words differ share one compiled program
    length: int  # of the longest prompt, rounded up; longer ones lose their first fields
    library: IntentLibrary

    @classmethod
    def fit(
        cls, prompts: Sequence[Fields], atoms: Atoms, *, most_tokens: int, least_count: int
    ) -> Text:
        """The words of training prompts that come ``least_count`` times, and all words of plans."""
        # Words end at blanks and colons, and before a number with its unit.
        digits = pre_tokenizers.Split(tokenizers.Regex(r"(?<![=_|\d])\d+\D*$"), "isolated")
        marks = pre_tokenizers.Split(tokenizers.Regex(r"[\s:：]+"), "removed")
        cut = pre_tokenizers.Sequence([marks, digits])
        counts = Counter(
            word
            for fields in prompts
            for field in fields
            for word, _ in cut.pre_tokenize_str(field)
        )
        pieces = [_pieces(intent, atoms.library) for intent in atoms.intents]
        # The order of plan words is the library's, that of prompt words their frequency.
        words = [_word(piece) for intent in pieces for piece in intent]
        frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words += [word for word, count in frequent if count >= least_count]
        ids = {word: i for i, word in enumerate(dict.fromkeys((*_SPECIAL, *words)))}
        tokenizer = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=_SPECIAL[UNKNOWN]))
        tokenizer.pre_tokenizer = cut
        longest = max(len(ids) for ids, _ in _encode(tokenizer, prompts))
        return cls(
            tokenizer=tokenizer,
            codes=tuple(tuple(ids[_word(piece)] for piece in intent) for intent in pieces),
            parts={ids[_word(piece)]: piece for intent in pieces for piece in intent},
            size=round_up(len(ids), _VOCABULARY_STEP),
            length=min(round_up(longest, _LENGTH_STEP), most_tokens),
            library=atoms.library,
        )

    def encode(self, prompts: Sequence[Fields]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and whole-word ids of prompts, both int32 [N, length], filled up with 0 (PAD).

        Whole-word ids count fields from the last one, 1, backwards: so the facts keep theirs
        whatever the length of the histories.
        """
        tokens = np.zeros((len(prompts), self.length), np.int32)
        words = np.zeros_like(tokens)
        for row, (ids, fields) in enumerate(_encode(self.tokenizer, prompts)):
            cut = max(len(ids) - self.length, 0)
            kept = len(ids) - cut
            tokens[row, :kept] = ids[cut:]
            words[row, :kept] = [len(prompts[row]) - field for field in fields[cut:]]
        return tokens, words

    def targets(self, plans: Sequence[Sequence[int]]) -> np.ndarray:
        """Plans of atoms as tokens with END, int32 [N, T], filled up with PAD; T is rounded up."""
        written = [[t for atom in plan for t in self.codes[atom]] + [END] for plan in plans]
        width = round_up(max(map(len, written)), 8)
        return np.array([row + [PAD] * (width - len(row)) for row in written], np.int32)

    def plan_text(self, tokens: Iterable[int]) -> str:
        """The plan that tokens up to END spell, read tolerantly.

        Each tool begins an intent, each parameter goes to the intent before it (the first of a
        name counts); other words, and parameters before any tool, are skipped. So a plan may have
        intents that the library does not admit.
        """
        plan: list[Intent] = []
        for token in tokens:
            if token == END:
                break
            name, value = self.parts.get(int(token), ("", ""))
            if name == self.library.tool_key:
                plan.append({name: value})
            elif plan and name and value:
                plan[-1].setdefault(name, value)
        return canonical_plan(plan, self.library)


def _pieces(intent: Intent, library: IntentLibrary) -> list[tuple[str, str]]:
    """An intent as (key, value), the tool first; an optional parameter that is absent is ""."""
    tool = library.tools[intent[library.tool_key]]
    keys = [key for key in library.parameters if key in (*tool.parameters, *tool.optional)]
    # Naming absent parameters makes codes of one tool equally long, so that none begins another.
    return [(key, intent.get(key, "")) for key in (library.tool_key, *keys)]


def _word(piece: tuple[str, str]) -> str:
    return "=".join(piece)


def _encode(
    tokenizer: tokenizers.Tokenizer, prompts: Sequence[Fields]
) -> list[tuple[list[int], list[Any]]]:
    """(token ids, the index of the field that each is of) of each prompt."""
    encoded = tokenizer.encode_batch([list(fields) for fields in prompts], is_pretokenized=True)
    return [(encoding.ids, encoding.word_ids) for encoding in encoded]


WHOLE_WORDS = 64


class P5Settings(FitSettings):
    """P5's sizes (see T5Config), its text, and its beam."""

    epochs: int = Field(default=18, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    hidden_size: int = 64
    heads: int = 4
    head_dim: int = 16
    mlp_size: int = 128
    layers: int = 2
    dropout: float = Field(default=0.05, ge=0, lt=1)
    prompt_tokens: int = Field(default=128, ge=16)  # at most; the first fields go
    least_count: int = Field(default=3, ge=1)  # words that training has less often are unknown
    beams: int = Field(default=4, ge=1)
    decoding_batch: int = Field(default=64, ge=1)


class P5Network(nnx.Module):
    """A T5, and a table [WHOLE_WORDS, D] whose row w is added to the source tokens of word w."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.t5 = T5(config, rngs=rngs)
        shape = (WHOLE_WORDS, config.hidden_size)
        self.whole_words = nnx.Param(jax.random.normal(rngs.params(), shape))

    def encode(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Reads "tokens" and "words" [B, S]; words beyond the table share its last row."""
        tokens_BxS, words_BxS = batch["tokens"], batch["words"]
        words_BxSxD = self.whole_words[...][jnp.minimum(words_BxS, WHOLE_WORDS - 1)]
        mask_BxS = tokens_BxS != PAD
        return self.t5.encode(self.t5.embed(tokens_BxS) + words_BxSxD, mask_BxS, key), mask_BxS


def p5_recipe(given: FitInput, settings: P5Settings) -> Recipe:
    """How P5 reads rows and writes plans; its words and codes are those of the training rows."""
    library = given.atoms.library

    def fields(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
        return [prompt_fields(sample, given.mode, library) for sample in samples]

    vocabulary = Text.fit(
        fields(given.train.samples),
        given.atoms,
        most_tokens=settings.prompt_tokens,
        least_count=settings.least_count,
    )
    config = T5Config(
        vocabulary_size=vocabulary.size,
        hidden_size=settings.hidden_size,
        heads=settings.heads,
        head_dim=settings.head_dim,
        mlp_size=settings.mlp_size,
        encoder_layers=settings.layers,
        decoder_layers=settings.layers,
        dropout=settings.dropout,
    )
    constraint = plan_constraint(vocabulary.codes, given.mask, vocabulary=vocabulary.size, end=END)

    def inputs(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        tokens, words = vocabulary.encode(fields(samples))
        return {"tokens": tokens, "words": words}

    return Recipe(
        loss=plan_loss,
        decoding_batch=settings.decoding_batch,
        inputs=inputs,
        targets=lambda plans: {"target": vocabulary.targets(plans)},
        network=lambda rngs: P5Network(config, rngs=rngs),
        decode=plan_decoder(vocabulary.codes, constraint, beams=settings.beams, end=END),
        text=vocabulary.plan_text,
    )


P5 = network_arm(
    "p5",
    "P5",
    P5Settings,
    ({}, {"learning_rate": 1.5e-3}, {"dropout": 0.0}, {"weight_decay": 0.1}),
    p5_recipe,
)
