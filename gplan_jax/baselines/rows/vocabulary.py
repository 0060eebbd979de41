"""Numbers for the values of named fields, from the rows that a model is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gplan_jax.foundation.errors import GplanError

PADDING = 0
ABSENT, UNKNOWN = "<absent>", "<unknown>"


class Token(NamedTuple):
    """A field's value; "" where the row has none."""

    field: str
    value: str


@dataclass(frozen=True)
class Vocabulary:
    """Which number stands for which value; 0 is padding and stands for none.

    Every field has <absent>, for rows that have no value, and <unknown>, for values that training
    saw in fewer than ``min_count`` positions.

    Attributes:
        numbers: token -> number from 1 on; the same training rows in any order give the same ones.
    """

    numbers: Mapping[Token, int]

    @classmethod
    def fit(
        cls, tokens: Iterable[Token], fields: Iterable[str], *, min_count: int = 1
    ) -> Vocabulary:
        """Numbers the fields' <absent> and <unknown> and all frequent values of ``tokens``."""
        counts = Counter(tokens)
        frequent = {token for token, count in counts.items() if token.value and count >= min_count}
        order = [
            Token(field, value)
            for field in dict.fromkeys(fields)
            for value in (
                ABSENT, UNKNOWN, *sorted(token.value for token in frequent if token.field == field)
            )
        ]  # fmt: skip
        return cls({token: number for number, token in enumerate(order, start=PADDING + 1)})

    @property
    def size(self) -> int:
        """How many numbers there are, padding included."""
        return len(self.numbers) + 1

    def number(self, token: Token) -> int:
        """The number of a token; GplanError where its field is unknown."""
        known = self.numbers.get(token) if token.value else self.numbers.get(_absent(token))
        if known is None:
            known = self.numbers.get(Token(token.field, UNKNOWN))
        if known is None:
            raise GplanError(f"The vocabulary has no field {token.field}.")
        return known


def _absent(token: Token) -> Token:
    return Token(token.field, ABSENT)
