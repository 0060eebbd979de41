"""The intents of the shipped Amap library, as short constructors."""

from __future__ import annotations

from gplan_jax.gsisr import Intent

TOOL, START, END, RANGE, TAG = "工具名称", "起始位置", "终点位置", "空间范围", "tag"
HERE, PREVIOUS, ORDER_PLACE = "当前位置", "前一位推荐结果", "订单目的地"
HOME, WORK, SHORT_TERM, GUESS = "家", "公司", "用户短期意向", "调用猜你去哪模型"
NEARBY, DISTRICT, CITY = "附近", "商圈", "全城"
RIDE, TRAVEL, LONG_DISTANCE, TRANSIT, INTEREST = "tool_1", "tool_2", "tool_3", "tool_4", "tool_5"
ARRIVAL_CARD, ONE_PLACE, REMINDER, WEATHER = "tool_6", "tool_7", "tool_8", "tool_9"
REVIEW = "tool_10"


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
