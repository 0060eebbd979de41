"""One row, by the columns of the public GSISR set, and a split that keeps a user's together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gplan_jax.foundation.buckets import bucket
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr.row_form import FIELDS, Group, RowForm, public_form


@dataclass(frozen=True, slots=True)
class Sample:
    """A row under the column names of the public CSV; every value is text, absent ones are "".

    A row of another service stands under the same names, by the roles of its columns (``RowForm``).

    ``profile_feat_5`` is the home city; ``profile_feat_6/7`` and ``8/9`` are place id and
    city+district of the two habitual places, home and work; ``trigger_1`` is the order type,
    ``trigger_2/3/4`` its city, district and place, ``trigger_5`` when it was made and
    ``trigger_6/7`` its start and end. ``raw_labels`` holds the plan, after its reasoning where
    the row has any, and is "" in a row to plan for.
    """

    id: str
    profile_feat_1: str
    profile_feat_2: str
    profile_feat_3: str
    profile_feat_4: str
    profile_feat_5: str
    profile_feat_6: str
    profile_feat_7: str
    profile_feat_8: str
    profile_feat_9: str
    profile_feat_10: str
    profile_feat_11: str
    profile_feat_12: str
    profile_feat_13: str
    profile_feat_14: str
    short_term_behavior_seq: str
    long_term_behavior: str
    currenttime: str
    holidayflag: str
    weekendflag: str
    current_poi_name: str
    current_tag: str
    current_city: str
    current_district: str
    trigger_1: str
    trigger_2: str
    trigger_3: str
    trigger_4: str
    trigger_5: str
    trigger_6: str
    trigger_7: str
    raw_labels: str
    # what the columns without a role hold, in the order of ``form.extras``
    extra: tuple[str, ...] = ()
    # how its file is written; None for the public set
    written: RowForm | None = field(default=None, compare=False, repr=False)

    @property
    def form(self) -> RowForm:
        """How its file is written."""
        return self.written or public_form()

    def to_dict(self) -> dict[str, str]:
        """Column name -> value, in the order of its service's columns."""
        form = self.form
        others = dict(zip(form.extras, self.extra, strict=True))
        return {
            name: others[name] if name in others else getattr(self, form.fields[name])
            for name in form.columns
        }

    def context(self) -> dict[str, str]:
        """As ``to_dict``, without the label."""
        return {name: text for name, text in self.to_dict().items() if name != self.form.label}

    def texts_of(self, groups: Collection[Group]) -> tuple[str, ...]:
        """The texts of the columns of these groups (``RowForm.groups``), in their order."""
        own = self.form.groups
        return tuple(text for name, text in self.context().items() if own[name] in groups)

    def with_label(self, raw_labels: str) -> Sample:
        return dataclasses.replace(self, raw_labels=raw_labels)

    def with_texts(self, texts: Mapping[str, Any]) -> Sample:
        """The same row with other texts in some of COLUMNS."""
        return dataclasses.replace(self, **texts)

    @classmethod
    def from_context(cls, context: Mapping[str, str], form: RowForm | None = None) -> Sample:
        """A sample from known columns of a service, the public set's where ``form`` is None.

        Others are ""; GplanError where a column is none of the service.
        """
        known = form or public_form()
        if unknown := sorted(set(context) - set(known.columns)):
            raise GplanError(
                f"Unknown columns: {', '.join(unknown)}. Known ones: {', '.join(known.columns)}."
            )
        texts, extra = known.read(context)
        fields: dict[str, Any] = {**texts, "extra": extra, "written": form}
        return cls(**fields)


COLUMNS = FIELDS


def split_by_id(
    samples: Iterable[Sample], test_fraction: float, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Splits into (train, test) by a salted hash of ``id``, so that no id is in both parts.

    The side of a row depends on its id and ``seed`` alone, so a part stays what it was when rows
    are added; its size is ``test_fraction`` (strictly between 0 and 1, else GplanError) on average.
    """
    if not 0 < test_fraction < 1:
        raise GplanError(f"test_fraction is {test_fraction}; it lies between 0 and 1.")
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        parts[bucket(str(seed), sample.id) < test_fraction].append(sample)
    return parts
