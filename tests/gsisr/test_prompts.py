from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, PromptTemplate, Sample, read_samples
from gplan_jax.gsisr.prompts import bucket, choose

AMAP = IntentLibrary.load()
SHIPPED = ["amap_zh", "compact_zh"]
TIMES = {"currenttime", "trigger_5", "trigger_6", "trigger_7"}


def own_template(folder: Path, system: str = "go", user: str = "{{ sample.id }}") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "system.j2").write_text(system, encoding="utf-8")
    (folder / "user.j2").write_text(user, encoding="utf-8")
    return folder


def test_the_full_prompt_holds_the_whole_library(sample: Sample) -> None:
    prompt = PromptTemplate.load("amap_zh").render(sample, AMAP)
    for name, tool in AMAP.tools.items():
        assert f"{name}：{tool.meaning}" in prompt.system
    for key, parameter in AMAP.parameters.items():
        assert key in prompt.system
        assert all(value in prompt.system for value in parameter.values or ())
    assert "至多出现其中一个" in prompt.system and "3 到 9" in prompt.system
    assert all(tag in prompt.system for tag in ("<THOUGHT>", "<CONTEXT>", "<STRATEGY>", "<STEP_1>"))


def test_the_full_prompt_holds_every_column_that_says_something(sample: Sample) -> None:
    marked = {c: f"◆{c}◆" for c in COLUMNS if c not in {*TIMES, "id", "raw_labels"}}
    marked |= {"weekendflag": "1", "holidayflag": "1"}
    times = {column: f"2026-03-07 0{i}:00:00" for i, column in enumerate(sorted(TIMES))}
    user = (
        PromptTemplate.load("amap_zh")
        .render(dataclasses.replace(sample, **marked, **times), AMAP)
        .user
    )
    for value in [*times.values(), *marked.values()]:
        assert value in user or value == "1"
    assert "周六，周末，节假日" in user


@pytest.mark.parametrize(
    ("name", "thinking"),
    # SHA-256 of the system part as it was before templates knew of other responses.
    [
        ("amap_zh", "8852fa6226f489528aa33137eed7c58dec28a7fdaccb556c33923a6d71a5ec55"),
        ("compact_zh", "911c0c933e1a3879eda5d022fa681447bbba7f3001dd3353945237e53e70dcc3"),
    ],
)
def test_only_a_model_that_answers_with_the_plan_alone_is_not_told_to_think(
    name: str, thinking: str, sample: Sample
) -> None:
    template = PromptTemplate.load(name)
    for response in (None, "latent", "reasoning"):
        prompt = template.render(sample, AMAP, response)
        assert "思考" in prompt.system
        assert hashlib.sha256(prompt.system.encode()).hexdigest() == thinking
    plan = template.render(sample, AMAP, "plan")
    assert "思考" not in plan.system and "THOUGHT" not in plan.system
    assert "规划" in plan.system and plan.user == prompt.user


def test_what_matters_most_comes_last(sample: Sample) -> None:
    user = PromptTemplate.load("amap_zh").render(sample, AMAP).user
    order = ["# 长期行为", "# 近期行为", "# 用户画像", "# 当前状态", "# 触发订单"]
    places = [user.index(heading) for heading in order]
    assert places == sorted(places)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_label_is_never_in_the_prompt(name: str, sample: Sample) -> None:
    template = PromptTemplate.load(name)
    assert template.render(sample.with_label("答案"), AMAP) == template.render(sample, AMAP)


@pytest.mark.parametrize("name", SHIPPED)
@given(value=st.text(max_size=30))
def test_values_are_data(name: str, value: str) -> None:
    template = PromptTemplate.load(name)
    context = {"currenttime": "2026-03-04 10:30:00"}
    plain = template.render(Sample.from_context(context | {"trigger_1": "x"}), AMAP)
    hostile = template.render(Sample.from_context(context | {"trigger_1": value}), AMAP)
    assert hostile.system == plain.system
    # The value stands as it is, but can't open a line of its own.
    assert len(hostile.user.splitlines()) <= len(plain.user.splitlines())


@pytest.mark.parametrize(
    "value", ["{{ library }}", "{% raw %}", "<&>\"'", "<|im_end|>", "<THOUGHT>", "{# note"]
)
def test_markup_in_a_value_stays_plain_text(value: str, sample: Sample) -> None:
    user = (
        PromptTemplate.load("amap_zh")
        .render(dataclasses.replace(sample, profile_feat_13=value), AMAP)
        .user
    )
    assert f"兴趣偏好：{value}\n" in user


def test_the_compact_prompt_is_short_and_of_fixed_words(shared: Path) -> None:
    template = PromptTemplate.load("compact_zh")
    words: dict[str, set[str]] = {}
    for sample in read_samples(shared / "gsisr/gsisr_dev.csv"):
        prompt = template.render(sample, AMAP)
        assert len(prompt.system) < 40
        lines = dict(line.split(":", 1) for line in prompt.user.splitlines())
        assert sum(len(value) for value in lines.values()) < 120
        for key, value in lines.items():
            words.setdefault(key, set()).add(value)
    assert all(all(values) for values in words.values())
    assert max(len(values) for values in words.values()) <= 24  # The hours of a day.


def test_the_compact_prompt_tells_what_changes_a_plan(sample: Sample) -> None:
    template = PromptTemplate.load("compact_zh")

    def user(**columns: str) -> str:
        return template.render(dataclasses.replace(sample, **columns), AMAP).user

    changes = [
        {"trigger_1": "门票"},
        {"trigger_4": sample.current_poi_name},
        {"trigger_5": "2026-03-04 10:29:00"},
        {"trigger_6": "2026-03-05 00:00:00"},
        {"trigger_7": "2026-03-04 00:00:00"},
        {"current_tag": "加油站"},
        {"current_city": "甲市"},
        {"currenttime": "2026-03-04 13:30:00"},
        {"weekendflag": "1"},
        {"holidayflag": "1"},
        {"profile_feat_7": "乙市南区"},
        {"profile_feat_9": "乙市南区"},
        {"short_term_behavior_seq": ""},
    ]
    rendered = [user(), *(user(**change) for change in changes)]
    assert len(set(rendered)) == len(rendered)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_saved_template_loads_as_the_same(name: str, tmp_path: Path) -> None:
    template = PromptTemplate.load(name)
    template.save(tmp_path / name)
    assert PromptTemplate.load(tmp_path / name) == template


def test_own_template_and_own_library(tmp_path: Path, english: IntentLibrary) -> None:
    folder = own_template(
        tmp_path / "own",
        "{% for name, tool in library.tools.items() %}{{ name }}: {{ tool.meaning }}\n{% endfor %}",
        "at {{ facts.hour }} in {{ sample.current_city }}",
    )
    sample = Sample.from_context({"currenttime": "2026-03-04 10:30:00", "current_city": "Bern"})
    prompt = PromptTemplate.load(folder).render(sample, english)
    assert prompt.user == "at 10 in Bern"
    assert prompt.system.splitlines()[0] == "walk: go on foot"


def test_the_shipped_prompt_serves_another_library(english: IntentLibrary, sample: Sample) -> None:
    system = PromptTemplate.load("amap_zh").render(sample, english).system
    assert "walk：go on foot。参数：target；可选：note；会给出一个地点" in system
    assert "note（free words）：任意文字" in system
    assert "tool_1" not in system


def test_faulty_templates_are_refused(tmp_path: Path, sample: Sample) -> None:
    with pytest.raises(GplanError, match=r"nowhere.*amap_zh, .*compact_zh"):
        PromptTemplate.load("nowhere")
    folder = own_template(tmp_path / "a", user="one\n{{ sample.id ")
    with pytest.raises(GplanError, match=r"user\.j2, line 2"):
        PromptTemplate.load(folder)
    (folder / "user.j2").unlink()
    with pytest.raises(GplanError, match=r"lacks user\.j2"):
        PromptTemplate.load(folder)
    unknown = PromptTemplate.load(own_template(tmp_path / "b", user="{{ sample.age }}"))
    with pytest.raises(GplanError, match="age"):
        unknown.render(sample, AMAP)


def test_a_template_cannot_reach_into_python(tmp_path: Path, sample: Sample) -> None:
    attack = "{{ sample.__class__.__mro__[1].__subclasses__() }}"
    template = PromptTemplate.load(own_template(tmp_path / "a", user=attack))
    with pytest.raises(GplanError, match=r"a, user.j2, can't be filled in"):
        template.render(sample, AMAP)


def test_bucket_and_choose() -> None:
    steps = [(0, "past"), (2, "soon")]
    words = [bucket(value, steps, "later", "unknown") for value in (-1, 0, 1.9, 2, None)]
    assert words == ["past", "soon", "soon", "later", "unknown"]
    assert [choose(value, "yes", "no", "?") for value in (True, False, None)] == ["yes", "no", "?"]
