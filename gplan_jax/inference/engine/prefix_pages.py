"""Keys and values of users' profiles and histories, kept by page under a byte budget.

The tokens that a request shares with the next one of its user (``Prompted.shared``) are cut into
pages. A page is found again by the hash of all tokens up to its end, so requests share the pages of
whatever they have in common, and a page is only of use where the ones before it are there too. The
least recently used page goes first; of one request's pages the last is the first to go.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import jax
import numpy as np

from gplan_jax.inference.engine.passes import KVCache


class PrefixPages:
    """A cache from tokens to pages of ``page`` tokens each, ``budget`` bytes of them at most."""

    def __init__(self, page: int, budget: int) -> None:
        self.page = page
        self._budget = budget
        self._pages: OrderedDict[bytes, KVCache] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def find(self, tokens: Sequence[int]) -> list[KVCache]:
        """The pages that are there for the beginning of ``tokens``, from the first one on."""
        found = []
        keys = self._keys(tokens)
        for key in keys:
            if key not in self._pages:
                break
            found.append(self._pages[key])
        if keys:
            self.hits, self.misses = self.hits + bool(found), self.misses + (not found)
        for key in reversed(keys[: len(found)]):
            self._pages.move_to_end(key)
        return found

    def missing(self, tokens: Sequence[int]) -> list[int]:
        """Numbers of the whole pages of ``tokens`` that are not there, ascending."""
        return [n for n, key in enumerate(self._keys(tokens)) if key not in self._pages]

    def put(self, tokens: Sequence[int], number: int, page: KVCache) -> None:
        """Keeps page ``number`` of ``tokens``, unless an earlier one of theirs would have to go."""
        keys = self._keys(tokens)[: number + 1]
        size = _bytes(page)
        while self._pages and self.bytes + size > self._budget:
            oldest = next(iter(self._pages))
            if oldest in keys:
                return
            self.bytes -= _bytes(self._pages.pop(oldest))
        if self.bytes + size > self._budget:
            return
        self._pages[keys[number]] = page
        self.bytes += size
        for key in reversed(keys):
            if key in self._pages:
                self._pages.move_to_end(key)

    def _keys(self, tokens: Sequence[int]) -> list[bytes]:
        """A hash for each whole page, of all tokens up to its end."""
        if not self._budget:
            return []
        digest = hashlib.blake2b(digest_size=16)
        keys = []
        for start in range(0, len(tokens) - self.page + 1, self.page):
            digest.update(np.asarray(tokens[start : start + self.page], np.int32).tobytes())
            keys.append(digest.digest())
        return keys


def _bytes(page: KVCache) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(page))
