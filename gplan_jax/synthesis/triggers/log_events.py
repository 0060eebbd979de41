"""Events of a log and their places: free text made safe for columns read back by punctuation.

The behaviour columns separate entries by commas and find a place's id after the last 的. So ids are
escaped and stay different; words, which only people and models read, get look-alikes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

PLACE_PREFIX = "p_"
LONGEST_ID, LONGEST_WORD = 64, 64
_DIGEST = 16
_CACHE = 1 << 16
_ID_KEPT = frozenset("-.")
_USER_KEPT = frozenset("-._:@+=")
_WORD_KEPT = frozenset("-./()&;:+_|")
_FULL_WIDTH = {chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)}


class LogEvent(NamedTuple):
    """One row of the log: text ("" where empty), times in the spec's zone, profile if mapped."""

    user: str
    when: datetime
    word: str
    place: str = ""
    category: str = ""
    city: str = ""
    district: str = ""
    order: str = ""
    order_type: str = ""
    order_status: str = ""
    order_place: str = ""
    order_category: str = ""
    order_city: str = ""
    order_district: str = ""
    order_made: datetime | None = None
    order_start: datetime | None = None
    order_end: datetime | None = None
    profile: tuple[str, ...] = ()


class Spot(NamedTuple):
    """A place as the rows write it: escaped id, category, city, district; "" where unknown."""

    place: str = ""
    category: str = ""
    city: str = ""
    district: str = ""

    @classmethod
    def escaped(cls, place: str, category: str, city: str, district: str) -> Spot:
        """The place that the texts of a log tell."""
        return cls(place_id(place), word(category), word(city), word(district))

    @property
    def area(self) -> str:
        """City and district in one word; "" where either is unknown."""
        return self.city + self.district if self.city and self.district else ""


NOWHERE = Spot()


@lru_cache(_CACHE)
def place_id(text: str) -> str:
    """A place's id as the rows write it, ``p_...``; "" stays "", different ids stay different.

    All but letters, digits, ``-`` and ``.`` (and 的) becomes the %XX of its UTF-8 bytes; an id
    longer than 64 characters is cut and ends in a digest.
    """
    if not text:
        return ""
    return PLACE_PREFIX + _escaped(text.removeprefix(PLACE_PREFIX) or text, _ID_KEPT)


@lru_cache(_CACHE)
def user_id(text: str) -> str:
    """A user's id: as ``place_id``, without the prefix, and ``_ : @ + =`` stay, too."""
    return _escaped(text, _USER_KEPT)


@lru_cache(_CACHE)
def word(text: str) -> str:
    """A category, city or district: one line, cut after 64 characters.

    ASCII punctuation but ``- . / ( ) & ; : + _ |`` becomes its full-width form (``,`` ，).
    """
    return _harmless(text, _WORD_KEPT)[:LONGEST_WORD].strip()


def profile_value(text: str) -> str:
    """A coded attribute: as ``word``, but commas stay, and it may be of any length."""
    return _harmless(text, _WORD_KEPT | {","})


def _harmless(text: str, kept: frozenset[str]) -> str:
    visible = (c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join("".join(visible).split())
    return "".join(c if c.isalnum() or c in kept else _FULL_WIDTH.get(c, c) for c in line)


def _escaped(text: str, kept: frozenset[str]) -> str:
    safe = "".join(
        c
        if (c.isalnum() and c != "的") or c in kept
        else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        for c in text
    )
    if len(safe) <= LONGEST_ID:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{safe[: LONGEST_ID - _DIGEST - 1]}-{digest}"
