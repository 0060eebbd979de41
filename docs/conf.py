"""The docs site: Sphinx with MyST and the book theme, as JAX, Flax, Optax and Orbax have theirs.

The pages are the Markdown files as they are. README, CONTRIBUTING, CHANGELOG and SECURITY, which
lie beside this folder, fill the stubs of their names; the API pages are made of docstrings.
"""

from __future__ import annotations

import ast
import importlib
import re
import types
from pathlib import Path
from typing import Any

import gplan_jax

HERE = Path(__file__).resolve().parent

project = "GPlan in JAX"
version = release = gplan_jax.__version__
copyright = "The GPlan in JAX contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["conf.py"]
html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "use_download_button": False,
}
html_show_sphinx = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
myst_heading_anchors = 6
# ./dev docs links: examples on this machine are no links, and a slow host is asked once more.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)"]
linkcheck_timeout, linkcheck_retries = 30, 2
autodoc_typehints = "signature"
autodoc_type_aliases = {
    "ArrayLike": "ArrayLike",
    "DTypeLike": "DTypeLike",
}  # not all they stand for
autodoc_default_options = {"exclude-members": "model_config"}
python_use_unqualified_type_names = True
add_module_names = False
autodoc_member_order = "bysource"

STUBS = {
    "index": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "security": "SECURITY.md",
}


def fill(text: str) -> str:
    """A file of the root as a page of this folder: its links turned to where things are here."""
    text = text.replace("](docs/", "](").replace("](README.md", "](index.md")
    for page, file in STUBS.items():
        text = text.replace(f"]({file}", f"]({page}.md").replace(f"](../{file}", f"]({page}.md")
    # What is no page is named, not linked.
    return re.sub(
        r"\[([^\]]*)\]\((?:\.\./)?(?:deploy|scripts|gplan_jax|tests)\b[^)]*\)", r"\1", text
    )


def api(package: str) -> str:
    """A package's docstring, and every name of its own that its __init__.py hands out, in order."""
    path = HERE.parent / "gplan_jax" / package / "__init__.py"
    module = ast.parse(path.read_text(encoding="utf-8"))
    names = [
        alias.name
        for node in module.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"gplan_jax.{package}.")
        for alias in node.names
    ]
    lines = [f"# gplan_jax.{package}", "", ast.get_docstring(module) or "", "", "```{eval-rst}"]
    for last in sorted(set(names), key=str.lower):
        name = f"gplan_jax.{package}.{last}"
        value = getattr(importlib.import_module(f"gplan_jax.{package}"), last)
        if isinstance(value, type) and not isinstance(value, types.GenericAlias):
            lines += [f".. autoclass:: {name}", "   :members:", ""]
        elif callable(value) and not isinstance(value, types.GenericAlias):
            lines += [f".. autofunction:: {name}", ""]
        else:
            lines += [f".. py:data:: {name}", f"   :value: {value!r}", ""]
    return "\n".join([*lines, "```", ""])


def escape(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """|a| and a_ of a formula are no markup; what stands in ``literals`` stays."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [re.sub(r"(\||(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def read(app: Any, page: str, source: list[str]) -> None:
    if page in STUBS:
        text = (HERE.parent / STUBS[page]).read_text(encoding="utf-8")
        source[0] = f"{text}\n{source[0]}"
    elif page.startswith("api/"):
        source[0] = api(page.removeprefix("api/"))
    source[0] = fill(source[0])


def setup(app: Any) -> None:
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", escape)
