"""Tables of figures: drawn by rich on a terminal, as plain text or as Markdown in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box as boxes
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NOTHING = "–"
WORD_WIDTH = 16  # that a column of words has at least, if it fills it
Cell = str | Text


@dataclass(frozen=True)
class TextTable:
    """A table before it is drawn. Cells are text, never markup: they may be a model's words."""

    headings: Sequence[str]  # Several lines in one keep a column of figures narrow.
    rows: Sequence[Sequence[Cell] | None]  # Empty cells at the end may lack; None is a rule.
    words: int = 1  # Columns, from the left, of words; figures are set to the right.
    title: str = ""
    caption: str = ""
    plain: bool = False  # Horizontal rules only, for wide tables.
    keys: int = 1  # Columns, from the left, that stand in each part of a table too wide for one.

    def rich(self) -> Table:
        """The table for a terminal: in parts, one below the other, where it is too wide for it."""
        table = self.columns(range(len(self.headings)))
        table.whole = self
        return table

    def parts(self, room: int) -> list[list[int]]:
        """Its columns, the keys again and again, in parts that each fit into ``room`` characters.

        So no figure is cut and no column left out; only words are broken.
        """
        keys, parts = list(range(self.keys)), list[list[int]]()
        for column in range(self.keys, len(self.headings)):
            wider = [*(parts[-1] if parts else keys), column]
            least = [min(self._most(c), WORD_WIDTH if c < self.words else room) for c in wider]
            if parts and sum(least) + self._borders(wider) <= room:
                parts[-1] = wider
            else:
                parts.append([*keys, column])
        return parts

    def columns(self, chosen: Sequence[int], room: int | None = None) -> FittingTable:
        """Some columns as a table; in a ``room``, words are broken as little as it allows."""
        widths = {c: self._most(c) for c in chosen}
        table = FittingTable(
            title=Text(self.title) if self.title and room is None else None,
            title_justify="left",
            caption=Text(self.caption) if self.caption and room is None else None,
            caption_justify="left",
            show_header=any(self.headings),
            box=boxes.HORIZONTALS if self.plain else boxes.HEAVY_HEAD,
            padding=(0, 1, 0, 0) if self.plain else (0, 1),
            pad_edge=not self.plain,
        )
        of_words = [c for c in chosen if c < self.words]
        while room is not None and sum(widths.values()) + self._borders(chosen) > room:
            widest = max(of_words, key=lambda c: widths[c], default=0)
            if widths[widest] <= 1 or not of_words:
                break  # There is no room for figures this long.
            widths[widest] -= 1
        for column in chosen:
            table.add_column(
                Text(self.headings[column]),
                width=None if room is None else max(1, widths[column]),
                justify="left" if column in of_words else "right",
                vertical="bottom",
                no_wrap=column not in of_words,
                overflow="fold" if column in of_words else "ellipsis",
            )
        for row in self.rows:
            if row is None:
                table.add_section()
            else:
                cells = [cell if isinstance(cell, Text) else Text(cell) for cell in row]
                table.add_row(*(cells[column] for column in chosen if column < len(cells)))
        return table

    def _most(self, column: int) -> int:
        """Characters of a column's widest line."""
        texts = [str(row[column]) for row in self.rows if row and column < len(row)]
        lines = "\n".join([self.headings[column], *texts]).split("\n")
        return max(map(cell_len, lines))

    def _borders(self, columns: Sequence[int]) -> int:
        return 2 * len(columns) if self.plain else 3 * len(columns) + 1

    def markdown(self) -> str:
        """The table as Markdown, its caption below; rules are left out."""
        heads = [heading.replace("-\n", "").replace("\n", " ") for heading in self.headings]
        marks = ["---" if column < self.words else "---:" for column in range(len(heads))]
        lines = [_markdown_line(heads), _markdown_line(marks)]
        for row in filter(None, self.rows):
            missing = [""] * (len(heads) - len(row))
            lines.append(_markdown_line([*map(str, row), *missing]))
        return "\n".join([*lines, *(["", self.caption] if self.caption else [])]) + "\n"


class FittingTable(Table):
    """Draws itself as the parts of a whole where that does not fit as it is."""

    whole: TextTable | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room, whole = options.max_width, self.whole
        natural = Measurement.get(console, options.update(max_width=9999), self).maximum
        if whole is None or natural <= room:
            yield from super().__rich_console__(console, options)
            return
        yield from ([Text(whole.title)] if whole.title else [])
        yield from (whole.columns(part, room) for part in whole.parts(room))
        yield from ([Text(whole.caption)] if whole.caption else [])


def plain_text(content: RenderableType, *, width: int = 100) -> str:
    """``content`` as lines of text without colours, for files and tests."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"
