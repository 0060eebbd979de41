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
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import json_lines, read_json, write_json
from gplan_jax.foundation.paths import local_path
from gplan_jax.foundation.row_files import SUFFIXES, column_names
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.prompts import PromptTemplate
from gplan_jax.gsisr.row_form import SERVICES, RowForm, ServiceFile

FILE, LIBRARY, PROMPTS, RULES = "service.yaml", "library.yaml", "prompts", "rules.yaml"
PERTURBATIONS, RUBRIC, WORLD = "perturbations.yaml", "rubric.yaml", "world.yaml"
COMPACT = "compact"  # what runs call the prompt of few words of whatever service
MODEL_FOLDER = "service"  # in a model directory
MEND = (
    "Name it with --service: a shipped one (gplan service list), or the directory of your own "
    "(gplan service init DIR makes one)."
)


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
