"""The perturbations of a context: each changes time or place and keeps the rest consistent.

``weekendflag`` follows the date, ``holidayflag`` the holidays of the catalogue when the date moves;
``current_tag``, ``current_city`` and ``current_district`` follow the place. Nothing else changes.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime, timedelta

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Behavior, Sample, short_term
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME, request_time, time_of
from gplan_jax.synthesis.pairs.catalogue import Catalogue, category_in_histories
from gplan_jax.synthesis.pairs.perturbation_spec import (
    DayShift,
    HomeMove,
    HoursShift,
    OrderMove,
    Perturbation,
    PerturbationSpec,
)
from gplan_jax.synthesis.world.geography import Place

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
FIRST_DAY_OFF = 5  # Saturday, as datetime counts the days of a week.
FLAGS = ("0", "1")


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row to change.

    Attributes:
        now: its current time.
        behaviors: its short-term history, oldest first.
        earliest: the current time may not be moved before this.
    """

    sample: Sample
    now: datetime
    behaviors: tuple[Behavior, ...]
    earliest: datetime


def anchor_of(sample: Sample) -> Anchor:
    """Reads what the perturbations need to know about a row.

    ``earliest`` is the latest of: the moment of the order, the hour of the latest behaviour, and
    the end of that hour or the current time, whichever comes first: the history tells no minutes.

    Raises:
        GplanError: a time can't be read or has no neighbouring year, a flag is neither 0 nor 1, or
            ``weekendflag`` contradicts the date.
    """
    now = request_time(sample)
    made, *_ = (time_of(sample, column) for column in ORDER_TIMES)
    if now.year in (MINYEAR, MAXYEAR):
        raise GplanError(f"{REQUEST_TIME} is {sample.currenttime}; write the time of the request.")
    for column in ("holidayflag", "weekendflag"):
        if getattr(sample, column) not in FLAGS:
            raise GplanError(f"{column} is {getattr(sample, column)!r}; write 0 or 1.")
    if sample.weekendflag != _weekend_flag(now):
        raise GplanError(f"weekendflag is {sample.weekendflag}, but {now:%Y-%m-%d is a %A}.")
    behaviors = _history(sample, now)
    bounds = [made] if made else []
    if behaviors:
        latest = max(behavior.when for behavior in behaviors)
        bounds.append(max(latest, min(now, latest + timedelta(hours=1))))
    return Anchor(sample, now, behaviors, max(bounds, default=datetime.min))


def perturbed(
    name: str,
    anchor: Anchor,
    spec: PerturbationSpec,
    catalogue: Catalogue,
    generator: random.Random,
) -> Sample | None:
    """The context of ``anchor`` under the perturbation ``name`` of ``spec``, without a label.

    None where the perturbation does not apply: a time out of bounds, no such place, already there.
    """
    changed = _PERTURBATIONS[name](anchor, getattr(spec, name), catalogue, generator)
    return None if changed is None else changed.with_label("")


def _hours_later(
    anchor: Anchor, part: HoursShift, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    span = timedelta(seconds=generator.randint(_seconds(part.least), _seconds(part.most)))
    return _at_time(anchor, anchor.now + span, catalogue)


def _hours_earlier(
    anchor: Anchor, part: HoursShift, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    room = (anchor.now - anchor.earliest).total_seconds()
    least, most = _seconds(part.least), min(_seconds(part.most), int(room))
    if most < least:
        return None
    span = timedelta(seconds=generator.randint(least, most))
    return _at_time(anchor, anchor.now - span, catalogue)


def _weekday_weekend(
    anchor: Anchor, part: DayShift, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    shifts = (timedelta(days=days) for days in range(-part.days, part.days + 1))
    times = [anchor.now + shift for shift in shifts]
    flag = anchor.sample.weekendflag
    fits = [t for t in times if t >= anchor.earliest and _weekend_flag(t) != flag]
    return _at_time(anchor, generator.choice(fits), catalogue) if fits else None


def _holiday_flag(
    anchor: Anchor, part: Perturbation, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    other = "0" if anchor.sample.holidayflag == "1" else "1"
    return dataclasses.replace(anchor.sample, holidayflag=other)


def _other_district(
    anchor: Anchor, part: Perturbation, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    sample = anchor.sample
    here = catalogue.by_city.get(sample.current_city, ())
    return _somewhere(sample, [p for p in here if p.district != sample.current_district], generator)


def _other_city(
    anchor: Anchor, part: Perturbation, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    sample = anchor.sample
    if not sample.current_city:
        return None
    cities = [city for city in catalogue.by_city if city != sample.current_city]
    for city in generator.sample(cities, len(cities)):  # The first will do, unless it is all own.
        if moved := _somewhere(sample, catalogue.by_city[city], generator):
            return moved
    return None


def _at_home(
    anchor: Anchor, part: HomeMove, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    sample = anchor.sample
    area = catalogue.split_area(sample.profile_feat_7, sample.profile_feat_5)
    category = _category(anchor, sample.profile_feat_6, catalogue) or part.category
    if not (sample.profile_feat_6 and area and category):
        return None
    return _at_place(sample, Place(sample.profile_feat_6, *area, category))


def _at_order_place(
    anchor: Anchor, part: OrderMove, catalogue: Catalogue, generator: random.Random
) -> Sample | None:
    sample = anchor.sample
    category = _category(anchor, sample.trigger_4, catalogue)
    category = category or part.categories.get(sample.trigger_1, "")
    if not (sample.trigger_4 and sample.trigger_2 and category):
        return None
    place = Place(sample.trigger_4, sample.trigger_2, sample.trigger_3, category)
    return _at_place(sample, place)


_PERTURBATIONS: Mapping[str, Callable[..., Sample | None]] = {
    "hours_later": _hours_later,
    "hours_earlier": _hours_earlier,
    "weekday_weekend": _weekday_weekend,
    "holiday_flag": _holiday_flag,
    "other_district": _other_district,
    "other_city": _other_city,
    "at_home": _at_home,
    "at_order_place": _at_order_place,
}


def _at_time(anchor: Anchor, when: datetime, catalogue: Catalogue) -> Sample | None:
    """The row at another time; None where that is too early or changes what its history says."""
    sample = anchor.sample
    # Behaviours carry no year: a new date must not move one of them to another year.
    if when < anchor.earliest or _history(sample, when) != anchor.behaviors:
        return None
    changed = {"currenttime": when.strftime(TIME_FORMAT)}
    if when.date() != anchor.now.date():
        holiday = when.date() in catalogue.holidays
        changed |= {"weekendflag": _weekend_flag(when), "holidayflag": "1" if holiday else "0"}
    return dataclasses.replace(sample, **changed)


def _at_place(sample: Sample, place: Place) -> Sample | None:
    """The row at another place; None where it is there already."""
    if place.id == sample.current_poi_name:
        return None
    return dataclasses.replace(
        sample,
        current_poi_name=place.id,
        current_tag=place.category,
        current_city=place.city,
        current_district=place.district,
    )


def _somewhere(sample: Sample, places: Sequence[Place], generator: random.Random) -> Sample | None:
    """The row at one of ``places`` that the row itself does not name."""
    own = (sample.current_poi_name, sample.profile_feat_6, sample.profile_feat_8, sample.trigger_4)
    strange = [place for place in places if place.id not in own]
    return _at_place(sample, generator.choice(strange)) if strange else None


def _category(anchor: Anchor, place: str, catalogue: Catalogue) -> str:
    own = category_in_histories(anchor.sample, anchor.now, place)
    return own or catalogue.categories.get(place, "")


def _history(sample: Sample, now: datetime) -> tuple[Behavior, ...]:
    return short_term(sample.short_term_behavior_seq, now)


def _seconds(hours: float) -> int:
    return round(hours * 3600)


def _weekend_flag(when: datetime) -> str:
    return "1" if when.weekday() >= FIRST_DAY_OFF else "0"
