"""What intents and order types are called on the page: their own words, and short English ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gplan_jax.foundation.config import Config, load_config
from gplan_jax.gsisr import Intent, IntentLibrary

LABELS = Path(__file__).parent / "labels.yaml"


@dataclass(frozen=True)
class Label:
    """Two ways to call one thing; ``english`` is "" where there is none."""

    own: str
    english: str = ""

    @property
    def short(self) -> str:
        """The English label, or its own words where there is none."""
        return self.english or self.own


class _Labels(Config):
    library: str
    tools: dict[str, str]
    values: dict[str, str]
    order_types: dict[str, str]


@cache
def _labels() -> _Labels:
    return load_config(_Labels, LABELS)


def intent_label(intent: Intent, library: IntentLibrary) -> Label:
    """An intent by its tool's meaning and its values, and in English for the shipped library."""
    tool = intent[library.tool_key]
    values = {k: v for k, v in intent.items() if k != library.tool_key}
    meaning = library.tools[tool].meaning if tool in library.tools else ""
    own = " ".join([_before_bracket(meaning) or tool, "→".join(values.values())]).strip()
    labels = _labels()
    form = labels.tools.get(tool, "") if library.name == labels.library else ""
    try:
        english = form.format_map({k: labels.values[v] for k, v in values.items()})
    except KeyError:
        english = ""
    return Label(own, english)


def order_type_label(order_type: str) -> Label:
    """An order type as written in the rows; rows without an order have none."""
    if not order_type:
        return Label("no order", "no order")
    return Label(order_type, _labels().order_types.get(order_type, ""))


def _before_bracket(meaning: str) -> str:
    return meaning.split("（")[0].split("(")[0].strip()
