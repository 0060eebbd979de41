"""The perturbations of a context: each changes time or place and keeps the rest consistent.

What may be changed and how far is declared in a YAML file, the perturbation spec. ``weekendflag``
follows the date, ``holidayflag`` the holidays of the catalogue when the date moves;
``current_tag``, ``current_city`` and ``current_district`` follow the place. Nothing else changes.

A ``Catalogue`` is what the rows of a file tell about the world: its places and its holidays.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, date, datetime, timedelta
from functools import cached_property
from pathlib import Path

from pydantic import Field, model_validator

from gplan_jax.foundation.config import Config, line_of, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Behavior, IntentLibrary, Sample, Service, long_term, short_term
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME, TIME_FORMAT, request_time, time_of
from gplan_jax.gsisr.service import PERTURBATIONS
from gplan_jax.synthesis.world.geography import Place


@dataclass(frozen=True)
class Catalogue:
    """The places and holidays of a file."""

    # Every place that a row is at, and every other order's place whose category the row's histories
    # tell, by id.
    places: tuple[Place, ...]
    # The dates that more rows call a holiday than not, and those declared.
    holidays: frozenset[date]

    @cached_property
    def by_city(self) -> Mapping[str, tuple[Place, ...]]:
        cities: dict[str, list[Place]] = defaultdict(list)
        for place in self.places:
            cities[place.city].append(place)
        return {city: tuple(places) for city, places in cities.items()}

    @cached_property
    def categories(self) -> Mapping[str, str]:
        return {place.id: place.category for place in reversed(self.places)}

    @cached_property
    def areas(self) -> Mapping[str, tuple[str, str]]:
        """City and district in one word -> city, district."""
        return {place.area: (place.city, place.district) for place in self.places}

    def split_area(self, area: str, home_city: str) -> tuple[str, str] | None:
        """City and district of an area word, None where no known city begins it.

        A district that has a place in the catalogue decides; otherwise ``home_city`` where the
        word begins with it; otherwise the longest city of the catalogue with which it begins.
        """
        if area in self.areas:
            return self.areas[area]
        cities = [home_city] if home_city and area.startswith(home_city) else self.by_city
        city = max((city for city in cities if area.startswith(city)), key=len, default="")
        return (city, area.removeprefix(city)) if city else None


def harvest(samples: Iterable[Sample], holidays: Sequence[date] = ()) -> Catalogue:
    """Gathers the catalogue of rows in one pass; it does not depend on their order."""
    current: set[Place] = set()
    ordered: set[Place] = set()
    votes: Counter[date] = Counter()
    for sample in samples:
        try:
            now = request_time(sample)
        except GplanError:  # Reported where the row itself is worked on.
            continue
        votes[now.date()] += 1 if sample.holidayflag == "1" else -1
        if sample.current_poi_name and sample.current_city:
            here = sample.current_city, sample.current_district
            current.add(Place(sample.current_poi_name, *here, sample.current_tag))
        category = category_in_histories(sample, now, sample.trigger_4)
        if category and sample.trigger_2:
            ordered.add(Place(sample.trigger_4, sample.trigger_2, sample.trigger_3, category))
    known = {place.id for place in current}
    places = {*current, *(place for place in ordered if place.id not in known)}
    said = {day for day, vote in votes.items() if vote > 0}
    ordered_places = sorted(places, key=lambda p: (p.id, p.city, p.district, p.category))
    return Catalogue(tuple(ordered_places), frozenset({*said, *holidays}))


def category_in_histories(sample: Sample, now: datetime, place: str) -> str:
    """The category of ``place`` in a row's latest behaviour, else in its habits; "" if in none."""
    if place and place in sample.short_term_behavior_seq:
        for behavior in reversed(short_term(sample.short_term_behavior_seq, now, sample.form)):
            if behavior.place == place:
                return behavior.category
    if place and place in sample.long_term_behavior:
        for habit in long_term(sample.long_term_behavior, sample.form):
            if habit.place == place:
                return habit.category
    return ""


FIRST_DAY_OFF = 5  # Saturday, as datetime counts the days of a week.
FLAGS = ("0", "1")


class Perturbation(Config):
    """One way to change a context; ``weight`` is how often it comes first, relative to others."""

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)


class HoursShift(Perturbation):
    """Moves the current time by ``least`` to ``most`` hours, in steps of a second."""

    least: float = Field(gt=0, allow_inf_nan=False)
    most: float = Field(gt=0, le=7 * 24)

    @model_validator(mode="after")
    def _ordered(self) -> HoursShift:
        if self.least > self.most:
            raise ValueError(f"least ({self.least:g}) must not be above most ({self.most:g})")
        return self


class DayShift(Perturbation):
    """Moves the date to a day of the other kind, weekday or weekend, at most ``days`` away."""

    days: int = Field(ge=1, le=31)


class HomeMove(Perturbation):
    """Moves the user home; ``category`` is used where no row has home's category."""

    category: str | None = Field(None, min_length=1)


class OrderMove(Perturbation):
    """Moves the user to the order's place.

    ``categories``: type of order -> category of its place, where no row has it.
    """

    categories: dict[str, str] = Field(default_factory=dict)


class PerturbationSpec(Config):
    """All perturbations by name; one that is None is not used."""

    hours_later: HoursShift | None = None
    hours_earlier: HoursShift | None = None
    weekday_weekend: DayShift | None = None  # From a weekday to a weekend or back.
    holiday_flag: Perturbation | None = None  # The flag is turned over; the date stays.
    other_district: Perturbation | None = None
    other_city: Perturbation | None = None
    at_home: HomeMove | None = None
    at_order_place: OrderMove | None = None
    holidays: list[date] = Field(default_factory=list)  # Beside those that the rows say.

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight of the perturbations in use, in the order of their declaration."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {n: part.weight for n, part in sections.items() if isinstance(part, Perturbation)}


# Perturbation -> the roles of columns that it needs.
_PLACE = ("place", "category", "city")
NEEDS: Mapping[str, tuple[str, ...]] = {
    "holiday_flag": ("holiday",),
    "other_district": (*_PLACE, "district"),
    "other_city": _PLACE,
    "at_home": (*_PLACE, "home_place", "home_area"),
    "at_order_place": (*_PLACE, "order_place", "order_city"),
}


def load_spec(
    path: str | Path | None = None, library: IntentLibrary | None = None
) -> PerturbationSpec:
    """Reads a perturbation spec; that of the library's service without ``path``.

    GplanError names the fault; also where a perturbation needs a column that the service lacks.
    """
    library = library or IntentLibrary.load()
    if path is None:
        if library.folder is None:
            raise GplanError(f"The library {library.name} is of no service; name a spec.")
        path = Service.load(library.folder).part(PERTURBATIONS)
    spec = load_config(PerturbationSpec, path)
    for name in spec.weights:
        if lacks := [role for role in NEEDS.get(name, ()) if not library.form.has(role)]:
            line = line_of(path, name)
            raise GplanError(
                f"{path}, line {line}: {name} needs columns with the roles {', '.join(lacks)}, "
                f"which {library.name} has none of; give them in its service.yaml, or leave {name} "
                "out."
            )
    if not spec.weights:
        known = [name for name in PerturbationSpec.model_fields if name != "holidays"]
        raise GplanError(f"{path} declares no perturbation; known ones: {', '.join(known)}.")
    return spec


@dataclass(frozen=True, slots=True)
class Anchor:
    """A row to change."""

    sample: Sample
    now: datetime
    behaviors: tuple[Behavior, ...]  # Its short-term history, oldest first.
    earliest: datetime  # The current time may not be moved before this.


def anchor_of(sample: Sample) -> Anchor:
    """Reads what the perturbations need to know about a row.

    ``earliest`` is the latest of: the moment of the order, the hour of the latest behaviour, and
    the end of that hour or the current time, whichever comes first: the history tells no minutes.
    GplanError where a time can't be read, a flag is neither 0 nor 1, or contradicts the date.
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
    behaviors = short_term(sample.short_term_behavior_seq, now, sample.form)
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
    sample, part = anchor.sample, getattr(spec, name)
    match name:
        case "hours_later" | "hours_earlier":
            least, most = round(part.least * 3600), round(part.most * 3600)
            if name == "hours_earlier":
                most = min(most, int((anchor.now - anchor.earliest).total_seconds()))
            if most < least:
                return None
            span = timedelta(seconds=generator.randint(least, most))
            when = anchor.now + span if name == "hours_later" else anchor.now - span
            return _at_time(anchor, when, catalogue)
        case "weekday_weekend":
            times = [anchor.now + timedelta(days=d) for d in range(-part.days, part.days + 1)]
            fits = [
                t for t in times if t >= anchor.earliest and _weekend_flag(t) != sample.weekendflag
            ]
            return _at_time(anchor, generator.choice(fits), catalogue) if fits else None
        case "holiday_flag":
            other = "0" if sample.holidayflag == "1" else "1"
            return dataclasses.replace(sample, holidayflag=other, raw_labels="")
        case "other_district":
            here = catalogue.by_city.get(sample.current_city, ())
            others = [p for p in here if p.district != sample.current_district]
            return _somewhere(sample, others, generator)
        case "other_city":
            if not sample.current_city:
                return None
            cities = [city for city in catalogue.by_city if city != sample.current_city]
            # The first city will do, unless all its places are the row's own.
            drawn = generator.sample(cities, len(cities))
            moves = (_somewhere(sample, catalogue.by_city[city], generator) for city in drawn)
            return next((moved for moved in moves if moved), None)
        case "at_home":
            area = catalogue.split_area(sample.profile_feat_7, sample.profile_feat_5)
            category = _category(anchor, sample.profile_feat_6, catalogue) or part.category
            if not (sample.profile_feat_6 and area and category):
                return None
            return _at_place(sample, Place(sample.profile_feat_6, *area, category))
        case "at_order_place":
            category = _category(anchor, sample.trigger_4, catalogue)
            category = category or part.categories.get(sample.trigger_1, "")
            if not (sample.trigger_4 and sample.trigger_2 and category):
                return None
            place = Place(sample.trigger_4, sample.trigger_2, sample.trigger_3, category)
            return _at_place(sample, place)
    raise KeyError(name)


def _at_time(anchor: Anchor, when: datetime, catalogue: Catalogue) -> Sample | None:
    """The row at another time; None where that is too early or changes what its history says."""
    sample = anchor.sample
    # Behaviours carry no year: a new date must not move one of them to another year.
    history = short_term(sample.short_term_behavior_seq, when, sample.form)
    if when < anchor.earliest or history != anchor.behaviors:
        return None
    changed = {"currenttime": when.strftime(TIME_FORMAT), "raw_labels": ""}
    if when.date() != anchor.now.date():
        holiday = when.date() in catalogue.holidays
        changed["weekendflag"] = _weekend_flag(when)
        if sample.form.has("holiday"):
            changed["holidayflag"] = "1" if holiday else "0"
    return sample.with_texts(changed)


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
        raw_labels="",
    )


def _somewhere(sample: Sample, places: Sequence[Place], generator: random.Random) -> Sample | None:
    """The row at one of ``places`` that the row itself does not name."""
    own = (sample.current_poi_name, sample.profile_feat_6, sample.profile_feat_8, sample.trigger_4)
    strange = [place for place in places if place.id not in own]
    return _at_place(sample, generator.choice(strange)) if strange else None


def _category(anchor: Anchor, place: str, catalogue: Catalogue) -> str:
    own = category_in_histories(anchor.sample, anchor.now, place)
    return own or catalogue.categories.get(place, "")


def _weekend_flag(when: datetime) -> str:
    return "1" if when.weekday() >= FIRST_DAY_OFF else "0"
