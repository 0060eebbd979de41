"""The rules: a plan for every context, and why each of its intents follows from the facts.

The opening answers the most pressing need (arrive, be reminded, set out, go home), the middle
serves the place where the user is after it, and the weather comes at or near the end. Only intents
that a fact supports are planned; among those that are supported alike the taste decides.

The blocks of the reasoning follow the paper's "Chain of Thought Structure" (section 4.1.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, Plan, Sample, canonical_plan, facts_of
from gplan_jax.reasoning import ReasoningTrace, write_trace
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.intents import TOOL_WORDS, intent_words, need_words, rebases
from gplan_jax.synthesis.amap.situation import (
    DARK_TIMES,
    LATE_TIMES,
    MEAL_TIMES,
    ON_THE_ROAD,
    REFUEL_ORDERS,
    DayOff,
    DayPart,
    Focus,
    OrderPlace,
    Region,
    Situation,
    Surroundings,
    links_to,
    openings,
    reasons_for,
    situation_of,
)
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.rules.taste import Draws, digest_of

Openings = list[tuple[Plan, float]]
REMIND, FAR = it.simple(it.REMINDER), it.simple(it.LONG_DISTANCE)
DRIVE_ON, DRIVE_NEXT = it.travel(it.GUESS), it.travel(it.SHORT_TERM)
EAT_HERE = it.interest(it.HERE, it.NEARBY, "美食")
# Words in the histories that show a liking, and how much more weight its options then have.
DRIVING_WORDS = ("加油", "充电", "停车", "服务区", "收费站")
DRIVING_COUNT = 2
LIKINGS: Mapping[str, tuple[str, ...]] = {
    "景点": ("景区", "公园", "博物", "古镇", "寺庙", "文物"),
    "购物": ("商场", "超市", "商业街", "便利店", "市场"),
    "休闲娱乐": ("网吧", "足疗", "影", "KTV", "游乐", "按摩", "SPA", "洗浴"),
}
LIKED = 2.0


@dataclass(frozen=True, slots=True)
class Taste(Draws):
    """What one user prefers where the facts leave several plans equally good; only a part of it
    shows in the history.
    """

    drives: bool  # The history shows a car.
    likes: frozenset[str]  # The tags that the history shows a liking for.


def taste_of(sample: Sample) -> Taste:
    """The taste of a row's user."""
    history = sample.short_term_behavior_seq + sample.long_term_behavior
    return Taste(
        digest_of(sample),
        sum(history.count(word) for word in DRIVING_WORDS) >= DRIVING_COUNT,
        frozenset(tag for tag, words in LIKINGS.items() if any(word in history for word in words)),
    )


AMAP = "amap"
FEW_INTENTS, MOST_INTENTS = 4, 6
# Lengths of plans, for openings of one intent and for longer ones.
LENGTHS = (((4, 74.0), (5, 25.5), (6, 0.5)), ((4, 53.0), (5, 46.0), (6, 1.0)))
# Ranges within which a need is looked for: the usual one first.
RANGES = {
    "美食": ((it.NEARBY, 83.0), (it.DISTRICT, 14.0), (it.CITY, 3.0)),
    "景点": ((it.CITY, 72.0), (it.DISTRICT, 17.0), (it.NEARBY, 11.0)),
    "休闲娱乐": ((it.DISTRICT, 52.0), (it.NEARBY, 34.0), (it.CITY, 14.0)),
    "购物": ((it.NEARBY, 42.0), (it.DISTRICT, 40.0), (it.CITY, 18.0)),
    "酒店": ((it.CITY, 50.0), (it.NEARBY, 30.0), (it.DISTRICT, 20.0)),
    "加油站": ((it.NEARBY, 70.0), (it.CITY, 30.0)),
    "充电站": ((it.NEARBY, 68.0), (it.CITY, 32.0)),
    "丽人": ((it.NEARBY, 70.0), (it.DISTRICT, 30.0)),
    "停车场": ((it.NEARBY, 70.0), (it.CITY, 30.0)),
}
HABITUAL_INTENTS = (
    EAT_HERE,
    it.interest(it.HERE, it.DISTRICT, "休闲娱乐"),
    it.interest(it.HERE, it.DISTRICT, "购物"),
    it.interest(it.HERE, it.CITY, "景点"),
)


def plan_for(situation: Situation, taste: Taste) -> Plan:
    """The plan that the rules derive: 4 to 6 different intents that pass the filter."""
    opening = taste.choose("opening", supported_openings(situation, taste))
    length = max(taste.choose("length", LENGTHS[len(opening) > 1]), len(opening) + 1)
    needs = _needs(opening, situation, taste)
    if length > FEW_INTENTS and len(needs) > 1 and taste.level("more") < 0.6:
        needs = [needs[0], *_further_step(opening, situation), *needs[1:]]
    weather = it.simple(it.WEATHER)
    if not reasons_for(weather, situation) or taste.level("no weather") < 0.14:
        return _filled([*opening, *needs[: length - len(opening)]], length)
    needs = needs[: length - len(opening) - 1]
    plan = _filled([*opening, *needs], length - 1)
    return _with_weather(plan, len(opening), situation, taste)


def supported_openings(situation: Situation, taste: Taste | None = None) -> Openings:
    """The openings that the facts support; a taste for driving raises the weights of drives."""
    found: Openings = []
    for opening, weight in openings(situation):
        if all(
            reasons_for(intent, situation) or links_to(intent, opening[:i])
            for i, intent in enumerate(opening)
        ):
            goes_by_car = any(intent[it.TOOL] == it.TRAVEL for intent in opening)
            liked = LIKED if taste and taste.drives and goes_by_car else 1.0
            found.append((opening, weight * liked))
    return found or [([DRIVE_ON], 1.0)]


def _needs(opening: Plan, s: Situation, taste: Taste) -> Plan:
    """The middle of the plan, for the place where the opening leads; the most wanted first."""
    base = _base(opening, s, taste)
    found: Plan = []
    for number, tag in enumerate(_tags(opening, s, taste)):
        start = base
        if number and base == it.ORDER_PLACE and taste.level(f"from here {number}") < 0.3:
            start = it.HERE  # On the way.
        intent = _search(tag, start, opening, s, taste)
        if intent not in (*opening, *found) and reasons_for(intent, s):
            found.append(intent)
    return found


def _further_step(opening: Plan, s: Situation) -> Plan:
    """A service that a long plan still lacks: the way on, or the order's reminder."""
    wanted = REMIND
    if not any(intent[it.TOOL] in (it.RIDE, it.TRAVEL, it.TRANSIT) for intent in opening):
        wanted = DRIVE_NEXT if s.focus is Focus.OTHER_PLACE else DRIVE_ON
    return [wanted] if wanted not in opening and reasons_for(wanted, s) else []


def _base(opening: Plan, s: Situation, taste: Taste) -> str:
    """Where the middle of the plan starts from."""
    if any(it.leads_to(intent, it.GUESS, it.SHORT_TERM) for intent in opening):
        return it.PREVIOUS if taste.level("there") < 0.15 else it.HERE
    to_order = any(it.leads_to(intent, it.ORDER_PLACE) for intent in opening)
    if not to_order and opening[:2] not in ([REMIND, FAR], [FAR, REMIND]):
        return it.HERE
    # At meal times a user near the order's place eats before going there.
    near = s.place is OrderPlace.SAME_DISTRICT
    before = near and s.day_part in (DayPart.LUNCH, DayPart.DINNER, DayPart.NIGHT)
    turned = taste.level("base") < 0.14
    return it.HERE if before is not turned else it.ORDER_PLACE


def _tags(opening: Plan, s: Situation, taste: Taste) -> list[str]:
    """The needs in order: food, or first what the place is there for; then how time is spent."""
    weights = _pastimes(s, taste)
    second = taste.choose("pastime", list(weights.items()))
    others = {tag: weight for tag, weight in weights.items() if tag != second}
    third = taste.choose("other pastime", list(others.items()))
    at_sight = s.surroundings is Surroundings.SIGHT and opening[0][it.TOOL] == it.ARRIVAL_CARD
    sights_first = s.day_off is DayOff.HOLIDAY or (at_sight and s.day_part not in MEAL_TIMES)
    if sights_first and s.day_part not in LATE_TIMES:
        return ["景点", "美食", *(tag for tag in (second, third, "休闲娱乐") if tag != "景点")]
    if taste.level("no food") < 0.11:
        return [second, third, "美食"]
    rest = [tag for tag in ("景点", "休闲娱乐", "购物") if tag not in (second, third)]
    return ["美食", second, third, *rest]


def _pastimes(s: Situation, taste: Taste) -> dict[str, float]:
    """What there is to do besides eating, by weight."""
    weights = {"景点": 62.0, "休闲娱乐": 13.0, "购物": 7.0, "丽人": 1.0}
    if s.day_off is not None:
        weights["购物"] = 160.0
    if s.day_part is DayPart.EVENING:
        weights["休闲娱乐"] = 34.0
    for tag in taste.likes:
        weights[tag] *= LIKED
    if s.order in REFUEL_ORDERS or s.surroundings in ON_THE_ROAD:
        weights["充电站" if s.order == "充电桩" else "加油站"] = 18.0
    if s.region is Region.AWAY and s.order != "酒店":
        weights["酒店"] = 30.0 if s.day_part in DARK_TIMES else 5.0
    return weights


def _search(tag: str, start: str, opening: Plan, s: Situation, taste: Taste) -> Intent:
    """The intent that serves a need: a choice of places, or one place, as mostly at night."""
    within = taste.choose(f"range {tag}", RANGES[tag])
    if tag == "美食" and start == it.HERE:
        arrived = opening[0][it.TOOL] == it.ARRIVAL_CARD
        one = 0.85 if s.day_part is DayPart.NIGHT else 0.13 if arrived else 0.05
        if taste.level("one place") < one:
            return it.one_place(tag)
    if tag == "购物" and start == it.HERE and within == it.NEARBY and taste.level("one shop") < 0.5:
        return it.one_place(tag)
    if tag in ("加油站", "充电站", "停车场", "酒店") and start == it.PREVIOUS:
        start = it.HERE
    return it.interest(start, within, tag)


def _filled(plan: Plan, length: int) -> Plan:
    """The plan with habitual suggestions where the facts support too few intents."""
    for intent in HABITUAL_INTENTS:
        if len(plan) >= length:
            break
        if intent not in plan:
            plan = [*plan, intent]
    return plan[:MOST_INTENTS]


def _with_weather(plan: Plan, opening: int, s: Situation, taste: Taste) -> Plan:
    """The weather last, or before what is for tomorrow once it is late."""
    late = s.day_part in LATE_TIMES
    turned = taste.level("weather") < 0.12
    last_need = (
        len(plan) - opening >= 2 and plan[-1].get(it.RANGE) != it.NEARBY and it.TAG in plan[-1]
    )
    follows = plan[-1].get(it.START) == it.PREVIOUS
    if last_need and not follows and late is not turned:
        return [*plan[:-1], it.simple(it.WEATHER), plan[-1]]
    return [*plan, it.simple(it.WEATHER)]


MOST_REASONS = 2
HABITUAL = "惯常补充，兜底推荐"
BY_HABIT = "按惯常"
REBASED = "围绕订单地安排"


class PlanRules(Protocol):
    """What plans and explains by rules."""

    def label(self, sample: Sample) -> str: ...

    def trace(self, sample: Sample, plan: Plan) -> ReasoningTrace: ...


def rules_of(library: IntentLibrary) -> PlanRules:
    """The rules of a library's service; GplanError where it has none, or they don't fit it."""
    return Rules(library) if library.name == AMAP else ServiceRules(library)


class Rules:
    """Plans with the Amap library and explains its plans by rules over ``facts_of``."""

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where ``library`` has a tool that the rules know nothing of."""
        if unknown := [tool for tool in library.tools if tool not in TOOL_WORDS]:
            raise GplanError(
                f"The rules explain the shipped Amap library; library {library.name} also has "
                f"{', '.join(unknown)}. Give its rows reasoning of their own."
            )
        self._library = library

    def label(self, sample: Sample) -> str:
        """A raw label: reasoning and plan. GplanError where the context can't be read."""
        situation = situation_of(facts_of(sample))
        plan = plan_for(situation, taste_of(sample))
        return write_trace(_trace(plan, situation)) + canonical_plan(plan, self._library)

    def trace(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """The trace of ``plan`` in the context of ``sample``; GplanError where it has no intent."""
        if not plan:
            raise GplanError(f"Row {sample.id} has an empty plan; there is nothing to explain.")
        return _trace(plan, situation_of(facts_of(sample)))


def _trace(plan: Plan, situation: Situation) -> ReasoningTrace:
    # CONTEXT: facts of the row alone.
    context = "，".join(situation.phrases()) + "。"
    # STRATEGY: the facts behind the first intent, then the needs in the plan's order.
    reasons = "，".join(reasons_for(plan[0], situation)[:MOST_REASONS]) or BY_HABIT
    first, *others = dict.fromkeys(need_words(intent) for intent in plan)
    strategy = f"{reasons}：先{first}" + (f"，再{'、'.join(others)}" if others else "")
    strategy += f"，{REBASED}。" if rebases(plan) else "。"
    blocks = [("CONTEXT", context), ("STRATEGY", strategy)]
    # STEP_i: the i-th intent in words and up to two facts that support it; where none does, it
    # says that the intent is a habitual addition.
    for i, intent in enumerate(plan):
        link = links_to(intent, plan[:i])
        found = [*([link] if link else []), *reasons_for(intent, situation)]
        supported = "，".join(found[:MOST_REASONS]) or HABITUAL
        blocks.append((f"STEP_{i + 1}", f"{intent_words(intent)}：{supported}。"))
    return ReasoningTrace(tuple(blocks))
