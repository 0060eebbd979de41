"""Text to token ids in Qwen3's chat layout, with the section of every response token.

A prompt's content is encoded by a tokenizer that knows no added token, so nothing a user wrote can
become a control token or a latent one; the control tokens of the layout are put in by id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from gplan_jax.foundation import GplanError
from gplan_jax.models.checkpoints.model_directory import RECORD, ModelRecord
from gplan_jax.models.checkpoints.tokenizer_files import END
from gplan_jax.reasoning import (
    GSISR_LATENTS,
    PLAN_SECTION,
    REASONING_SECTION,
    LatentVocabulary,
    Prompt,
    response_sections,
)

START = "<|im_start|>"
PAD = "<|endoftext|>"


@dataclass(frozen=True)
class EncodedResponse:
    """Token ids of a response, the end token included, and the section of each (1 or 2)."""

    ids: np.ndarray
    sections: np.ndarray


class ChatEncoder:
    """Encodes prompts and responses with a ``tokenizer.json``; ``source`` names it in errors."""

    def __init__(
        self,
        tokenizer_json: str,
        *,
        latents: LatentVocabulary = GSISR_LATENTS,
        source: str = "tokenizer.json",
    ) -> None:
        self.latents = latents
        self._json = tokenizer_json
        self._source = source
        try:
            stored = json.loads(tokenizer_json)
            # The file may ask to cut and to pad what is encoded, to add tokens, to move offsets,
            # and to split words at random (BPE dropout). All of that is decided here.
            stored |= {"truncation": None, "padding": None, "post_processor": None}
            stored.get("model", {}).pop("dropout", None)
            self._tokenizer = Tokenizer.from_str(json.dumps(stored))
        except Exception as error:  # the library raises bare Exception
            raise GplanError(f"{source} is not a readable tokenizer: {error}.") from None
        self._plain_tokenizer = Tokenizer.from_str(json.dumps(stored | {"added_tokens": []}))
        self.end_id = self._require(END)
        self.pad_id = self._require(PAD)
        self._start_id = self._require(START)
        ids = (self.end_id, *self._plain_ids("\n"), self._start_id, *self._plain_ids("assistant\n"))
        self._assistant_ids = np.asarray(ids, np.int32)
        self._system_ids = lru_cache(maxsize=8)(self._encode_system)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        # Worker processes rebuild the encoder: a Rust tokenizer and a cache do not travel.
        rebuild = partial(ChatEncoder, latents=self.latents, source=self._source)
        return (rebuild, (self._json,))

    @classmethod
    def load(cls, model_dir: str | Path) -> ChatEncoder:
        """Reads ``tokenizer.json``, and the latent vocabulary from ``gplan.json`` where given."""
        folder = Path(model_dir)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise GplanError(f"{path} does not exist; a model directory holds its tokenizer.")
        latents = GSISR_LATENTS
        if (folder / RECORD).is_file():
            stored = ModelRecord.read(folder).metadata.get("latents")
            try:
                latents = LatentVocabulary.from_dict(stored) if stored else latents
            except GplanError as error:
                raise GplanError(f"{folder / 'gplan.json'}, metadata.latents: {error}") from None
        return cls(path.read_text(encoding="utf-8"), latents=latents, source=str(path))

    @property
    def fingerprint(self) -> str:
        """A hash of the tokenizer: caches of tokens hang on it."""
        return hashlib.sha256(self._json.encode()).hexdigest()

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def latent_ids(self) -> tuple[int, ...]:
        """Ids of the latent tokens that the tokenizer has, ascending."""
        ids = (self._tokenizer.token_to_id(token) for token in self.latents.tokens)
        return tuple(sorted(index for index in ids if index is not None))

    def require_latents(self) -> None:
        """Raises GplanError where the tokenizer lacks a latent token."""
        missing = [t for t in self.latents.tokens if self._tokenizer.token_to_id(t) is None]
        if missing:
            raise GplanError(
                f"{self._source} lacks {len(missing)} latent tokens, the first {missing[0]}; "
                "convert the checkpoint with `gplan convert HF_DIR --out DIR`; rows of text want "
                "--latents FILE."
            )

    def system_ids(self, prompt: Prompt) -> np.ndarray:
        """Ids that all prompts of a template begin with: the system part and the user header."""
        return self._system_ids(prompt.system)

    def prompt_ids(self, prompt: Prompt, *, max_length: int) -> np.ndarray:
        """Ids of the prompt up to where the response starts, at most ``max_length`` of them.

        A prompt that is too long loses tokens on the left of its user part: the system part and
        the end of the user part, which holds the current context, stay. GplanError where the
        constant part alone exceeds ``max_length``.
        """
        [ids] = self.prompts_cut_alike([prompt], max_length=max_length)
        return ids

    def prompts_cut_alike(
        self, prompts: Sequence[Prompt], *, max_length: int
    ) -> tuple[np.ndarray, ...]:
        """As ``prompt_ids``, but all lose as many tokens as the longest one has to.

        So what they share at the beginning of their user parts stays shared.
        """
        users = self.user_ids(prompts)
        rooms = [self.user_room(prompt, max_length=max_length) for prompt in prompts]
        cut = max(0, *(len(user) - room for user, room in zip(users, rooms, strict=True)))
        return tuple(
            self.around_user(prompt, user[cut:], max_length=max_length)
            for prompt, user in zip(prompts, users, strict=True)
        )

    def read_prompt(self, text: str, system: str) -> Prompt | None:
        """The prompt whose chat layout ``text`` is, None where it isn't that of this system part.

        What stands in the user part is text, whatever it looks like.
        """
        head = f"{START}system\n{system}{END}\n{START}user\n"
        tail = f"{END}\n{START}assistant\n"
        if not (text.startswith(head) and text.endswith(tail) and len(text) >= len(head + tail)):
            return None
        return Prompt(system, text[len(head) : -len(tail)])

    def user_ids(self, prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """int32 [U] each: the whole user parts of prompts, without what stands around them."""
        return _fast_ids(self._plain_tokenizer, [prompt.user for prompt in prompts])

    def around_user(self, prompt: Prompt, user_ids: np.ndarray, *, max_length: int) -> np.ndarray:
        """As ``prompt_ids``, where the ids of the user part are known; its text is not read."""
        cut = max(0, len(user_ids) - self.user_room(prompt, max_length=max_length))
        return np.concatenate([self.system_ids(prompt), user_ids[cut:], self._assistant_ids])

    def user_room(self, prompt: Prompt, *, max_length: int) -> int:
        """Tokens of its user part that a prompt of ``max_length`` can hold; GplanError for none."""
        constant = len(self._system_ids(prompt.system)) + len(self._assistant_ids)
        if constant >= max_length:
            raise GplanError(
                f"The prompt's constant part has {constant} tokens, but a whole prompt may have "
                f"only {max(max_length, 0)}; allow for more (data.max_length or "
                "data.prompt_length of a config, --prompt-length of a command), or choose a "
                "shorter prompt template."
            )
        return max_length - constant

    def word_borders(self, text: str) -> set[int]:
        """Places in ``text`` that no token crosses; empty where the tokenizer knows no words."""
        words = self._tokenizer.pre_tokenizer
        return {end for _, (_, end) in words.pre_tokenize_str(text)} if words else set()

    def response(self, text: str) -> EncodedResponse:
        """Ids and sections of a response text, with the end token after it.

        A token belongs to the plan as soon as one of its characters does: byte-level merges such
        as ``>[`` straddle the border, and the plan's first bracket must be supervised as plan.
        """
        ids_T, spans_Tx2 = self.response_spans(text)
        plan_starts = [start for start, _, s in response_sections(text) if s == PLAN_SECTION]
        border = plan_starts[0] if plan_starts else len(text)
        sections_T = np.where(spans_Tx2[:, 1] > border, PLAN_SECTION, REASONING_SECTION)
        return EncodedResponse(
            np.append(ids_T, np.int32(self.end_id)),
            np.append(sections_T, PLAN_SECTION).astype(np.int8),
        )

    def response_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 [T] each: the ids of responses or parts of them, without an end token."""
        return _fast_ids(self._tokenizer, texts)

    def response_spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """int32 [T], [T, 2]: the same ids of one, and the characters that each spans."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        spans_Tx2 = np.asarray(encoding.offsets, np.int32).reshape(-1, 2)
        return np.asarray(encoding.ids, np.int32), spans_Tx2

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, latent tokens written out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _require(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise GplanError(
                f"{self._source} has no token {token}; Qwen3's chat layout needs it. "
                "Use the tokenizer that belongs to the checkpoint."
            )
        return int(index)

    def _encode_system(self, system: str) -> np.ndarray:
        content, newline, user = map(self._plain_ids, ("system\n" + system, "\n", "user\n"))
        ids = (self._start_id, *content, self.end_id, *newline, self._start_id, *user)
        return np.asarray(ids, np.int32)

    def _plain_ids(self, text: str) -> list[int]:
        return self._plain_tokenizer.encode(text, add_special_tokens=False).ids


def _fast_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(encoding.ids, np.int32) for encoding in found]
