"""Run configs: one YAML file, read into a frozen typed model; unknown keys are errors.

A dotted override (``optimizer.clip_norm=0.5``) replaces one value; its text is read as YAML, so
numbers, booleans and lists come out typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import yaml

from gplan_jax.foundation.errors import GplanError, nearest
from gplan_jax.foundation.paths import local_path


class Config(pydantic.BaseModel):
    """Base of all configs: immutable, no unknown keys, no silent conversion of types."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


C = TypeVar("C", bound=Config)
_SHIPPED = Path(__file__).parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package: runs, teachers and judges."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def load_config(kind: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Reads ``path`` and ``key=value`` overrides into a config of type ``kind``.

    Where no file has that path, it may be the name of a shipped one (``picd_qwen3_1_7b``).
    GplanError names every fault in one message, and near keys for an unknown one.
    """
    file, shipped = local_path(path), shipped_configs()
    if not file.exists():
        if file.stem in shipped and str(path) != file.stem:
            raise GplanError(f"{path} does not exist; a config of GPlan's own is {file.stem}.")
        file = shipped.get(str(path), file)
    values = override(_read_yaml(file), overrides)
    return parse_config(kind, values, source=str(path))


def parse_config(kind: type[C], values: dict[str, Any], *, source: str) -> C:
    """Checks plain ``values`` against ``kind``; ``source`` names them in error messages."""
    try:
        return kind.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_explain(kind, fault) for fault in error.errors()]
        raise GplanError(f"{source} is not a valid config:\n  " + "\n  ".join(lines)) from None


class _Loader(yaml.SafeLoader):
    """Reads ``5e-6`` as a number, as YAML 1.2 does; PyYAML's 1.1 grammar takes it for a string.

    What PyYAML passes over in silence is an error with its line: a key given twice, half a
    character. The two halves that JSON writes for one ("\\ud83d\\ude00") become one again.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _at(key, f"the key {key.value} is given twice")
                seen.add((key.tag, key.value))
        return node

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        try:
            return str(value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _at(node, f"{value!a} holds half a character") from None

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError) as error:  # 2026-02-30, or !!timestamp of a word.
            raise _at(node, f"{node.value!r} can't be read ({error})") from None


def _at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that ``_Loader`` would take for numbers."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def yaml_text(values: Any) -> str:
    """Plain values as YAML that ``parse_yaml`` reads back, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False)


def parse_yaml(text: str, *, source: str = "The text") -> Any:
    """Parses one YAML document with plain types only; GplanError says that ``source`` is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise GplanError(f"{source} is not valid YAML: it is nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise GplanError(f"{source} is not valid YAML: {error}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GplanError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from None
    values = parse_yaml(text, source=str(path))
    if not isinstance(values, dict):
        raise GplanError(f"{path} must be a mapping of keys to values at its top level.")
    return values


def api_key(variable: str | None, use: str = "") -> pydantic.SecretStr | None:
    """The API key in an environment variable, never shown in errors; None where none is named.
    ``use`` says in an error what it is the key of.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise GplanError(
            f"The environment variable {variable} is not set; it should hold the API key{use}."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise GplanError(
            f"The API key in {variable} holds characters that no HTTP header can carry; it may "
            "hold visible ASCII alone."
        )
    return pydantic.SecretStr(key)


def line_of(path: str | Path, *keys: str | int) -> int:
    """The line of a YAML file on which the entry at ``keys`` begins; of the last one there is."""
    node = yaml.compose(local_path(path).read_text(encoding="utf-8"), Loader=_Loader)
    line = 1
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        elif isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == str(key)]
            if not found:
                return line
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        else:
            return line
    return line


def override(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Sets what ``key=value`` texts say in ``values``, and returns it."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise GplanError(f"Override {text!r} is not of the form key=value.")
        *parents, last = key.split(".")
        here = values
        for parent in parents:
            here = here.setdefault(parent, {})
            if not isinstance(here, dict):
                raise GplanError(f"Override {text!r}: {parent} is a value, not a section.")
        here[last] = parse_yaml(value, source=f"The value of the override {text!r}")
    return values


def _explain(kind: type[Config], fault: Any) -> str:
    location = [str(part) for part in fault["loc"]]
    key = ".".join(location)
    if fault["type"] == "missing":
        return f"{key}: missing; it has no default"
    if fault["type"] != "extra_forbidden":
        return f"{key}: {fault['msg'].removeprefix('Value error, ')} (given: {fault['input']!r})"
    known = fields_at(kind, location[:-1])
    return f"{key}: unknown key; {nearest(location[-1], known)}"


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
    return sorted(field.alias or name for name, field in kind.model_fields.items())
