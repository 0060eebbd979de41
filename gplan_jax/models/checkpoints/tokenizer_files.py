"""The tokenizer beside the weights: how it is read, its size, and how it takes in latent tokens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, write_json

_TOKENIZER, _SETTINGS, _ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
_PARTS = ("vocab.json", "merges.txt")
END = "<|im_end|>"  # the end token that responses are trained with


@dataclasses.dataclass(frozen=True)
class TokenizerExtension:
    """A tokenizer with new tokens; its sizes are the largest id + 1."""

    tokenizer: Tokenizer
    ids: dict[str, int]  # each asked-for token -> its id
    size_before: int
    size_after: int

    @property
    def added(self) -> list[str]:
        """The tokens that the tokenizer did not have."""
        return [token for token, number in self.ids.items() if number >= self.size_before]

    def write(self, directory: Path) -> None:
        """Writes the tokenizer into ``directory``, over the unextended copy where there is one."""
        if not self.added and (directory / _TOKENIZER).is_file():
            return
        self.tokenizer.save(str(directory / _TOKENIZER))
        settings_path = directory / _SETTINGS
        settings = read_json(settings_path) if settings_path.is_file() else {}
        # Where transformers keeps a second list of the added tokens, it must name them all.
        if "added_tokens_decoder" in settings:
            flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
            settings["added_tokens_decoder"] |= {
                str(self.ids[token]): {"content": token, **flags, "special": True}
                for token in self.added
            }
            write_json(settings_path, settings)


def extend_tokenizer(directory: Path, new_tokens: Sequence[str]) -> TokenizerExtension | None:
    """Adds ``new_tokens`` to a checkpoint's tokenizer as special tokens with the next ids.

    A token the tokenizer already has keeps its id. Returns None where there is no tokenizer and
    no token to add. Ids with gaps are refused: the library would give a new token an id in use.
    """
    if len(set(new_tokens)) < len(new_tokens) or "" in new_tokens:
        raise GplanError(f"New tokens must be distinct and not empty: {', '.join(new_tokens)}.")
    path = directory / _TOKENIZER
    if path.is_file():
        tokenizer = _read(path)
    elif all((directory / part).is_file() for part in _PARTS):
        tokenizer = _from_vocabulary_and_merges(directory)
    elif new_tokens:
        raise GplanError(
            f"{path} does not exist, so {len(new_tokens)} tokens cannot be added; download the "
            f"tokenizer ({_TOKENIZER}, or {' and '.join(_PARTS)}) beside the weights or convert "
            "without new tokens."
        )
    else:
        return None
    before = _size(tokenizer)
    added = set(new_tokens) - tokenizer.get_vocab(with_added_tokens=True).keys()
    if added and before != tokenizer.get_vocab_size(with_added_tokens=True):
        raise GplanError(
            f"{path} has ids up to {before - 1} for {tokenizer.get_vocab_size()} tokens; tokens "
            "can be added only where the ids have no gaps."
        )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in new_tokens]
    )
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    ids = {token: vocabulary[token] for token in new_tokens}
    return TokenizerExtension(tokenizer, ids, before, _size(tokenizer))


def check_tokenizer(directory: Path, *, rows: int, needed: bool = False) -> None:
    """Checks that every id of the ``tokenizer.json`` beside some weights has an embedding row.

    A missing one is a GplanError where it is ``needed``.
    """
    path = directory / _TOKENIZER
    if path.is_file():
        check_size(_size(_read(path)), path, rows=rows)
    elif needed:
        raise GplanError(f"{path} does not exist; copy it from where the weights came from.")


def write_end_token(directory: Path) -> None:
    """Has every file beside the weights end a response with the end token that we train.

    A base checkpoint names another one, and the servers that read them would run on behind it.
    """
    number = _read(directory / _TOKENIZER).token_to_id(END)
    if number is None:
        return
    for name in ("config.json", "generation_config.json"):
        if (directory / name).is_file():
            values = read_json(directory / name)
            given = values.get("eos_token_id")
            ends = given if isinstance(given, list) else [given]
            if number not in ends:
                # transformers 4 and several servers read one number from config.json.
                both = [number, *(end for end in ends if end is not None)]
                values["eos_token_id"] = number if name == "config.json" else both
                write_json(directory / name, values)
    for name in (_SETTINGS, "special_tokens_map.json"):
        if (directory / name).is_file():
            values = read_json(directory / name)
            given = values.get("eos_token")
            if (given.get("content") if isinstance(given, dict) else given) != END:
                write_json(directory / name, values | {"eos_token": END})


def check_size(size: int, path: Path, *, rows: int) -> None:
    """Raises GplanError where the tokenizer at ``path`` has ids beyond an embedding's rows."""
    if size > rows:
        raise GplanError(
            f"{path} has ids up to {size - 1}, but the embedding has {rows} rows; the tokenizer "
            "belongs to another checkpoint."
        )


def _read(path: Path) -> Tokenizer:
    # Not through transformers: it rebuilds parts of what tokenizer.json says.
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise GplanError(f"{path} is not a readable tokenizer: {error}.") from None
    # What a file says of lengths is of whoever saved it, and is not handed on.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_vocabulary_and_merges(directory: Path) -> Tokenizer:
    """The older form: transformers knows how Qwen's text is split, which no file of it says."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns that there is no torch
    import transformers

    named = " and ".join(_PARTS)
    try:
        said: dict[str, int] = dict(read_json(directory / "vocab.json"))
        if (directory / _ADDED).is_file():
            said |= read_json(directory / _ADDED)
        if (directory / _SETTINGS).is_file():
            listed = read_json(directory / _SETTINGS).get("added_tokens_decoder", {})
            said |= {entry["content"]: int(number) for number, entry in listed.items()}
        read = transformers.Qwen2Tokenizer.from_pretrained(directory, local_files_only=True)
        tokenizer = Tokenizer.from_str(read.backend_tokenizer.to_str())
    except Exception as error:  # whatever the library meets in the files
        raise GplanError(f"{directory}: {named} are not a readable tokenizer: {error}.") from None
    # Where no file gives the ids of the control tokens, transformers numbers them anew, in an order
    # of its own, and where there is no <|endoftext|>, it adds one.
    if differing := sorted(dict(said.items() ^ tokenizer.get_vocab().items())):
        raise GplanError(
            f"{directory}: {named} with {_ADDED} or {_SETTINGS} don't give the ids of all tokens: "
            f"not of {', '.join(differing[:5])}; download {_TOKENIZER} beside the weights."
        )
    return tokenizer


def _size(tokenizer: Tokenizer) -> int:
    # Not the number of tokens: ids may have gaps, and rows are addressed by id.
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
