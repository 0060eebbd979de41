"""A few rows of the world, and the truth of every phrase told from the raw columns alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.synthesis.world.simulation import simulate_rows

Truth = Callable[[Sample, str], bool]


@pytest.fixture(scope="session")
def library() -> IntentLibrary:
    return IntentLibrary.load()


@pytest.fixture(scope="session")
def world_rows() -> list[Sample]:
    return list(simulate_rows(1500, seed=3))


@pytest.fixture(scope="session")
def holds() -> Truth:
    """Whether a phrase of a trace is true of a row, worked out from its columns."""
    return _holds


def _holds(row: Sample, phrase: str) -> bool:
    now = datetime.fromisoformat(row.currenttime)
    if phrase.startswith(f"{row.trigger_1}订单"):
        return _order_holds(row, now, phrase.removeprefix(f"{row.trigger_1}订单"))
    minute = now.hour * 60 + now.minute
    same_city = row.current_city == row.trigger_2
    same_district = same_city and row.current_district == row.trigger_3
    here = row.current_poi_name == row.trigger_4
    day_off = row.holidayflag == "1" or row.weekendflag == "1"
    truths = {
        "人在订单地": here,
        "与订单地同区": same_district and not here,
        "与订单地同城异区": same_city and not same_district and not here,
        "与订单地不同城": not same_city and not here,
        "正在家中": row.current_poi_name == row.profile_feat_6,
        "正在公司": row.current_poi_name == row.profile_feat_8,
        "身在常住城市": row.current_city == row.profile_feat_5,
        "身在外地": row.current_city != row.profile_feat_5,
        "节假日": row.holidayflag == "1",
        "周末": day_off and row.weekendflag == "1",
        "凌晨": minute < 360,
        "早上": 360 <= minute < 660,
        "午饭时间": 660 <= minute < 840,
        "下午": 840 <= minute < 1080,
        "晚饭时间": 1080 <= minute < 1260,
        "晚上": minute >= 1260,
        "刚看过订单地": row.short_term_behavior_seq.endswith(f"的{row.trigger_4}"),
        "近两小时看过别处": _looked_elsewhere(row, now),
    }
    if phrase in truths:
        return truths[phrase]
    return any(word in row.current_tag for word in SURROUNDING_WORDS[phrase])


def _looked_elsewhere(row: Sample, now: datetime) -> bool:
    """Whether an entry of the last two clock hours is about a third place."""
    earliest = now - timedelta(hours=2)
    hours = [now.replace(minute=0, second=0), now.replace(minute=0, second=0) - timedelta(hours=1)]
    hours += [now + timedelta(hours=1)]  # Clocks that disagree.
    hours.append(earliest.replace(minute=0, second=0))
    stamps = tuple(
        f"在{h.month}月{h.day}日周{'一二三四五六日'[h.weekday()]}{h.hour}点" for h in hours
    )
    own = (f"的{row.current_poi_name}", f"的{row.trigger_4}")
    entries = row.short_term_behavior_seq.split(", ")
    return any(entry.startswith(stamps) and not entry.endswith(own) for entry in entries)


def _order_holds(row: Sample, now: datetime, phase: str) -> bool:
    start = datetime.fromisoformat(row.trigger_6)
    end = datetime.fromisoformat(row.trigger_7) if row.trigger_7 else None
    tomorrow = now.replace(hour=0, minute=0, second=0) + timedelta(days=1)
    return {
        "明天或之后开始": start >= tomorrow,
        "今天稍后开始": now < start < tomorrow,
        "三小时内开始": now < start <= now + timedelta(hours=3),
        "就在今天": start.date() == now.date() and start <= now,
        "开始不到两小时": start <= now <= start + timedelta(hours=2),
        "正在进行": end is not None and start <= now <= end,
        "今天到期": end is not None and start <= now and end.date() == now.date(),
        "开始已过两小时": end is None and now > start + timedelta(hours=2),
        "已经结束": end is not None and end < now,
    }[phase]


# Words that the categories of real and simulated places of a kind are made of.
SURROUNDING_WORDS = {
    "住宅区里": ("住", "村", "小区", "乡镇"),
    "办公场所": ("公司", "写字楼", "园区", "政府", "机关"),
    "住宿场所": ("型", "酒店", "民宿", "旅", "客栈", "公寓", "住宿", "度假", "农家"),
    "景点里": ("景", "公园", "文", "博", "古", "寺", "山", "自然", "馆", "游", "冰", "田"),
    "餐饮场所": ("餐", "菜", "茶", "咖啡", "锅", "小吃", "烤", "汤", "米线", "面", "美食", "甜",
             "煎", "卤", "鸡"),
    "购物场所": ("商", "超市", "市场", "店", "街", "广场", "购物"),
    "商圈里": ("商圈",),
    "交通枢纽": ("高铁", "机场", "站", "轮渡"),
    "加油站里": ("加油",),
    "充电站里": ("充电",),
    "公路服务区": ("服务区", "收费站"),
}  # fmt: skip
