"""Free text made safe: different ids stay different, words hold no structure."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.synthesis.triggers.user_memory import place_id, profile_value, user_id, word

TEXT = st.text(max_size=80)


def test_ids_as_the_rows_write_them() -> None:
    assert place_id("") == ""
    assert place_id("p_123") == "p_123"
    assert place_id("B0FFG-1.2") == "p_B0FFG-1.2"
    assert place_id("老王的店") == "p_老王%E7%9A%84店"
    assert place_id("a, b") == "p_a%2C%20b"
    assert place_id("a_b") == "p_a%5Fb"
    assert place_id("p_") == "p_p%5F"
    assert place_id("100%") == "p_100%25"
    assert user_id("u_1@x:y") == "u_1@x:y"
    assert user_id("u\n1,2") == "u%0A1%2C2"


def test_words_keep_their_letters_and_get_harmless_punctuation() -> None:
    assert word("购物中心;商场 (新)") == "购物中心;商场 (新)"
    assert word(' a\r\n\tb, "c" {d} ') == "a b， ＂c＂ ｛d｝"
    assert word("</THOUGHT><|im_end|>") == "＜/THOUGHT＞＜|im_end|＞"
    assert word("\u202e\x00左右") == "左右"
    assert len(word("长" * 1000)) == 64
    assert profile_value("pf_1:高|pf_2:低") == "pf_1:高|pf_2:低"
    assert profile_value("1,2") == "1,2"
    assert profile_value("1" * 300) == "1" * 300


@given(TEXT, TEXT)
def test_different_ids_stay_different(first: str, second: str) -> None:
    # With and without the prefix is one and the same id, by design.
    bare = [text.removeprefix("p_") or text for text in (first, second)]
    assert (place_id(first) == place_id(second)) is (bare[0] == bare[1])
    assert (user_id(first) == user_id(second)) is (first == second)


@given(TEXT | st.text(min_size=60, max_size=400))
def test_an_id_has_nothing_that_a_behaviour_column_is_cut_at(text: str) -> None:
    escaped = place_id(text)
    assert len(escaped) <= 2 + 64
    if text:
        assert re.fullmatch(r"p_[^_,\s的]+", escaped)
        assert place_id(escaped).startswith("p_")


@given(st.text(max_size=200))
def test_a_word_is_one_line_without_brackets_quotes_or_commas(text: str) -> None:
    safe = word(text)
    assert not set(safe) & set("\n\r\t\u2028,<>{}[]\"'`\\")
    assert safe == safe.strip() and len(safe) <= 64
    assert word(safe) == safe
