"""Home and work from where a user's nights and working hours are spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, timedelta

from gplan_jax.synthesis.triggers.escaping import place_id, word
from gplan_jax.synthesis.triggers.events import NOWHERE, Spot
from gplan_jax.synthesis.triggers.spec import Habitual

SATURDAY = 5


class Stays:
    """Where the user last was in each night and in the working hours of each working day."""

    def __init__(self, spec: Habitual, holidays: Collection[date]) -> None:
        self._spec, self._holidays = spec, holidays
        self._nights: dict[date, Spot] = {}
        self._workdays: dict[date, Spot] = {}

    def add(self, when: datetime, spot: Spot) -> bool:
        """Notes where the user is; says whether that changed any stay."""
        if not spot.place:
            return False
        day, spec = when.date(), self._spec
        if when.hour in spec.night:
            # The hours after midnight belong to the night that began the day before.
            late = spec.night.start >= spec.night.end and when.hour < spec.night.end
            return self._note(self._nights, day - timedelta(days=1) if late else day, spot)
        works = when.weekday() < SATURDAY and day not in self._holidays
        return works and when.hour in spec.work and self._note(self._workdays, day, spot)

    def home(self) -> Spot:
        """The place of most nights; with too little evidence only its city, or nowhere."""
        home = self._most_common(self._nights.values())
        if home is not None:
            return home
        city = self._most_common(Spot(city=spot.city) for spot in self._nights.values())
        return city or NOWHERE

    def work(self, home_place: str) -> Spot:
        """The place of most working days away from home, or nowhere."""
        away = (spot for spot in self._workdays.values() if spot.place != home_place)
        return self._most_common(away) or NOWHERE

    def _note(self, stays: dict[date, Spot], day: date, spot: Spot) -> bool:
        if stays.get(day) == spot:
            return False
        stays[day] = spot
        if len(stays) > self._spec.days or next(iter(stays)) <= day - timedelta(self._spec.days):
            first = day - timedelta(days=self._spec.days)
            for old in [known for known in stays if known <= first]:
                del stays[old]
        return True

    def _most_common(self, spots: Iterable[Spot]) -> Spot | None:
        spots = list(spots)
        latest = {spot.place or spot.city: spot for spot in spots}
        counts = Counter(spot.place or spot.city for spot in spots)
        counts.pop("", None)
        if not counts:
            return None
        name, count = max(counts.items(), key=lambda item: (item[1], item[0]))
        enough = count >= self._spec.least and count >= self._spec.share * counts.total()
        return latest[name] if enough else None


def habitual_spots(profile: Mapping[str, str], stays: Stays | None) -> tuple[Spot, Spot]:
    """Home and work: what the profile tells, and the stays where it doesn't.

    A home found from stays is dropped where it is not in the city that the profile tells.
    """
    home = _given(profile, "home")
    if not home.place and stays is not None:
        found = stays.home()
        home = found if home.city in ("", found.city) else home
    work = _given(profile, "work")
    if not work.place and stays is not None:
        work = stays.work(home.place)
    return home, work


def _given(profile: Mapping[str, str], name: str) -> Spot:
    place, city, district = (profile.get(f"{name}_{part}", "") for part in _PARTS)
    return Spot(place=place_id(place), city=word(city), district=word(district))


_PARTS = ("place", "city", "district")
