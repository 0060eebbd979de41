"""The facts of a row in words: what an expert reads before judging a plan.

They are in Chinese, as the rows and the reasoning are. A value of the row takes one line and is cut
where it is long: nothing here can pass for another fact.
"""

from __future__ import annotations

import re

from gplan_jax.gsisr import Sample, facts_of, long_term, short_term
from gplan_jax.synthesis.amap.situation import situation_of

Environment = tuple[tuple[str, str], ...]
MOST_ENTRIES, LONGEST_VALUE = 5, 40
NONE = "无"
_SPACES = re.compile(r"\s+")


def environment(sample: Sample) -> Environment:
    """Pairs of title and text: the situation's phrases, then time, place, order, home and history.

    Raises:
        GplanError: a time of the sample can't be read.
    """
    facts = facts_of(sample)
    return (
        ("情境", "，".join(_cut(phrase) for phrase in situation_of(facts).phrases())),
        ("现在", _now(sample)),
        ("位置", _place(sample)),
        ("订单", _order(sample)),
        ("常住", _home(sample)),
        ("近期行为", _recent(sample)),
        ("长期行为", _habits(sample)),
    )


def environment_text(environment: Environment) -> str:
    """The same as one text of several lines."""
    return "\n".join(f"{title}：{text}" for title, text in environment)


def _now(sample: Sample) -> str:
    now = facts_of(sample).now
    day = "".join((
        "，周末" if sample.weekendflag == "1" else "",
        "，节假日" if sample.holidayflag == "1" else "",
    ))  # fmt: skip
    return f"{now:%Y-%m-%d} 周{'一二三四五六日'[now.weekday()]} {now:%H:%M}{day}"


def _place(sample: Sample) -> str:
    area = _cut(sample.current_city + sample.current_district)
    return _join(area, _cut(sample.current_tag), _cut(sample.current_poi_name))


def _order(sample: Sample) -> str:
    area = _cut(sample.trigger_2 + sample.trigger_3)
    times = [("下单", sample.trigger_5), ("开始", sample.trigger_6), ("结束", sample.trigger_7)]
    told = [f"{word} {_cut(time)[:16]}" for word, time in times if time.strip()]
    return _join(_cut(sample.trigger_1), area, _cut(sample.trigger_4), *told)


def _home(sample: Sample) -> str:
    home = _join(_cut(sample.profile_feat_7), _cut(sample.profile_feat_6))
    work = _join(_cut(sample.profile_feat_9), _cut(sample.profile_feat_8))
    return f"{_cut(sample.profile_feat_5) or NONE}；家：{home}；公司：{work}"


def _recent(sample: Sample) -> str:
    latest = short_term(sample.short_term_behavior_seq, facts_of(sample).now)[::-1][:MOST_ENTRIES]
    entries = (
        f"{b.when:%m-%d} {b.when.hour}点 {_join(b.locality, _cut(b.category), _cut(b.place))}"
        for b in latest
    )
    return "；".join(entries) or NONE


def _habits(sample: Sample) -> str:
    habits = long_term(sample.long_term_behavior)[:MOST_ENTRIES]
    entries = (f"{_join(_cut(h.category), _cut(h.place))} {h.count}次" for h in habits)
    return "；".join(entries) or NONE


def _join(*parts: str) -> str:
    return " · ".join(part for part in parts if part) or NONE


def _cut(value: str) -> str:
    line = _SPACES.sub(" ", value.strip())
    return line if len(line) <= LONGEST_VALUE else line[:LONGEST_VALUE] + "…"
