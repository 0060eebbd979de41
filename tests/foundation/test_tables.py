"""The table of figures: the same cells on a terminal, in a text file and in Markdown."""

from __future__ import annotations

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
