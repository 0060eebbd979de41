"""The intent library: which tools a plan may call, with which parameters and under which rules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from gplan_jax.foundation.config import Config, load_config, yaml_text
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import write_text
from gplan_jax.gsisr.row_form import SERVICES, RowForm, public_form

AMAP_LIBRARY = SERVICES / "amap" / "library.yaml"


class Parameter(Config):
    """A parameter: what it means and, value -> meaning, what it may be (any text where None)."""

    meaning: str = ""
    values: dict[str, str] | None = None


class Tool(Config):
    """A tool: its required and optional parameters, and whether it yields a place."""

    meaning: str = ""
    parameters: list[str] = Field(default_factory=list)
    optional: list[str] = Field(default_factory=list)
    yields_place: bool = False


class PlanLength(Config):
    """How many intents a plan may have."""

    minimum: int = Field(ge=1)
    maximum: int = Field(ge=1)


class IntentLibrary(Config):
    """A library as its YAML file describes it; services/amap/library.yaml explains each key.

    All keys and values of a plan object come from here, so that another service's library needs
    no change of code.
    """

    name: str
    tool_key: str
    parameters: dict[str, Parameter]
    tools: dict[str, Tool] = Field(min_length=1)
    previous_place: str | None = None
    exclusive_groups: list[list[str]] = Field(default_factory=list)
    plan_length: PlanLength
    relevance_parameters: list[str] = Field(default_factory=list)
    # how the rows that its plans are for are written; the public set's form where None. A service
    # says it in its service.yaml, the library of a trained model in itself
    rows: RowForm | None = None

    _folder: Path | None = PrivateAttr(None)

    def __eq__(self, other: object) -> bool:
        """Whether it says the same, wherever it was read."""
        return isinstance(other, IntentLibrary) and self.model_dump() == other.model_dump()

    @property
    def folder(self) -> Path | None:
        """The directory of the service that it was read with, None where there is none."""
        return self._folder

    @property
    def form(self) -> RowForm:
        """How the rows that its plans are for are written."""
        return self.rows or public_form()

    @classmethod
    def load(cls, path: str | Path | None = None) -> IntentLibrary:
        """Reads a library file; the shipped Amap library where ``path`` is None.

        GplanError, with all faults at once, where the file is missing, a key is unknown or
        mistyped, or an entry refers to a tool, parameter or value that the file does not define.
        """
        return _amap() if path is None else _load(Path(path))

    def save(self, path: str | Path) -> None:
        values = self.model_dump(exclude_defaults=True)
        write_text(path, yaml_text(values))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of a plan object in canonical order, the tool's key first."""
        return (self.tool_key, *self.parameters)

    def canonical_intent(self, intent: Mapping[str, Any]) -> dict[str, Any]:
        """The same intent with its keys in canonical order; unknown keys keep theirs at the end."""
        known = [key for key in self.keys if key in intent]
        return {key: intent[key] for key in (*known, *(k for k in intent if k not in self.keys))}

    def relevance_key(self, intent: Mapping[str, str]) -> tuple[str | None, ...]:
        """What NDCG compares: the tool and ``relevance_parameters``, None where absent."""
        return tuple(intent.get(key) for key in (self.tool_key, *self.relevance_parameters))


@cache
def _amap() -> IntentLibrary:
    return _load(AMAP_LIBRARY)


def _load(path: Path) -> IntentLibrary:
    library = load_config(IntentLibrary, path)
    if faults := _faults(library):
        raise GplanError(f"{path} is not a valid intent library:\n  " + "\n  ".join(faults))
    beside = (path.parent, path.parent / "service")  # a service's own, or a trained model's
    library._folder = next(
        (folder for folder in beside if (folder / "service.yaml").is_file()), None
    )
    return library


def _faults(library: IntentLibrary) -> list[str]:
    faults = []
    if library.tool_key in library.parameters:
        faults.append(f"tool_key: {library.tool_key} is also a parameter; rename one")
    for name, tool in library.tools.items():
        parameters = [*tool.parameters, *tool.optional]
        for unknown in sorted(set(parameters) - set(library.parameters)):
            faults.append(f"tools.{name}: parameter {unknown} is not defined under parameters")
        if len(set(parameters)) < len(parameters):
            faults.append(f"tools.{name}: a parameter is listed twice")
    for group in library.exclusive_groups:
        for unknown in sorted(set(group) - set(library.tools)):
            faults.append(f"exclusive_groups: {unknown} is not defined under tools")
    for unknown in sorted(set(library.relevance_parameters) - set(library.parameters)):
        faults.append(f"relevance_parameters: {unknown} is not defined under parameters")
    if library.plan_length.minimum > library.plan_length.maximum:
        faults.append("plan_length: the minimum is greater than the maximum")
    values = {value for p in library.parameters.values() for value in p.values or ()}
    if library.previous_place is not None and library.previous_place not in values:
        faults.append(f"previous_place: no parameter admits the value {library.previous_place}")
    return faults
