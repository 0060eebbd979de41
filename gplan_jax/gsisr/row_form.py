"""How the rows of a service are written: its columns, what they mean, how a history reads.

``Sample`` names what it holds by the columns of the public set. Those that mean something to facts,
rules and perturbations are roles (ROLES); a service says which of its own columns plays which.
Columns without a role are kept by their name, for prompts and rules.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gplan_jax.foundation.config import Config, load_config

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
SERVICES = Path(__file__).parent / "services"
# Role -> the field of ``Sample`` that holds it.
ROLES: Mapping[str, str] = {
    "id": "id",
    "home_city": "profile_feat_5",
    "home_place": "profile_feat_6",
    "home_area": "profile_feat_7",
    "work_place": "profile_feat_8",
    "work_area": "profile_feat_9",
    "recent": "short_term_behavior_seq",
    "habits": "long_term_behavior",
    "time": "currenttime",
    "holiday": "holidayflag",
    "weekend": "weekendflag",
    "place": "current_poi_name",
    "category": "current_tag",
    "city": "current_city",
    "district": "current_district",
    "order_type": "trigger_1",
    "order_city": "trigger_2",
    "order_district": "trigger_3",
    "order_place": "trigger_4",
    "order_made": "trigger_5",
    "order_start": "trigger_6",
    "order_end": "trigger_7",
    "label": "raw_labels",
}
FIELDS = (
    "id",
    *(f"profile_feat_{i}" for i in range(1, 15)),
    *[field for role, field in ROLES.items() if role[:4] not in ("id", "home", "work")],
)
TIME_ROLES = ("time", "order_made", "order_start", "order_end")
_FLAGS = {"true": "1", "yes": "1", "false": "0", "no": "0"}


Group = Literal["profile", "history", "time and place", "trigger"]
# Role -> what it tells of.
GROUPS: Mapping[str, Group] = {
    **dict.fromkeys(
        ("id", "home_city", "home_place", "home_area", "work_place", "work_area"), "profile"
    ),
    **dict.fromkeys(("recent", "habits"), "history"),
    **dict.fromkeys(
        ("time", "holiday", "weekend", "place", "category", "city", "district"), "time and place"
    ),
    **dict.fromkeys([role for role in ROLES if role.startswith("order_")], "trigger"),
    "label": "trigger",
}


class Column(Config):
    """A column of the rows: the role it plays, if any, and what a person should know of it."""

    role: str | None = None
    about: str = ""
    example: str = ""
    # What it tells of where it has no role, and where the planning server's page shows it.
    group: Group = "profile"
    required: bool = False  # a file without it is no file of this service

    @model_validator(mode="after")
    def _known(self) -> Column:
        if self.role is not None and self.role not in ROLES:
            raise ValueError(f"role {self.role} is none; known are {', '.join(ROLES)}")
        return self


class Entries(Config):
    """How the entries of a history are written, one after another in one cell.

    ``entry`` is their text, with these in braces: place, category, actions, locality, and either
    time or month, day, weekday and hour for a moment, count for a habit. ``pattern``, a regular
    expression with groups of the same names, says how they read where that is not enough.
    """

    separator: str = Field(min_length=1)
    between: str | None = None  # what is written between entries, where it isn't the separator
    entry: str
    pattern: str | None = None
    action: str = r"[^&,\s]+"  # the regular expression of one action among actions

    @model_validator(mode="after")
    def _readable(self) -> Entries:
        names = {name for _, name, _, _ in string.Formatter().parse(self.entry) if name is not None}
        if unknown := sorted(names - set(_PARTS)):
            raise ValueError(f"entry: {', '.join(unknown)} is none of {', '.join(_PARTS)}")
        if "place" not in names:
            raise ValueError("entry: it must say the {place}")
        for expression in (self.pattern, self.action):
            try:
                re.compile(expression or "")
            except re.error as error:
                raise ValueError(f"{expression!r} is no regular expression: {error}") from None
        return self

    @cached_property
    def regex(self) -> re.Pattern[str]:
        if self.pattern:
            return re.compile(self.pattern)
        parts = string.Formatter().parse(self.entry)
        return re.compile(
            "".join(
                re.escape(literal) + (f"(?P<{name}>{_PARTS[name]})" if name else "")
                for literal, name, _, _ in parts
            )
        )

    def read(self, text: str) -> list[Mapping[str, str]]:
        """The parts of each entry of a cell; entries of another form are left out."""
        found = (self.regex.fullmatch(entry.strip()) for entry in text.split(self.separator))
        return [match.groupdict("") for match in found if match]

    def actions(self, text: str) -> tuple[str, ...]:
        return tuple(re.findall(self.action, text))


_PARTS = {
    "time": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?",
    "month": r"\d+", "day": r"\d+", "weekday": r"\S+?", "hour": r"\d+",
    "actions": ".*?", "locality": ".*?", "category": ".*?", "place": ".+?", "count": r"\d+",
}  # fmt: skip


class RowForm(Config):
    """The rows of a service; ``services/amap/service.yaml`` and ``docs/services.md`` explain it."""

    columns: dict[str, Column] = Field(min_length=1)
    others: Literal["error", "ignore"] = "error"  # what becomes of columns that are not listed
    area: str = ""  # what stands between city and district in home_area and work_area
    weekdays: list[str] = Field(
        default=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], min_length=7, max_length=7
    )
    recent: Entries = Entries(separator="; ", entry="{time} {actions} {category} at {place}")
    habits: Entries = Entries(separator="; ", entry="{actions} {category} at {place} {count} times")
    # Kind of place -> words of its categories; the first kind with a word that a category contains.
    kinds: dict[str, list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> RowForm:
        roles = [column.role for column in self.columns.values() if column.role]
        if twice := sorted({role for role in roles if roles.count(role) > 1}):
            raise ValueError(f"two columns have the role {', '.join(twice)}")
        if missing := [role for role in ("id", "time", "label") if role not in roles]:
            raise ValueError(f"no column has the role {', '.join(missing)}")
        return self

    @cached_property
    def fields(self) -> Mapping[str, str]:
        """Column -> the field of ``Sample`` that holds it; those without one are left out."""
        found = {}
        for name, column in self.columns.items():
            if column.role:
                found[name] = ROLES[column.role]
            elif name in FIELDS and name not in ROLES.values():
                found[name] = name  # the public set's attributes, whose meaning it doesn't tell
        return found

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The columns that ``Sample.extra`` holds, in this order."""
        return tuple(name for name in self.columns if name not in self.fields)

    @cached_property
    def groups(self) -> Mapping[str, Group]:
        """Column -> what it tells of: by its role, and as the service says where it has none."""
        return {
            name: GROUPS.get(column.role or "", column.group)
            for name, column in self.columns.items()
        }

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Field of ``Sample`` -> its column; a role that no column plays is called as it is."""
        own = {field: name for name, field in self.fields.items()}
        return {field: role for role, field in ROLES.items()} | own

    @cached_property
    def required(self) -> frozenset[str]:
        """The columns that every file has."""
        wanted = {name for name, column in self.columns.items() if column.required}
        return frozenset(wanted | {self.names["id"], self.names["currenttime"]})

    @property
    def label(self) -> str:
        """The column of plans."""
        return self.names["raw_labels"]

    def has(self, role: str) -> bool:
        return any(column.role == role for column in self.columns.values())

    @cached_property
    def is_public(self) -> bool:
        """Whether its columns are those of the public set, by name."""
        return tuple(self.columns) == FIELDS

    def read(self, cells: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
        """Cells by column -> the fields of ``Sample``, and its ``extra``.

        Times in ISO 8601, and flags in words, become what the public set has; whether a day is of a
        weekend follows from the time where no column says it. The public set is taken as it is.
        """
        texts = dict.fromkeys(FIELDS, "")
        texts |= {field: cells.get(name, "") for name, field in self.fields.items()}
        if self.is_public:
            return texts, ()
        for role in TIME_ROLES:
            texts[ROLES[role]] = _canonical_time(texts[ROLES[role]])
        for role in ("weekend", "holiday"):
            text = texts[ROLES[role]]
            texts[ROLES[role]] = _FLAGS.get(text.strip().lower(), text)
        return self.filled(texts), tuple(cells.get(name, "") for name in self.extras)

    def filled(self, texts: dict[str, str]) -> dict[str, str]:
        """The same fields with those that no column holds as they follow from the others."""
        if not self.is_public and not self.has("weekend"):
            try:
                day = datetime.strptime(texts["currenttime"], TIME_FORMAT).weekday()
            except ValueError:
                return texts
            texts["weekendflag"] = str(int(day >= 5))
        if not self.is_public and not self.has("holiday"):
            texts["holidayflag"] = "0"
        return texts


@cache
def public_form() -> RowForm:
    """The rows of the public GSISR set."""
    return load_config(ServiceFile, SERVICES / "amap" / "service.yaml").rows


class ServiceFile(Config):
    """service.yaml: what a service is called, and how its rows are written."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    about: str = ""
    language: str = "en"
    prompt: str  # the folder below prompts/ that is used unless a run names another
    compact: str | None = None  # the one of few words, for small models; as prompt where None
    rows: RowForm
    labels: dict[str, str] = Field(default_factory=dict)  # words for codes, on pages


def _canonical_time(text: str) -> str:
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    return text if when.tzinfo else when.strftime(TIME_FORMAT)
