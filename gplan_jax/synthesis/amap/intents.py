"""The intents of the shipped Amap library, as short constructors, and how to say one in words."""

from __future__ import annotations

from collections.abc import Mapping

from gplan_jax.gsisr import Intent, Plan

TOOL, START, END, RANGE, TAG = "工具名称", "起始位置", "终点位置", "空间范围", "tag"

HERE, PREVIOUS, ORDER_PLACE = "当前位置", "前一位推荐结果", "订单目的地"
HOME, WORK, SHORT_TERM, GUESS = "家", "公司", "用户短期意向", "调用猜你去哪模型"
NEARBY, DISTRICT, CITY = "附近", "商圈", "全城"

RIDE, TRAVEL, LONG_DISTANCE, TRANSIT, INTEREST = "tool_1", "tool_2", "tool_3", "tool_4", "tool_5"
ARRIVAL_CARD, ONE_PLACE, REMINDER, WEATHER = "tool_6", "tool_7", "tool_8", "tool_9"
REVIEW = "tool_10"

# What each tool does, in the words of a trace; a STEP always holds the words of its tool.
TOOL_WORDS: Mapping[str, str] = {
    RIDE: "打车",
    TRAVEL: "出行",
    LONG_DISTANCE: "长途交通",
    TRANSIT: "周边公交",
    INTEREST: "兴趣推荐",
    ARRIVAL_CARD: "到店卡片",
    ONE_PLACE: "就近一处",
    REMINDER: "订单提醒",
    WEATHER: "天气",
    REVIEW: "评价",
}
PLACE_WORDS: Mapping[str, str] = {
    HERE: "当前位置",
    PREVIOUS: "上一步地点",
    ORDER_PLACE: "订单地",
    HOME: "家",
    WORK: "公司",
    SHORT_TERM: "近期想去的地方",
    GUESS: "猜想的去处",
}

# The need behind a way, a tool or a tag, in the words of a STRATEGY.
DESTINATION_NEEDS: Mapping[str, str] = {
    ORDER_PLACE: "去订单地",
    HOME: "回家",
    WORK: "去公司",
    SHORT_TERM: "去下一处",
    GUESS: "去下一处",
}
TOOL_NEEDS: Mapping[str, str] = {
    RIDE: "动身",
    TRAVEL: "动身",
    LONG_DISTANCE: "跨城",
    TRANSIT: "换乘",
    ARRIVAL_CARD: "到店",
    REMINDER: "看订单",
    WEATHER: "看天气",
    REVIEW: "评价",
}
TAG_NEEDS: Mapping[str, str] = {
    "美食": "用餐",
    "购物": "购物",
    "酒店": "住宿",
    "景点": "游览",
    "休闲娱乐": "消遣",
    "运动健身": "锻炼",
    "丽人": "美容",
    "加油站": "加油",
    "充电站": "充电",
    "停车场": "停车",
}


def ride(end: str) -> Intent:
    """Ride-hailing from the current position."""
    return {TOOL: RIDE, START: HERE, END: end}


def travel(end: str) -> Intent:
    """Getting there by one's own means from the current position."""
    return {TOOL: TRAVEL, START: HERE, END: end}


def interest(start: str, within: str, tag: str) -> Intent:
    """Places of one kind around ``start``."""
    return {TOOL: INTEREST, START: start, RANGE: within, TAG: tag}


def one_place(tag: str) -> Intent:
    """A single nearby place."""
    return {TOOL: ONE_PLACE, TAG: tag}


def simple(tool: str) -> Intent:
    """A tool that takes no parameters."""
    return {TOOL: tool}


def leads_to(intent: Intent, *ends: str) -> bool:
    """Whether the intent brings the user to one of ``ends``."""
    return intent.get(TOOL) in (RIDE, TRAVEL) and intent.get(END) in ends


def rebases(plan: Plan) -> bool:
    """Whether a later intent of the plan starts from the order's destination."""
    return any(intent.get(START) == ORDER_PLACE for intent in plan)


def intent_words(intent: Intent) -> str:
    """The intent in words: its tool and every parameter, for example 出行到公司."""
    tool = intent[TOOL]
    words = TOOL_WORDS.get(tool, tool)
    start = PLACE_WORDS.get(intent.get(START, ""), intent.get(START, ""))
    if tool in (RIDE, TRAVEL):
        end = PLACE_WORDS.get(intent[END], intent[END])
        return f"{words}到{end}" if intent[START] == HERE else f"从{start}{words}到{end}"
    if tool == INTEREST:
        return f"{words}{start}{intent[RANGE]}{intent[TAG]}"
    return words + intent.get(TAG, "")


def need_words(intent: Intent) -> str:
    """The need behind an intent in a word or two, as a STRATEGY lists it."""
    if intent.get(END) in DESTINATION_NEEDS and intent[TOOL] in (RIDE, TRAVEL):
        return DESTINATION_NEEDS[intent[END]]
    if TAG in intent:
        return TAG_NEEDS.get(intent[TAG], intent[TAG])
    return TOOL_NEEDS.get(intent[TOOL], TOOL_WORDS.get(intent[TOOL], intent[TOOL]))
