"""Prompts from template files: a folder with ``system.j2`` and ``user.j2`` in Jinja syntax.

A template sees ``row`` (the service's columns by their names), ``sample`` (the same as those of the
public set), ``facts`` (see ``Facts``), ``library`` and ``response``: what responses hold, "plan"
alone, "latent" tokens or "reasoning" before it, or None where it is not known. What it writes is
plain text: a value is never read as template code, takes up one line at most, and the encoder turns
none of it into a control token.

Folders of Jinja templates, shipped or somebody's own, are read, compiled in a sandbox and filled
in. The sandbox is there because a template may come with somebody else's model directory.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gplan_jax.foundation.errors import GplanError, meant
from gplan_jax.foundation.files import write_text
from gplan_jax.foundation.paths import local_path
from gplan_jax.gsisr.facts import Facts, facts_of, place_kind
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.row_form import SERVICES, RowForm
from gplan_jax.gsisr.samples import COLUMNS, Sample
from gplan_jax.reasoning import Prompt

_FILES, _KIND = ("system.j2", "user.j2"), "prompt template"
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")


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


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt template: its name and the sources of its two parts."""

    name: str
    system: str
    user: str

    @classmethod
    def load(cls, name_or_dir: str | Path = "amap_zh") -> PromptTemplate:
        """Reads a shipped template by its name, or another one from its folder.

        GplanError where there is no such template, a file is missing, or its syntax is wrong.
        """
        name, sources = read_templates(
            name_or_dir, shipped=[*SERVICES.glob("*/prompts")], files=_FILES, kind=_KIND
        )
        template = cls(name, *sources.values())
        _compile(template)  # A wrong template is better refused now than at the first row.
        return template

    def check_names(self, form: RowForm) -> None:
        """GplanError, by file and line, where it names a column or fact that there is none."""
        known = {
            "row": [name for name in form.columns if name != form.label],
            "sample": COLUMNS,
            "facts": [field.name for field in dataclasses.fields(Facts)],
        }
        for file, source in zip(_FILES, (self.system, self.user), strict=True):
            tree = jinja2.Environment().parse(source)
            for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
                assert isinstance(node, nodes.Getattr | nodes.Getitem)
                owner = node.node.name if isinstance(node.node, nodes.Name) else ""
                name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
                if owner in known and name is not None and name not in known[owner]:
                    hint = meant(str(name), known[owner])
                    raise GplanError(
                        f"Prompt template {self.name}, {file}, line {node.lineno}: there is no "
                        f"{owner}.{name}{hint}; {owner} has {', '.join(known[owner])}."
                    )

    def save(self, folder: str | Path) -> None:
        for name, source in zip(_FILES, (self.system, self.user), strict=True):
            write_text(Path(folder) / name, source)

    def render(self, sample: Sample, library: IntentLibrary, response: str | None = None) -> Prompt:
        """Fills the template in for one sample; ``response`` is what responses hold.

        GplanError where it names something that does not exist, or a time of the sample can't be
        read.
        """
        system = self.render_system(library, response)
        return Prompt(system, self.render_user(sample, library, response))

    def render_system(self, library: IntentLibrary, response: str | None = None) -> str:
        """The system part, the same for all samples."""
        return _compile(self).fill("system.j2", library=library, response=response)

    def render_user(
        self, sample: Sample, library: IntentLibrary, response: str | None = None
    ) -> str:
        """The user part, of one sample; raises as ``render`` does."""
        known = {"library": library, "response": response}
        row = sample.context()
        return _compile(self).fill(
            "user.j2", sample=sample, row=row, facts=facts_of(sample), **known
        )


def training_texts(
    samples: Iterable[Sample], template: PromptTemplate, library: IntentLibrary
) -> Iterator[str]:
    """What a small tokenizer should be good at: the roles, prompts and labels of ``samples``."""
    for sample in samples:
        prompt = template.render(sample, library)
        yield from ("system\nuser\nassistant\n", prompt.system, prompt.user, sample.raw_labels)


@cache
def _compile(template: PromptTemplate) -> Templates:
    return Templates.compile(
        template.name,
        dict(zip(_FILES, (template.system, template.user), strict=True)),
        kind=_KIND,
        finalize=_one_line,
        filters={"bucket": bucket, "choose": choose, "place_kind": place_kind},
    )


def bucket(
    value: float | None, steps: Sequence[tuple[float, str]], beyond: str, absent: str
) -> str:
    """The word of the first step whose bound ``value`` stays below; a template filter.

    >>> bucket(1.5, [(0, "past"), (2, "soon")], "later", "unknown")
    'soon'
    """
    if value is None:
        return absent
    return next((word for bound, word in steps if value < bound), beyond)


def choose(value: bool | None, yes: str, no: str, absent: str = "") -> str:
    """A word for each of True, False and None; a template filter."""
    if value is None:
        return absent
    return yes if value else no


def _constant(node: nodes.Node) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


def _one_line(value: Any) -> Any:
    """Keeps a value from opening a new line, where it could pass for a part of the template."""
    return _LINE_BREAKS.sub(" ", value) if isinstance(value, str) else value
