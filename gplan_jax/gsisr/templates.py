"""Folders of Jinja templates, shipped or somebody's own: read, compiled in a sandbox, filled in.

What a template writes is plain text for a model. The sandbox is there because a template may come
with somebody else's model directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.paths import local_path


def read_templates(
    name_or_dir: str | Path, *, shipped: Sequence[Path], files: Sequence[str], kind: str
) -> tuple[str, dict[str, str]]:
    """The name of a folder of templates and the source of each of its ``files``.

    It is a path, or a name below one of the folders ``shipped``; ``kind`` is what error messages
    call it, "prompt template" for example.
    """
    tried = [local_path(name_or_dir), *(folder / name_or_dir for folder in shipped)]
    folder = next((path for path in tried if path.is_dir()), None)
    if folder is None:
        names = ", ".join(sorted(p.name for root in shipped for p in root.iterdir() if p.is_dir()))
        raise GplanError(f"{name_or_dir} is neither a folder nor a shipped {kind} ({names}).")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise GplanError(f"{_capital(kind)} {folder} lacks {' and '.join(missing)}.")
    try:
        return folder.name, {name: (folder / name).read_text(encoding="utf-8") for name in files}
    except UnicodeDecodeError as error:
        raise GplanError(f"{_capital(kind)} {folder} is not UTF-8 text: {error}.") from None


@dataclass(frozen=True)
class Templates:
    """Compiled templates by file name; one may include another of them."""

    title: str
    compiled: Mapping[str, jinja2.Template]

    @classmethod
    def compile(
        cls,
        name: str,
        sources: Mapping[str, str],
        *,
        kind: str,
        finalize: Callable[[Any], Any] | None = None,
        filters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Templates:
        """Compiles ``sources``; GplanError names the file and line of a wrong syntax.

        ``finalize`` is applied to every value; templates may call ``filters`` beside Jinja's own.
        """
        environment = ImmutableSandboxedEnvironment(
            loader=jinja2.DictLoader(dict(sources)),
            autoescape=False,  # The text is read by a model, not by a browser.
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=finalize,
        )
        environment.filters |= filters or {}
        title = f"{_capital(kind)} {name}"
        try:
            return cls(title, {file: environment.get_template(file) for file in sources})
        except jinja2.TemplateSyntaxError as error:
            place = f"{title}, {error.name}, line {error.lineno}"
            raise GplanError(f"{place}: {error.message}.") from None

    def fill(self, file: str, **values: Any) -> str:
        """The text of one template, its ends stripped; GplanError where it can't be filled in."""
        try:
            return self.compiled[file].render(**values).strip()
        except Exception as error:  # Whatever somebody's template runs into.
            raise GplanError(f"{self.title}, {file}, can't be filled in: {error}.") from None


def _capital(kind: str) -> str:
    return kind[0].upper() + kind[1:]
