"""The table of figures: the same cells on a terminal, in a text file and in Markdown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from gplan_jax.foundation.tables import NOTHING, TextTable, plain_text

TABLE = TextTable(
    ("arm", "Acc@1\n%", "NES"),
    [("[b]sasrec", "53.5", "0.581"), None, (Text("majority", style="bold"), NOTHING)],
    title="[i]Arms",
    caption="703 rows.",
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("│")]


def test_cells_are_text_and_figures_stand_to_the_right() -> None:
    lines = plain_text(TABLE.rich()).splitlines()
    assert lines[0].strip() == "[i]Arms" and lines[-1].strip() == "703 rows."
    body = [line for line in lines if line.startswith("│")]
    assert [cells(line) for line in body] == [["[b]sasrec", "53.5", "0.581"], ["majority", "–", ""]]
    assert body[0].index("53.5") + 4 == body[1].index("–") + 1
    assert any(set(line) <= set("├─┼┤") for line in lines)


def test_markdown_has_the_same_cells() -> None:
    assert TABLE.markdown() == (
        "| arm | Acc@1 % | NES |\n| --- | ---: | ---: |\n"
        "| [b]sasrec | 53.5 | 0.581 |\n| majority | – |  |\n\n703 rows.\n"
    )
    assert "a\\|b" in TextTable(("x",), [("a|b",)]).markdown()


def test_a_narrow_terminal_breaks_words_and_never_a_figure() -> None:
    wide = TextTable(("what", "figure"), [("a long name of an arm", "1234.5")])
    text = plain_text(wide.rich(), width=24)
    assert "1234.5" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= 24


WORDS = st.text("abcdefg 城市", max_size=30)
FIGURES = st.from_regex(r"[+-]?[0-9]{1,4}(\.[0-9])?( \[[0-9]{1,3}, [0-9]{1,3}\])?", fullmatch=True)


@given(data=st.data(), words=st.integers(1, 3), figures=st.integers(0, 12), plain=st.booleans())
def test_a_table_of_any_size_loses_nothing_on_a_terminal(
    data: st.DataObject, words: int, figures: int, plain: bool
) -> None:
    """What conftest's check asks of every table; here of tables too wide for one part."""
    row = st.tuples(*[WORDS] * words, *[FIGURES] * figures)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    headings = data.draw(st.tuples(*[WORDS] * (words + figures)))
    keys = data.draw(st.integers(1, words))
    table = TextTable(headings, rows, words=words, keys=keys, plain=plain, title="T", caption="c")
    text = plain_text(table.rich(), width=80)
    assert text.count("T") == 1


def test_the_parts_of_a_wide_table_begin_with_its_keys() -> None:
    headings = ["arm", *(f"figure {n}" for n in range(9))]
    table = TextTable(headings, [["sasrec", *["12.3 [10.1, 15.2]"] * 9], None, ["floor"]])
    text = plain_text(table.rich(), width=80)
    assert text.count("sasrec") == text.count("floor") == 3
    assert [text.index(heading) for heading in headings] == sorted(map(text.index, headings))
    assert plain_text(table.rich(), width=250).count("sasrec") == 1
