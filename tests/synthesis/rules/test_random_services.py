"""Random services, of 1 to 50 tools, any Unicode and any columns: what the rules write is sound."""

from __future__ import annotations

import functools
import itertools
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gplan_jax.data import ChatEncoder
from gplan_jax.foundation.config import yaml_text
from gplan_jax.gsisr import (
    ContextPair,
    Provenance,
    RowPlace,
    Sample,
    Service,
    check_plan,
    parse_label,
    parse_plan,
    read_context_pairs,
    read_samples,
    write_context_pairs,
    write_samples,
)
from gplan_jax.gsisr.row_form import ROLES
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.models.checkpoints.tiny import train_tokenizer
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from tests.inference.planners import tokens_of

# Composed, as the grammar asks for; else any characters but control ones.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).map(
    lambda text: unicodedata.normalize("NFC", text)
)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    """The contents of service.yaml, library.yaml and rules.yaml."""
    names = draw(st.lists(NAMES, min_size=60, max_size=60, unique=True))
    tools = draw(st.lists(NAMES, min_size=1, max_size=50, unique=True))
    rng = random.Random(draw(st.integers(0, 2**32)))
    # Columns: some roles, and as many without one.
    others = [role for role in ROLES if role not in ("id", "time", "label")]
    roles = ["id", "time", "label", *rng.sample(others, draw(st.integers(0, len(others))))]
    spare = names[len(roles) : len(roles) + draw(st.integers(0, 20))]
    columns: dict[str, Any] = {
        name: {"role": role} for name, role in zip(names, roles, strict=False)
    }
    columns |= {name: {} for name in spare}
    # Tools, some with a parameter, some of which give a place or refer to one.
    parameter, back = names[-1], names[-2]
    values = {value: "" for value in {*names[40:43], back}}
    of_tools: dict[str, Any] = {
        name: {"parameters": [parameter] if rng.random() < 0.4 else [],
               "yields_place": rng.random() < 0.5}
        for name in tools
    }  # fmt: skip
    shortest = rng.randint(1, min(3, len(tools)))
    library = {
        "name": "random", "tool_key": names[-3], "parameters": {parameter: {"values": values}},
        "tools": of_tools, "previous_place": back,
        "plan_length": {"minimum": shortest, "maximum": rng.randint(shortest, 9)},
    }  # fmt: skip
    # Rules over facts and over a column without a role.
    intents: dict[str, Any] = {
        f"i{number}": {names[-3]: name}
        | (
            {parameter: rng.choice([v for v in values if number or v != back])}
            if of_tools[name]["parameters"]
            else {}
        )
        for number, name in enumerate(tools)
    }
    # One that hangs on a user's draws, where a tool has the parameter.
    for name in [n for n in tools if of_tools[n]["parameters"]][:1]:
        intents["drawn"] = [
            {"when": {"later": "x"}, "is": {names[-3]: name, parameter: names[40]}},
            {"is": {names[-3]: name, parameter: "{a value}"}},
        ]
    first = [
        name
        for name, intent in intents.items()
        if not isinstance(intent, list) and intent.get(parameter) != back
    ] or []  # fmt: skip
    conditions: list[dict[str, Any]] = [{"part": "am"}, {"hour": {"least": 3}}, {}]
    conditions += [{name: ["", "x"]} for name in spare[:1]]
    rules: dict[str, Any] = {
        "aspects": {"part": [{"is": "am", "when": {"hour": {"below": 12}}, "say": "before noon"},
                             {"is": "pm", "say": "after noon"}]},
        "intents": intents,
        "openings": [
            {"when": rng.choice(conditions), "open": {name: rng.uniform(0.1, 9)}}
            for name in rng.sample(first, min(len(first), 4))
        ] or [{"open": {next(iter(intents)): 1}}],
        "offers": [{"when": rng.choice(conditions), "add": {name: rng.uniform(0.1, 9)}}
                   for name in rng.sample(list(intents), min(len(intents), 8))],
        "draws": {"a draw": {"yes": 1, "no": 2}, "a value": dict.fromkeys(values, 1)},
        "course": {"later": [{"is": "x", "when": [{"slot": {"least": 1}}, {"a draw": "no"}]}]},
        "middle": [{"when": {"steps": 1, "later": None},
                    "of": [{"offer": "which"}, *rng.sample(list(intents), 1), {"offer": "other"}]},
                   *rng.choice([[], [{"of": [{"offer": "which"}] * 3}]])],
        "extras": [{"add": rng.choice(list(intents)), "at": rng.randint(0, 2),
                    "when": {"lacks": [{names[-3]: tools[0]}]}}],
        "last": [{"add": rng.choice(list(intents)), "when": {"a draw": "yes"},
                  "ahead": {"for": {names[-3]: tools}}}],
        "reasons": [{"for": {names[-3]: name}, "say": [{"part": "am"}]} for name in tools[::2]],
    }  # fmt: skip
    return {
        "service": {"name": "random", "prompt": "p", "rows": {"columns": columns}},
        "library": library,
        "rules": rules,
    }


@functools.cache
def encoder() -> ChatEncoder:
    return ChatEncoder(train_tokenizer(["a plan"], 300).to_str())


@given(services(), st.data())
@settings(
    max_examples=4,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_what_the_rules_write_passes_is_allowed_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("random")
    (folder / "prompts" / "p").mkdir(parents=True)
    for name in ("system.j2", "user.j2"):
        (folder / "prompts" / "p" / name).write_text("{{ library.name }}", encoding="utf-8")
    for name, content in files.items():
        text = yaml_text(content)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    service = Service.load(folder)
    library, form = service.library, service.form
    rules = ServiceRules(library)
    grammar = PlanGrammar.compile(library, encoder(), "plan")
    own = {name: column.role for name, column in form.columns.items() if column.role != "label"}
    times = ("time", "order_made", "order_start", "order_end")
    library.save(folder / "model" / "library.yaml")
    assert type(library).load(folder / "model" / "library.yaml") == library
    samples = []
    for number, hour in enumerate(data.draw(st.lists(st.integers(0, 23), min_size=2, max_size=3))):
        texts = {n: "" if role in times else data.draw(CELLS) for n, role in own.items()}
        texts[form.names["currenttime"]] = f"2026-05-0{number + 1} {hour:02}:30"
        context = Sample.from_context(texts, library.rows)
        sample = context.with_label(rules.label(context))
        label = parse_label(sample, library, RowPlace("rows", number))
        assert check_plan(sample.raw_labels, library) == [] and label.trace is not None
        state = functools.reduce(grammar.advance, tokens_of(grammar, label.plan), grammar.start)
        assert grammar.finished(state)
        assert rules.label(context) == sample.raw_labels  # the same row, the same plan
        samples.append(sample)
    for suffix in (".csv", ".jsonl", ".parquet"):
        write_samples(folder / f"rows{suffix}", samples)
        assert list(read_samples(folder / f"rows{suffix}", form=library.rows)) == samples
    # A pair: the first context at the second's time.
    moved = samples[0].with_texts({"currenttime": samples[1].currenttime})
    moved = moved.with_texts(
        {"weekendflag": samples[1].weekendflag} if not form.has("weekend") else {}
    )
    moved = moved.with_label(rules.label(moved))
    plans = [parse_plan(s.raw_labels, library) for s in (samples[0], moved)]
    origin = Provenance(
        samples[0].id, 1, "hours_later", (form.names["currenttime"],), "rules", "passed"
    )
    pair = ContextPair("1", samples[0], moved, origin)
    write_context_pairs(folder / "pairs.jsonl", [pair])
    kind = "equal" if plans[0] == plans[1] else "differ"
    assert list(read_context_pairs(folder / "pairs.jsonl", library, plans=kind)) == [pair]  # type: ignore[arg-type]


def test_the_shipped_guide_writes_varied_plans_with_reasons(tmp_path: Path) -> None:
    from gplan_jax.synthesis.world.data_world import simulate_service

    library = Service.load("city_guide").library
    rules, firsts, bare = ServiceRules(library), set(), 0
    for sample in itertools.islice(simulate_service(library, 3), 200):
        label = rules.label(sample)
        assert check_plan(label, library) == []
        firsts.add(parse_plan(label, library)[0]["tool"])
        bare += "a usual addition" in label
    assert len(firsts) >= 7 and bare < 40
