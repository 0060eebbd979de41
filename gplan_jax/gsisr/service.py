"""A service: one directory of data that says what plans are made of and what rows look like.

    service.yaml        its name and language, its columns and their roles, labels for pages
    library.yaml        the tools that plans call
    prompts/NAME/       prompt templates: system.j2, user.j2
    rules.yaml          what a context calls for, with reasons: plans without a language model
    perturbations.yaml  how contexts are changed for pairs of contexts
    rubric.yaml         by which axes a language model judges plans
    world.yaml          a small simulated world

The first three are needed; the others belong to commands that say so where they lack. What a
command writes has a record of its service beside it, NAME.service.json.

A file of rows is checked for people who describe a service: what is missing or odd in each column.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import json_lines, read_json, write_json
from gplan_jax.foundation.paths import local_path
from gplan_jax.foundation.row_files import SUFFIXES, column_names, read_rows
from gplan_jax.gsisr.facts import facts_of, place_kind, time_of
from gplan_jax.gsisr.filter import check_plan
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.prompts import PromptTemplate
from gplan_jax.gsisr.row_form import ROLES, SERVICES, TIME_ROLES, RowForm, ServiceFile
from gplan_jax.gsisr.samples import Sample

FILE, LIBRARY, PROMPTS, RULES = "service.yaml", "library.yaml", "prompts", "rules.yaml"
PERTURBATIONS, RUBRIC, WORLD = "perturbations.yaml", "rubric.yaml", "world.yaml"
COMPACT = "compact"  # what runs call the prompt of few words of whatever service
MODEL_FOLDER = "service"  # in a model directory
MEND = (
    "Name it with --service: a shipped one (gplan service list), or the directory of your own "
    "(gplan service init DIR makes one)."
)
LONGEST = 16  # characters of an example


@dataclass(frozen=True)
class Service:
    """A service directory, read and checked."""

    folder: Path
    file: ServiceFile
    library: IntentLibrary

    @classmethod
    def load(cls, name_or_dir: str | Path) -> Service:
        """A shipped service by its name, or another one from its directory.

        GplanError where there is none, a file lacks, or the parts disagree, by file and line.
        """
        tried = (local_path(name_or_dir), SERVICES / name_or_dir)
        folder = next((path for path in tried if (path / FILE).is_file()), None)
        if folder is None:
            raise GplanError(
                f"{name_or_dir} is no service: neither a directory with {FILE} nor a shipped one "
                f"({', '.join(shipped())}). gplan service init DIR makes one."
            )
        if not (folder / LIBRARY).is_file():
            raise GplanError(f"{folder} lacks {LIBRARY}: the tools that plans call.")
        file = load_config(ServiceFile, folder / FILE)
        library = IntentLibrary.load(folder / LIBRARY)
        if library.name != file.name:
            raise GplanError(
                f"{folder / LIBRARY}: name is {library.name}, and {FILE} says {file.name}; they "
                "are one service's."
            )
        rows = None if file.rows.is_public else file.rows
        service = cls(folder, file, library.model_copy(update={"rows": rows}))
        for prompt in (file.prompt, *service.prompts):
            service.template(prompt)
        return service

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def form(self) -> RowForm:
        return self.library.form

    @property
    def prompts(self) -> tuple[str, ...]:
        """The names of its prompts."""
        return tuple(sorted(p.name for p in (self.folder / PROMPTS).glob("*") if p.is_dir()))

    def template(self, name: str | None = None) -> PromptTemplate:
        """One of its prompts by name, "compact", or a folder's; its own choice where None.

        GplanError names the file and line of a column or fact that there is none.
        """
        wanted = name or self.file.prompt
        if wanted == COMPACT:
            wanted = self.file.compact or self.file.prompt
        own = self.folder / PROMPTS / wanted
        if not own.is_dir() and (name is None or not local_path(wanted).is_dir()):
            raise GplanError(
                f"{self.folder / FILE}: there is no prompt {wanted}; {PROMPTS}/ has "
                f"{', '.join(self.prompts) or 'none'}."
            )
        template = PromptTemplate.load(own if own.is_dir() else wanted)
        template.check_names(self.form)
        return template

    def part(self, name: str) -> Path:
        """The path of one of its files; GplanError where the service has none."""
        path = self.folder / name
        if not path.is_file():
            raise GplanError(
                f"The service {self.name} has no {name} ({path}), and this needs it; "
                "docs/services.md says what it holds."
            )
        return path

    @cached_property
    def digest(self) -> str:
        """SHA-256 over its files."""
        found = hashlib.sha256()
        for path in _files(self.folder):
            found.update(f"{path.relative_to(self.folder).as_posix()}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
        return found.hexdigest()

    def identity(self) -> dict[str, str]:
        """What a record says of it; its directory, too, where it is not a shipped one."""
        said = {"name": self.name, "sha256": self.digest}
        own = self.folder.parent != SERVICES
        return said | ({"folder": str(self.folder.resolve())} if own else {})

    def copy_to(self, model_dir: Path) -> None:
        """Puts its files into a model directory."""
        for path in _files(self.folder):
            target = model_dir / MODEL_FOLDER / path.relative_to(self.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.resolve() != path.resolve():
                shutil.copyfile(path, target)


def identity_of(library: IntentLibrary) -> dict[str, str]:
    """What results say of the service of a library; its name alone where it comes from none."""
    return Service.load(library.folder).identity() if library.folder else {"name": library.name}


def record_service(library: IntentLibrary, *outputs: str | Path | None) -> None:
    """Writes beside each file of rows, pairs or answers which service it is of.

    Nothing is written for a library that comes from no service.
    """
    for path in (Path(output) for output in outputs if output):
        if library.folder and path.exists():
            write_json(record_path(path), identity_of(library))


def shipped() -> list[str]:
    """The names of the shipped services."""
    return sorted(path.parent.name for path in SERVICES.glob(f"*/{FILE}"))


def service_of_prompt(name: str) -> str | None:
    """The shipped service that has a prompt of this name, None where none has."""
    folders = SERVICES.glob(f"*/{PROMPTS}/{name}") if name.isidentifier() else ()
    return next((folder.parent.parent.name for folder in folders), None)


def record_path(path: Path) -> Path:
    """Where the service of a file is recorded: rows.csv -> rows.service.json."""
    return path.with_name(f"{path.stem}.service.json")


def of_model(model_dir: Path) -> Service | None:
    """The service that a model directory holds, None where it holds none."""
    folder = model_dir / MODEL_FOLDER
    return Service.load(folder) if (folder / FILE).is_file() else None


def of_data(path: Path) -> tuple[Service, str] | None:
    """The service of a file and how it is known: by its record, or by its columns alone.

    None where neither tells. GplanError where a recorded service is not where it was.
    """
    noted = record_path(path)
    if noted.is_file():
        said: Mapping[str, Any] = read_json(noted)
        try:
            service = Service.load(said.get("folder") or said["name"])
        except (GplanError, KeyError) as error:
            why = str(error) if isinstance(error, GplanError) else "it names none."
            raise GplanError(f"{noted} records a service that can't be read: {why}") from None
        changed = "" if service.digest == said.get("sha256") else "; it has changed since"
        return service, f"recorded in {noted.name}{changed}"
    if not path.is_file() or path.suffix not in SUFFIXES:
        return None
    found, services = set(column_names(path)), [Service.load(name) for name in shipped()]
    if {"pair", "context"} <= found:  # A file of pairs: the columns are those of its contexts.
        _, first = next(json_lines(path))
        context = first.get("context") if isinstance(first, dict) else None
        found = set(context) if isinstance(context, dict) else found
    fits = [s for s in services if found <= set(s.form.columns) and s.form.required <= found]
    return (fits[0], "by its columns") if len(fits) == 1 else None


def known_service(
    named: str | Path | None = None, *, data: Path | None = None, model: Path | None = None
) -> tuple[Service, str]:
    """The service of a command, and how it is known; "" where it was named.

    GplanError where nothing tells, or what was named, the data and the model disagree.
    """
    told = [(Service.load(named), "")] if named else []
    if model is not None and (own := of_model(model)):
        told.append((own, f"of {model}"))
    if data is not None and (found := of_data(data)):
        told.append(found)
    if not told:
        if data is not None and not data.is_file():
            raise GplanError(f"{data} does not exist or is not a file.")
        what = " and ".join(str(path) for path in (data, model) if path is not None)
        raise GplanError(f"It is not known which service {what or 'this'} is of. {MEND}")
    names = {service.name for service, _ in told}
    if len(names) > 1:
        saying = "; ".join(f"{s.name} ({how or '--service'})" for s, how in told)
        raise GplanError(f"These are of different services: {saying}. Take rows of the same one.")
    return told[0]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in (".yaml", ".j2") and p.is_file())


@dataclass
class ColumnReport:
    """One column: the rows that say something in it, and what is odd about how many of them."""

    column: str
    role: str
    filled: int = 0
    example: str = ""
    odd: Counter[str] = field(default_factory=Counter)

    def said(self) -> str:
        """What is odd, in words, with the numbers of rows."""
        return "; ".join(f"{what} ({n})" if n else what for what, n in self.odd.items())


def check_rows(
    path: Path, library: IntentLibrary, *, limit: int | None = None
) -> tuple[list[ColumnReport], int]:
    """A report for each column of the service and of the file, and how many rows were read.

    GplanError where the file can't be read; faulty rows are counted where their fault lies.
    """
    form, there = library.form, column_names(path)
    reports = {name: ColumnReport(name, c.role or "") for name, c in form.columns.items()}
    for name in reports:
        if name not in there:
            kind = "missing, and required" if name in form.required else "missing: taken as empty"
            reports[name].odd[kind] = 0
    extra = [name for name in there if name not in reports]
    reports |= {name: ColumnReport(name, "-") for name in extra}
    for name in extra:
        said = "ignored" if form.others == "ignore" else "not in service.yaml: refused"
        reports[name].odd[said] = 0
    count, columns = 0, [name for name in reports if name in there]
    for _, cells in islice(read_rows(path, columns, only=False), limit):
        count += 1
        if isinstance(cells, RowError):
            if cells.column:
                reports[cells.column].odd["not text or a number"] += 1
            continue
        for name, text in cells.items():
            reports[name].filled += bool(text.strip())
            reports[name].example = reports[name].example or " ".join(text.split())[:LONGEST]
        known = {name: text for name, text in cells.items() if name in form.columns}
        sample = Sample.from_context(known, library.rows)
        for role, problem in _odd(sample, library):
            if (column := form.names[ROLES[role]]) in reports:
                reports[column].odd[problem] += 1
    return list(reports.values()), count


def _odd(sample: Sample, library: IntentLibrary) -> list[tuple[str, str]]:
    form, found = sample.form, []
    for role in TIME_ROLES:
        try:
            if time_of(sample, ROLES[role]) is None and role == "time":
                found.append((role, "empty"))
        except GplanError:
            found.append((role, "no time as YYYY-MM-DD HH:MM:SS"))
    for role in ("weekend", "holiday"):
        if form.has(role) and getattr(sample, ROLES[role]) not in ("0", "1", ""):
            found.append((role, "neither 0 nor 1"))
    if form.kinds and place_kind(sample.current_tag, form) == "other":
        found.append(("category", "of no kind in rows.kinds"))
    for role, entries in (("recent", form.recent), ("habits", form.habits)):
        text = getattr(sample, ROLES[role])
        parts = [part for part in text.split(entries.separator) if part.strip()]
        if len(entries.read(text)) < len(parts):
            found.append((role, f"not as rows.{role}.entry"))
    label = sample.raw_labels
    if label.strip():
        found += [("label", v.code) for v in check_plan(label, library)[:1]]
    if not found:
        facts_of(sample)  # What no column by itself tells.
    return found
