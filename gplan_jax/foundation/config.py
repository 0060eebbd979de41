"""Run configs: one YAML file, read into a frozen typed model; unknown keys are errors.

A dotted override (``optimizer.clip_norm=0.5``) replaces one value; its text is read as YAML, so
numbers, booleans and lists come out typed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import yaml

from gplan_jax.foundation.errors import GplanError


class Config(pydantic.BaseModel):
    """Base of all configs: immutable, no unknown keys, no silent conversion of types."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Reads ``path`` and ``key=value`` overrides into a config of type ``kind``.

    GplanError names every fault in one message, and near keys for an unknown one.
    """
    values = _read_yaml(Path(path))
    for override in overrides:
        _apply_override(values, override)
    return parse_config(kind, values, source=str(path))


def parse_config(kind: type[C], values: dict[str, Any], *, source: str) -> C:
    """Checks plain ``values`` against ``kind``; ``source`` names them in error messages."""
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_explain(kind, fault) for fault in error.errors()]
        raise GplanError(f"{source} is not a valid config:\n  " + "\n  ".join(lines)) from None


class _Loader(yaml.SafeLoader):
    """Reads ``5e-6`` as a number, as YAML 1.2 does; PyYAML's 1.1 grammar takes it for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Parses one YAML document with plain types only."""
    return yaml.load(text, Loader=_Loader)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GplanError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        raise GplanError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise GplanError(f"{path} must be a mapping of keys to values at its top level.")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise GplanError(f"Override {override!r} is not of the form key=value.")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise GplanError(f"Override {override!r}: the value is not valid YAML ({error}).") from None
    *parents, last = key.split(".")
    here = values
    for parent in parents:
        here = here.setdefault(parent, {})
        if not isinstance(here, dict):
            raise GplanError(f"Override {override!r}: {parent} is a value, not a section.")
    here[last] = value


def _explain(kind: type[Config], fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    key = ".".join(location)
    if fault["type"] == "missing":
        return f"{key}: missing; it has no default"
    if fault["type"] != "extra_forbidden":
        return f"{key}: {fault['msg']} (given: {fault['input']!r})"
    known = fields_at(kind, location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known keys: {', '.join(known)}"
    return f"{key}: unknown key; {hint}"


def fields_at(kind: type[pydantic.BaseModel], path: Sequence[str]) -> list[str]:
    """The keys of the section that ``path`` leads to, in alphabetical order."""
    for part in path:
        field = kind.model_fields.get(part)
        if field is None:  # The name or number of an entry: its keys are those of its model.
            continue
        nested = (
            candidate
            for candidate in (field.annotation, *get_args(field.annotation))
            if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel)
        )
        model = next(nested, None)
        if model is None:
            return []
        kind = model
    return sorted(kind.model_fields)
