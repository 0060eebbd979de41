"""A small simulated world from a service's world.yaml: contexts to plan for, without a user's data.

Every user lives in one city, works there and travels to another; a row is a moment of theirs, with
a booking as near as the table of distances says, and a history of places they could have been at.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta

from pydantic import Field

from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, Service
from gplan_jax.gsisr.facts import Habit, long_term_text, short_term_entry
from gplan_jax.gsisr.row_form import ROLES, TIME_FORMAT
from gplan_jax.gsisr.service import WORLD
from gplan_jax.synthesis.world.calibration import Shares
from gplan_jax.synthesis.world.geography import Place
from gplan_jax.synthesis.world.simulation import FIRST_ID, simulate_contexts

OTHERS = 9_000_001  # from where on seeds and ids are of other users


class Order(Config):
    """One type of order: the category of its place, hours until it starts, hours it lasts."""

    weight: float = Field(gt=0)
    category: str = ""
    starts: list[float] | None = Field(None, min_length=2, max_length=2)
    lasts: list[float] | None = Field(None, min_length=2, max_length=2)


class WorldFile(Config):
    """world.yaml; that of services/city_guide shows every key."""

    first_day: date
    days: int = Field(ge=1)
    cities: dict[str, list[str]] = Field(min_length=2)
    places: dict[str, list[str]] = Field(min_length=1)
    at: dict[str, float]
    home: str
    work: str
    hours: dict[int, float]
    away: float = Field(ge=0, le=1)
    orders: dict[str, Order]
    distances: dict[str, float]
    columns: dict[str, dict[str, float]] = Field(default_factory=dict)
    actions: list[str] = Field(min_length=1)
    recent: list[int] = Field(min_length=2, max_length=2)
    habits: list[int] = Field(min_length=2, max_length=2)


def load_world(library: IntentLibrary) -> WorldFile:
    """The world of a service; GplanError where it has none, or it does not fit the rows."""
    if library.folder is None:
        raise GplanError(f"The library {library.name} is of no service, so it has no world.")
    path = Service.load(library.folder).part(WORLD)
    world, form = load_config(WorldFile, path), library.form
    faults = [f"columns: {name} is no column" for name in world.columns if name not in form.columns]
    named = {"home": [world.home], "work": [world.work], "at": list(world.at)}
    named |= {f"orders.{n}": [o.category] for n, o in world.orders.items() if o.category}
    faults += [
        f"{key}: {category} is not among places"
        for key, categories in named.items()
        for category in categories
        if category not in world.places
    ]
    faults += [
        f"distances: {name} is none of here, district, city, elsewhere"
        for name in world.distances
        if name not in ("here", "district", "city", "elsewhere")
    ]
    if faults:
        raise GplanError(f"{path} does not fit the service:\n  " + "\n  ".join(faults))
    return world


def world_contexts(library: IntentLibrary, seed: int, *, others: bool = False) -> Iterator[Sample]:
    """Endless contexts of a service, without labels: of Amap's world, or of its world.yaml.

    ``others`` takes other users of the same places. GplanError where the service has no world.
    """
    if library.rows is None:
        return simulate_contexts(seed, first_id=OTHERS if others else FIRST_ID)
    return simulate_service(library, seed + OTHERS if others else seed)


def simulate_service(library: IntentLibrary, seed: int) -> Iterator[Sample]:
    """Endless contexts of a service's world, without labels; the same seed makes the same ones."""
    world, form = load_world(library), library.form
    generator = random.Random(f"{library.name} {seed}")
    places = [
        Place(f"{name} {district}", city, district, category)
        for city, districts in world.cities.items()
        for district in districts
        for category, names in world.places.items()
        for name in names
    ]

    def draw(weights: Mapping[str, float]) -> str:
        return Shares.of(weights).draw(generator)

    def somewhere(category: str, fits: Mapping[str, object]) -> Place:
        found = [p for p in places if p.category == category]
        near = [p for p in found if all(getattr(p, key) == v for key, v in fits.items())]
        return generator.choice(near or found)

    def area(place: Place) -> str:
        return form.area.join((place.city, place.district))

    for number in itertools.count(1):
        home_city, away_city = generator.sample(list(world.cities), 2)
        home = somewhere(world.home, {"city": home_city})
        work = somewhere(world.work, {"city": home_city})
        city = away_city if generator.random() < world.away else home_city
        day = world.first_day + timedelta(days=generator.randrange(world.days))
        hour = int(draw({str(h): w for h, w in world.hours.items()}))
        now = datetime(day.year, day.month, day.day, hour, generator.randrange(60))
        place = somewhere(draw(world.at), {"city": city})
        own = {world.home: home, world.work: work}
        if place.city == home_city and generator.random() < 0.7:
            place = own.get(place.category, place)
        kind = draw({name: order.weight for name, order in world.orders.items()})
        order, spot = world.orders[kind], None
        texts = {"order_type": kind, "order_made": "", "order_start": "", "order_end": ""}
        if order.category:
            distance = draw(world.distances)
            near = {"city": place.city}
            if distance == "district":
                near["district"] = place.district
            if distance == "elsewhere":
                others = [name for name in world.cities if name != place.city]
                near["city"] = generator.choice(others)
            spot = somewhere(order.category, near)
            place = spot if distance == "here" else place
            made = now - timedelta(minutes=generator.randrange(5, 600))
            texts["order_made"] = made.strftime(TIME_FORMAT)
            if order.starts:
                start = now + timedelta(minutes=round(60 * generator.uniform(*order.starts)))
                texts["order_start"] = start.strftime(TIME_FORMAT)
                if order.lasts:
                    lasts = timedelta(minutes=round(60 * generator.uniform(*order.lasts)))
                    texts["order_end"] = (start + lasts).strftime(TIME_FORMAT)
        events, when = [], now - timedelta(hours=generator.randrange(6))
        for _ in range(generator.randint(*world.recent)):
            seen = spot if spot and generator.random() < 0.3 else generator.choice(places)
            action = generator.choice(world.actions)
            events.append(short_term_entry(when, action, "", seen.category, seen.id, form))
            when -= timedelta(hours=generator.randrange(1, 30))
        often = [
            Habit(seen.category, seen.id, (world.actions[-1],), generator.randrange(2, 40))
            for seen in generator.sample(places, generator.randint(*world.habits))
        ]
        often.sort(key=lambda habit: -habit.count)
        texts |= {
            "id": f"u{number}",
            "time": now.strftime(TIME_FORMAT),
            "weekend": str(int(now.weekday() >= 5)),
            "holiday": "0",
            "home_city": home_city,
            "home_place": home.id,
            "home_area": area(home),
            "work_place": work.id,
            "work_area": area(work),
            "recent": form.recent.separator.join(reversed(events)),
            "habits": long_term_text(often, form),
            "place": place.id,
            "category": place.category,
            "city": place.city,
            "district": place.district,
            "order_city": spot.city if spot else "",
            "order_district": spot.district if spot else "",
            "order_place": spot.id if spot else "",
        }
        own_columns = {name: draw(weights) for name, weights in world.columns.items()}
        roles = {form.names[ROLES[role]]: text for role, text in texts.items() if form.has(role)}
        yield Sample.from_context(roles | own_columns, library.rows)
