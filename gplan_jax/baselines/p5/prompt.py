"""A row as text for P5: one short field after another, what matters most last."""

from __future__ import annotations

from gplan_jax.baselines.rows.features import InputMode, history_only
from gplan_jax.gsisr import Behavior, IntentLibrary, PromptTemplate, Sample, long_term, short_term
from gplan_jax.gsisr.facts import request_time
from gplan_jax.gsisr.prompts import bucket

TEMPLATE = "compact_zh"
# A prompt is to stay short: where facts tell what the history means, less of it is written.
_HABITS = {InputMode.FULL: 2, InputMode.HISTORY: 4}
_EVENTS = {InputMode.FULL: 3, InputMode.HISTORY: 8}
_PROFILE = (1, 2, 3, 4, 10, 11, 12)
_AGES = (
    (1, "1小时内"),
    (3, "3小时内"),
    (12, "12小时内"),
    (24, "1天内"),
    (72, "3天内"),
    (168, "7天内"),
)


def prompt_fields(sample: Sample, mode: InputMode, library: IntentLibrary) -> tuple[str, ...]:
    """The fields of a row's prompt, from profile codes over histories to the facts of now.

    The facts are the lines of the planners' compact prompt, and so is their order; HISTORY leaves
    them out and shows the profile, the first habits and the latest events only. The label is never
    looked at.

    Raises:
        GplanError: a time of the row can't be read.
    """
    if mode is InputMode.HISTORY:
        sample = history_only(sample)
    codes = [(i, getattr(sample, f"profile_feat_{i}")) for i in _PROFILE]
    fields = ["画像 " + " ".join(f"{i}={code}" for i, code in codes if code)]
    for habit in long_term(sample.long_term_behavior)[: _HABITS[mode]]:
        fields.append(f"常去 {habit.category} {_relation(habit.place, sample)}")
    events = short_term(sample.short_term_behavior_seq, request_time(sample))
    fields += [_event(event, sample) for event in events[-_EVENTS[mode] :]]
    if mode is InputMode.FULL:
        template = PromptTemplate.load(TEMPLATE)
        fields += template.render(sample.with_label(""), library).user.splitlines()
    return tuple(field.strip() for field in fields if field.strip())


def _event(event: Behavior, sample: Sample) -> str:
    hours = (request_time(sample) - event.when).total_seconds() / 3600
    age = bucket(hours, _AGES, "更早", "未知")
    actions = "&".join(event.actions)
    place = _relation(event.place, sample)
    return f"{age} {actions} {event.locality} {event.category} {place}"


def _relation(place: str, sample: Sample) -> str:
    """Which of the row's own places it is; "" where none."""
    own = (
        ("订单地", sample.trigger_4),
        ("此地", sample.current_poi_name),
        ("家", sample.profile_feat_6),
        ("公司", sample.profile_feat_8),
    )
    return next((name for name, value in own if value == place), "")
