from __future__ import annotations

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.synthesis.seeds.cells import guarded, unguarded

dangerous = st.from_regex(r"\A['=+\-@\t\r＝＋－＠].*")
texts = st.text(st.characters(exclude_categories=["Cs"])) | dangerous


@given(texts)
def test_no_cell_begins_a_formula_and_reading_takes_the_guard_away(text: str) -> None:
    cell = guarded(text)
    assert cell[:1] not in tuple("=+-@\t\r\n＝＋－＠")
    assert unguarded(cell) == text


@given(st.lists(texts.filter(lambda text: "\0" not in text), min_size=2))
def test_cells_survive_a_csv_file(row: list[str]) -> None:
    out = io.StringIO(newline="")
    csv.writer(out).writerow([guarded(text) for text in row])
    (cells,) = csv.reader(io.StringIO(out.getvalue(), newline=""), strict=True)
    assert [unguarded(cell) for cell in cells] == row


def test_what_is_harmless_stays_as_it_is() -> None:
    for text in ("", "打车到家", "1-2", "a=b", " =1", "[{}]"):
        assert guarded(text) == unguarded(text) == text
