"""What the strict build of the docs site refuses, without Sphinx: pages that no menu reaches."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_page_is_in_the_menu_and_every_entry_is_a_page() -> None:
    menus = re.findall(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL)
    entries = [line for menu in menus for line in menu.splitlines() if line and line[0] != ":"]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert len(entries) == len(set(entries))
    assert set(entries) == pages - {"index"}
