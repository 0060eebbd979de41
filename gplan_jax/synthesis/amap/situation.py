"""The aspects of a row that its reasoning may name, and what rules.yaml makes of them.

Each takes one of a fixed set of values, and the value is the phrase that a trace uses for it: a
trace made of such phrases states only what is true of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from typing import Any

from gplan_jax.gsisr import Facts, Intent, IntentLibrary, Plan
from gplan_jax.synthesis.rules.service_rules import ServiceRules, Told


class Phase(StrEnum):
    """Where the current time stands between the order's start and end."""

    LATER = "明天或之后开始"
    LATER_TODAY = "今天稍后开始"
    SOON = "三小时内开始"
    THIS_DAY = "就在今天"
    JUST_STARTED = "开始不到两小时"
    ACTIVE = "正在进行"
    LAST_DAY = "今天到期"
    LONG_STARTED = "开始已过两小时"
    OVER = "已经结束"


class OrderPlace(StrEnum):
    """How the current position relates to the order's place."""

    AT = "人在订单地"
    SAME_DISTRICT = "与订单地同区"
    SAME_CITY = "与订单地同城异区"
    OTHER_CITY = "与订单地不同城"


class Habitual(StrEnum):
    """The habitual place that the user is at."""

    HOME = "正在家中"
    WORK = "正在公司"


class Region(StrEnum):
    """Whether the user is in the home city."""

    HOME_CITY = "身在常住城市"
    AWAY = "身在外地"


class DayPart(StrEnum):
    """The part of the day, cut where needs change."""

    NIGHT = "凌晨"
    MORNING = "早上"
    LUNCH = "午饭时间"
    AFTERNOON = "下午"
    DINNER = "晚饭时间"
    EVENING = "晚上"


class DayOff(StrEnum):
    """A day without work."""

    WEEKEND = "周末"
    HOLIDAY = "节假日"


class Surroundings(StrEnum):
    """What kind of place the user is at."""

    RESIDENCE = "住宅区里"
    OFFICE = "办公场所"
    LODGING = "住宿场所"
    SIGHT = "景点里"
    FOOD = "餐饮场所"
    SHOPPING = "购物场所"
    DISTRICT = "商圈里"
    HUB = "交通枢纽"
    FUEL = "加油站里"
    CHARGING = "充电站里"
    ROAD = "公路服务区"


class Focus(StrEnum):
    """What the latest behaviours were about."""

    ORDER_PLACE = "刚看过订单地"
    OTHER_PLACE = "近两小时看过别处"


# Aspects that several rules ask for together.
DONE = (Phase.OVER, Phase.LONG_STARTED)
ELSEWHERE = (OrderPlace.SAME_DISTRICT, OrderPlace.SAME_CITY, OrderPlace.OTHER_CITY)
MEAL_TIMES = (DayPart.LUNCH, DayPart.DINNER)
DARK_TIMES = (DayPart.EVENING, DayPart.NIGHT)
LATE_TIMES = (DayPart.DINNER, *DARK_TIMES)
SHOPS = (Surroundings.SHOPPING, Surroundings.DISTRICT)
VISITED = (Surroundings.LODGING, Surroundings.SIGHT, Surroundings.FOOD)
ON_THE_ROAD = (Surroundings.ROAD, Surroundings.FUEL, Surroundings.CHARGING)
# Places that one visits, with a card to show on arrival.
VENUES = (*SHOPS, *VISITED, Surroundings.HUB, *ON_THE_ROAD)

# Orders that are about the car.
REFUEL_ORDERS = ("加油", "充电桩")


@dataclass(frozen=True, slots=True)
class Situation:
    """The aspects of one row; None where the columns don't tell."""

    order: str  # The trigger type as the row holds it, for example 酒店.
    phase: Phase | None
    place: OrderPlace | None
    habitual: Habitual | None
    region: Region | None
    day_part: DayPart
    day_off: DayOff | None
    surroundings: Surroundings | None
    focus: Focus | None

    def phrases(self) -> tuple[str, ...]:
        """The phrases that hold, in the order in which a CONTEXT says them."""
        around = None if self.habitual else self.surroundings
        where, when = (self.place, self.habitual, self.region), (self.day_off, self.day_part)
        aspects = (*where, *when, around, self.focus)
        return (self.order_phrase, *(str(aspect) for aspect in aspects if aspect is not None))

    @property
    def order_phrase(self) -> str:
        """The order and its phase, for example 酒店订单正在进行."""
        return f"{self.order}订单{self.phase or ''}"


KINDS: Mapping[str, type[StrEnum]] = {
    "phase": Phase,
    "place": OrderPlace,
    "habitual": Habitual,
    "region": Region,
    "day_part": DayPart,
    "day_off": DayOff,
    "surroundings": Surroundings,
    "focus": Focus,
}


@cache
def amap_rules() -> ServiceRules:
    """The rules of the service amap: its aspects, openings and reasons."""
    return ServiceRules(IntentLibrary.load())


def situation_of(facts: Facts) -> Situation:
    """The aspects of a row's facts that its reasoning may name."""
    known = amap_rules().tell_facts(facts, {}).known
    found: dict[str, Any] = {
        name: None if known[name] is None else kind[known[name].upper()]
        for name, kind in KINDS.items()
    }
    return Situation(order=facts.order_type, **found)


@lru_cache(maxsize=4096)
def told_of(situation: Situation) -> Told:
    """The same as the rules know it."""
    said = {name: getattr(situation, name) for name in KINDS}
    known = {name: None if one is None else one.name.lower() for name, one in said.items()}
    phrases = {name: str(one) for name, one in said.items() if one is not None}
    return amap_rules().complete(known | {"order_type": situation.order}, phrases, given=KINDS)


def openings(situation: Situation) -> list[tuple[Plan, float]]:
    """What the plan may open with, one to three intents each with its weight, the usual one first;
    ``rules`` leaves out those that no fact supports."""
    return amap_rules().all_openings(told_of(situation))


def reasons_for(intent: Intent, situation: Situation) -> tuple[str, ...]:
    """The phrases of ``situation`` that support ``intent``, the strongest first; may be empty."""
    return amap_rules().reasons(intent, told_of(situation))


def links_to(intent: Intent, earlier: Plan) -> str | None:
    """How an intent follows from the intents before it, None where it stands by itself."""
    return amap_rules().link(intent, earlier)
