"""Pages are found by the tokens up to their end, within a budget, least recently used first out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.inference.engine.continuous import PrefixPages
from gplan_jax.inference.engine.passes import KVCache

PAGE = 4
PAGE_BYTES = 2 * 8


def page(tokens: Sequence[int], number: int) -> KVCache:
    """A stand-in that says which tokens it was made of."""
    end = (number + 1) * PAGE
    mark = np.asarray([end, sum(t * 31**i for i, t in enumerate(tokens[:end])) % 1009], np.int32)
    return KVCache(mark, mark)  # type: ignore[arg-type]


def put_all(pages: PrefixPages, tokens: Sequence[int]) -> None:
    for number in pages.missing(tokens):
        pages.put(tokens, number, page(tokens, number))


token_lists = st.lists(st.integers(0, 2), max_size=14)


@given(st.lists(token_lists, max_size=12), st.integers(0, 6))
def test_only_pages_of_the_same_beginning_are_found(requests: list[list[int]], budget: int) -> None:
    pages = PrefixPages(PAGE, budget * PAGE_BYTES)
    for tokens in requests:
        found = pages.find(tokens)
        assert len(found) <= len(tokens) // PAGE
        for number, held in enumerate(found):
            np.testing.assert_array_equal(held.k, page(tokens, number).k)
        put_all(pages, tokens)
        assert pages.bytes <= budget * PAGE_BYTES
        whole = min(len(tokens) // PAGE, budget)
        assert len(pages.find(tokens)) == whole


def test_the_least_recently_used_goes_first() -> None:
    pages = PrefixPages(PAGE, 4 * PAGE_BYTES)
    first, second, third = ([mark] * 8 for mark in (1, 2, 3))
    put_all(pages, first)
    put_all(pages, second)
    assert len(pages.find(first)) == 2
    put_all(pages, third)
    assert [len(pages.find(tokens)) for tokens in (first, second, third)] == [2, 0, 2]


def test_of_one_request_the_last_page_goes_first() -> None:
    pages = PrefixPages(PAGE, 3 * PAGE_BYTES)
    put_all(pages, [1] * 12)
    put_all(pages, [2] * 4)
    assert len(pages.find([1] * 12)) == 2


def test_hits_and_misses_are_those_of_requests_with_a_whole_page() -> None:
    pages = PrefixPages(PAGE, 100 * PAGE_BYTES)
    pages.find([1] * 3)
    assert (pages.hits, pages.misses) == (0, 0)
    pages.find([1] * 8)
    put_all(pages, [1] * 8)
    pages.find([1] * 5)
    assert (pages.hits, pages.misses) == (1, 1)


def test_without_a_budget_nothing_is_kept() -> None:
    pages = PrefixPages(PAGE, 0)
    put_all(pages, [1] * 8)
    assert pages.find([1] * 8) == [] and pages.bytes == 0
