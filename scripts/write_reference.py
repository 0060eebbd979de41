"""Writes docs/reference/: commands, configs and columns as the code has them.

    python scripts/write_reference.py            # writes the pages
    python scripts/write_reference.py --check    # says which of them are not what the code says

Options come from the command line itself, keys and defaults from the config classes, and what a key
means from the comments beside it, so a page can't say anything else than the code.
"""

from __future__ import annotations

import argparse
import ast
import enum
import inspect
import io
import re
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
from typer.main import get_command

from gplan_jax.abtest.experiment import AbTest
from gplan_jax.cli.main import app
from gplan_jax.evaluation.judge.chat_judge import JudgeConfig
from gplan_jax.evaluation.judge.rubric import Rubric
from gplan_jax.gsisr import COLUMNS
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.inference.engine.requests import EngineConfig
from gplan_jax.synthesis.pairs.perturbations import PerturbationSpec
from gplan_jax.synthesis.teachers.chat_teacher import TeacherConfig
from gplan_jax.training.steps.train_config import TrainConfig

DOCS = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Written by scripts/write_reference.py from the code; change that, not this page. -->"
CONFIGS = {
    "Training runs": (
        TrainConfig,
        "`gplan train CONFIG [KEY=VALUE]...`, [training](../training.md)",
    ),
    "Teachers": (TeacherConfig, "`--teacher FILE`, [synthesis](../synthesis.md)"),
    "Judges": (JudgeConfig, "`gplan judge --judge FILE`, [judge](../judge.md)"),
    "Rubrics": (Rubric, "`gplan judge --rubric FILE`"),
    "Intent libraries": (IntentLibrary, "`library.yaml` of a service"),
    "Perturbations": (PerturbationSpec, "`gplan counterfactuals --perturbations FILE`"),
    "A/B tests": (AbTest, "`gplan abtest analyse --config FILE`, [A/B tests](../abtest.md)"),
    "Engines": (EngineConfig, "the options of `gplan serve`, [serving](../serving.md)"),
}
# Column -> what it holds; `Sample` says the same for a reader of the code.
PLACE = "of the place where the user is"
MEANINGS = {
    "id": "The user. Rows of one id are never in training and test both, and never independent.",
    **{f"profile_feat_{n}": "An attribute of the user, as text." for n in (1, 2, 3, 4, 10, 11, 12)},
    "profile_feat_5": "Home city.",
    "profile_feat_6": "Id of the first habitual place (home).",
    "profile_feat_7": "City and district of the first habitual place.",
    "profile_feat_8": "Id of the second habitual place (work).",
    "profile_feat_9": "City and district of the second habitual place.",
    "profile_feat_13": "Interests.",
    "profile_feat_14": "Other features.",
    "short_term_behavior_seq": "Recent events, from the oldest to the latest.",
    "long_term_behavior": "Habits over a longer time.",
    "currenttime": "Time of the request, `YYYY-MM-DD HH:MM:SS`. It must be readable.",
    "holidayflag": "1 on holidays, else 0.",
    "weekendflag": "1 at weekends, else 0.",
    "current_poi_name": f"Name {PLACE}.",
    "current_tag": f"Kind {PLACE}.",
    "current_city": f"City {PLACE}.",
    "current_district": f"District {PLACE}.",
    "trigger_1": "What triggered the request: the kind of order, empty for none.",
    "trigger_2": "City of the order.",
    "trigger_3": "District of the order.",
    "trigger_4": "Place of the order.",
    "trigger_5": "When the order was made.",
    "trigger_6": "When the order starts.",
    "trigger_7": "When the order ends.",
    "raw_labels": "The plan, after its reasoning if it has any; empty in a row to plan for.",
}


def commands_page() -> str:
    """Every command with its options, as --help shows them."""
    lines = ["# Commands", "", NOTE, "", "`gplan COMMAND --help` says the same.", ""]
    for path, command in leaf_commands(get_command(app)):
        lines += [f"## gplan {' '.join(path)}", "", *_help(command.help or ""), ""]
        rows = [
            (
                ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
                if parameter.param_type_name == "option"
                else f"`{parameter.metavar or str(parameter.name).upper()}`",
                _default(parameter),
                (getattr(parameter, "help", "") or "").strip(),
            )
            for parameter in command.params
            if parameter.name != "help"
        ]
        lines += [*_table(("option", "default", "what it does"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def leaf_commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each command's words and its click command, in the order of --help."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaf_commands(command, (*path, name))
        else:
            yield (*path, name), command


def _help(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("Example: "):
            example = paragraph.removeprefix("Example: ").splitlines()
            lines += [*("    " + line for line in example), ""]
        else:
            lines += [*textwrap.wrap(" ".join(paragraph.split()), 128), ""]
    return lines[:-1]


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "*required*"
    if value is None or callable(value) or (isinstance(value, list | tuple) and not value):
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value.value if isinstance(value, enum.Enum) else value}`"


def configs_page() -> str:
    """Every config with its keys, their kinds, defaults and meanings."""
    lines = ["# Configs", "", NOTE, ""]
    lines += [
        "`gplan config list` names those that come with GPlan. An unknown key is an error that"
    ]
    lines += ["names near ones; `a.b=value` on the command line replaces one.", ""]
    for title, (kind, where) in CONFIGS.items():
        lines += [f"## {title}", "", f"{_sentence(kind)} {where}.", ""]
        rows = [
            (f"`{key}`", f"`{_kind(field.annotation)}`", _value(field), meaning)
            for key, field, meaning in keys_of(kind)
        ]
        lines += [*_table(("key", "kind", "default", "what it is"), rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def keys_of(
    kind: type[pydantic.BaseModel], prefix: str = ""
) -> Iterator[tuple[str, pydantic.fields.FieldInfo, str]]:
    """Dotted key, field and meaning of a config's keys, those of the configs in it among them."""
    meanings: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if owner not in (pydantic.BaseModel, object) and issubclass(owner, pydantic.BaseModel):
            meanings |= _comments(owner)
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, pydantic.BaseModel):
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field, meanings.get(name, "") or _of_attribute(kind, name)


def _comments(kind: type) -> dict[str, str]:
    """Field -> the comment above it, or behind it on its line."""
    source = textwrap.dedent(inspect.getsource(kind))
    comments = {
        token.start[0]: (
            token.string.removeprefix("#").strip(),
            not token.line.strip().startswith("#"),
        )
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in comments and not comments[line][1]:
                above.insert(0, comments[line][0])
                line -= 1
            behind = [comments[node.end_lineno or 0][0]] if node.end_lineno in comments else []
            found[node.target.id] = " ".join(above + behind)
    return found


def _of_attribute(kind: type, name: str) -> str:
    """What an "Attributes:" part of the docstring says of a field."""
    found = re.search(rf"^ +{name}: (.+?)(?=^ +\w+: |\Z)", kind.__doc__ or "", re.M | re.S)
    return " ".join(found.group(1).split()) if found else ""


def _sentence(kind: type) -> str:
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


def _kind(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(part) for part in parts)
    if origin is typing.Annotated:
        return _kind(parts[0])
    if parts:
        inner = ", ".join("..." if part is Ellipsis else _kind(part) for part in parts)
        return f"{getattr(origin, '__name__', origin)} of {inner}"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true, false"}.get(
        getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation))
    )


def _value(field: pydantic.fields.FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, pydantic.BaseModel | list | tuple | dict) and len(str(value)) > 40:
        return "see the class"
    return (
        "null" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


def columns_page() -> str:
    """The columns of GSISR rows."""
    lines = ["# Columns", "", NOTE, ""]
    lines += [
        "Rows are CSV, JSONL or Parquet with these columns, in any order; every value is text."
    ]
    lines += ["Files need `id` and `currenttime`, the server nothing: what"]
    lines += ["lacks is empty.", ""]
    rows = [(f"`{column}`", MEANINGS[column]) for column in COLUMNS]
    return "\n".join([*lines, *_table(("column", "what it holds"), rows)]) + "\n"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [heads, ("---",) * len(heads), *rows]
    return [
        "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |"
        for line in lines
    ]


PAGES = {"commands.md": commands_page, "configs.md": configs_page, "columns.md": columns_page}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check, stale = parser.parse_args().check, []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if check and (not path.is_file() or path.read_text("utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.exit(f"docs/reference: {', '.join(stale)} are not what the code says; run this script")


if __name__ == "__main__":
    main()
