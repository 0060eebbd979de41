"""Grammar files for other servers, read by llguidance."""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from gplan_jax.data import ChatEncoder
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, canonical_plan, check_plan
from gplan_jax.inference.grammar.guided_files import (
    latent_grammar,
    plan_grammar,
    write_guided_files,
)
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar, ResponseForm
from gplan_jax.reasoning import GSISR_LATENTS

Accepts = Callable[[str, list[int]], bool]


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(tiny_model_dir)


@pytest.fixture(scope="module")
def accepts(tiny_model_dir: Path) -> Accepts:
    """Whether a Lark file lets tokens be a whole response; vLLM reads files in the same way."""
    tokenizer = LLTokenizer((tiny_model_dir / "tokenizer.json").read_text(encoding="utf-8"))

    @functools.cache
    def matcher(grammar: str) -> LLMatcher:
        found = LLMatcher(tokenizer, llguidance.grammar_from("grammar", grammar))
        assert not found.is_error(), found.get_error()
        return found

    def accepted(grammar: str, tokens: list[int]) -> bool:
        reader = matcher(grammar)
        reader.reset()
        return reader.try_consume_tokens(tokens) == len(tokens) and reader.is_accepting()

    return accepted


@pytest.fixture(scope="module")
def files(encoder: ChatEncoder) -> dict[ResponseForm, str]:
    library = IntentLibrary.load()
    return {
        "plan": plan_grammar(library, "lark"),
        "latent": latent_grammar(library, encoder, "lark"),
    }


def ids(encoder: ChatEncoder, text: str) -> list[int]:
    return encoder.response(text).ids[:-1].tolist()


def random_response(grammar: PlanGrammar, rng: random.Random) -> list[int]:
    state, tokens = grammar.start, []
    while not grammar.finished(state):
        tokens.append(rng.choice(grammar.edges(state)).token)
        state = grammar.advance(state, tokens[-1])
    return tokens


def fits(text: str) -> bool:
    """Whether a plan keeps to the library in compact writing, its logic aside."""
    if any(violation.tier != "logic" for violation in check_plan(text, IntentLibrary.load())):
        return False
    return canonical_plan(json.loads(text)) == text


@pytest.mark.parametrize("form", ["plan", "latent"])
def test_whatever_the_plan_grammar_writes_is_accepted(
    encoder: ChatEncoder, accepts: Accepts, files: dict[ResponseForm, str], form: ResponseForm
) -> None:
    grammar, rng = PlanGrammar.compile(IntentLibrary.load(), encoder, form), random.Random(0)
    for _ in range(100):
        assert accepts(files[form], random_response(grammar, rng))


@settings(max_examples=150)
@given(data=st.data())
def test_exactly_the_plans_that_fit_are_accepted(
    encoder: ChatEncoder, accepts: Accepts, files: dict[ResponseForm, str], data: st.DataObject
) -> None:
    pool = ["tool_1", "tool_3", "tool_5", "tool_10"]
    values = {
        "起始位置": ["当前位置", "前一位推荐结果", "家"],
        "终点位置": ["当前位置", "家"],
        "空间范围": ["附近", ""],
        "tag": ["美食", "美\\食"],
    }
    wanted = {"tool_1": ["起始位置", "终点位置"], "tool_5": ["起始位置", "空间范围", "tag"]}

    def intent(name: str) -> dict[str, str]:
        keys = wanted.get(name, [])
        return {"工具名称": name} | {k: data.draw(st.sampled_from(values[k])) for k in keys}

    plan = [intent(n) for n in data.draw(st.lists(st.sampled_from(pool), max_size=10))]
    text = canonical_plan(plan)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text) - 1))
        junk = data.draw(st.sampled_from(["", " ", '"', ",", "}", "]", "1", "美"]))
        text = text[:place] + junk + text[place + data.draw(st.integers(0, 2)) :]
    assert accepts(files["plan"], ids(encoder, text)) == fits(text)


def test_the_prefix_has_as_many_steps_as_the_plan_intents(
    encoder: ChatEncoder, accepts: Accepts, files: dict[ResponseForm, str]
) -> None:
    context = GSISR_LATENTS.block_tokens("CONTEXT") + GSISR_LATENTS.block_tokens("STRATEGY")
    for steps in range(1, 10):
        blocks = [GSISR_LATENTS.block_tokens(f"STEP_{i}") for i in range(1, steps + 1)]
        tokens = "".join(context) + "".join(map("".join, blocks))
        for length in range(1, 11):
            plan = canonical_plan([{"工具名称": "tool_3"}] * length)
            text = f"<THOUGHT>{tokens}</THOUGHT>{plan}"
            right = 3 <= steps == length
            assert accepts(files["latent"], ids(encoder, text)) == right


def test_latent_tokens_count_only_as_such(
    encoder: ChatEncoder, accepts: Accepts, files: dict[ResponseForm, str]
) -> None:
    """Their names in letters are other tokens, which the model was never trained to write."""
    grammar = PlanGrammar.compile(IntentLibrary.load(), encoder, "latent")
    tokens = random_response(grammar, random.Random(1))
    assert accepts(files["latent"], tokens)
    first = tokens.index(min(encoder.latent_ids))
    letters = [token for letter in "<THOUGHT_CONTEXT_a>" for token in ids(encoder, letter)]
    spelt = [*tokens[:first], *letters, *tokens[first + 1 :]]
    assert encoder.decode(spelt) == encoder.decode(tokens)
    assert not accepts(files["latent"], spelt)


def test_what_a_plan_holds_already_is_left_to_check_plan(
    encoder: ChatEncoder, accepts: Accepts, files: dict[ResponseForm, str]
) -> None:
    ride = {"工具名称": "tool_1", "起始位置": "前一位推荐结果", "终点位置": "家"}
    text = canonical_plan([ride, ride, {"工具名称": "tool_4"}])
    assert accepts(files["plan"], ids(encoder, text))
    codes = {violation.code for violation in check_plan(text, IntentLibrary.load())}
    assert codes == {"unresolved_reference", "repeated_intent", "exclusive_group"}


def test_any_library_can_be_written(encoder: ChatEncoder, accepts: Accepts) -> None:
    """Free text, optional parameters, one intent at most, a tool without admissible values."""
    odd = IntentLibrary.model_validate(
        dict(
            name="odd",
            tool_key='the "tool"',
            parameters={
                "a b": {"values": {'x"y': "", "z\\": "", "n\n": "", "": ""}},
                "free": {},
                "none": {"values": {}},
            },
            tools={
                "t1": {"parameters": ["a b"], "optional": ["free", "none"]},
                "t2": {"parameters": ["none"]},
                "t3": {},
            },
            plan_length={"minimum": 1, "maximum": 1},
        )
    )
    grammar = plan_grammar(odd, "lark")
    free = ["", 'a"', "\\", "\n", "\u2028", "中文", "👍", "\x01"]
    plans: list[list[dict[str, str]]] = [[], [{}], [{}, {}]]
    plans += [[{"a b": v, "free": f}] for v in ('x"y', "z\\", "n\n", "", "x") for f in free]
    for parts in plans:
        for name in odd.tools:
            plan = [{odd.tool_key: name, **part} for part in parts]
            text = canonical_plan(plan, odd)
            assert accepts(grammar, ids(encoder, text)) == (check_plan(text, odd) == []), text
    assert not accepts(grammar, ids(encoder, '[{"the \\"tool\\"":"t1","a b":"z\\\\","free":"\t"}]'))


def test_thousands_of_values_and_of_tools_are_accepted(
    encoder: ChatEncoder, accepts: Accepts
) -> None:
    """llguidance stops in the middle of a plan where 2,000 rules could go on."""
    large = IntentLibrary.model_validate(
        dict(
            name="large",
            tool_key="tool",
            parameters={"place": {"values": {str(i): "" for i in range(6_000)}}, "free": {}},
            tools={f"go{i}": {"parameters": ["place"], "optional": ["free"]} for i in range(2_500)}
            | {f"do{i}": {} for i in range(2_500)},
            plan_length={"minimum": 1, "maximum": 9},
        )
    )
    grammar = plan_grammar(large, "lark")
    for tool, place in [("go0", "0"), ("go2499", "5999"), ("do249", None), ("go24", "6000")]:
        intent = {"tool": tool} | ({"place": place} if place else {})
        text = canonical_plan([intent, {"tool": "do1"}, intent], large)
        assert accepts(grammar, ids(encoder, text)) == (place != "6000"), text


def test_both_notations_hold_the_same_rules(
    encoder: ChatEncoder, files: dict[ResponseForm, str]
) -> None:
    """The files for xgrammar differ in the names of three things, and in nothing else."""
    library = IntentLibrary.load()
    ebnf = {
        "plan": plan_grammar(library, "ebnf"),
        "latent": latent_grammar(library, encoder, "ebnf"),
    }
    for form, text in ebnf.items():
        text = re.sub(r"^(\w+) ::= ", r"\1: ", text, flags=re.MULTILINE)
        text = re.sub(r"Token\((\d+)\)", r"<[\1]>", text).replace("root: ", "start: ")
        assert "%llguidance {}\n" + text == files[form]
    assert str(encoder.latent_ids[-1]) in ebnf["latent"]


def test_files_of_a_model_with_and_without_latent_tokens(
    encoder: ChatEncoder, tiny_hf_dir: Path, tmp_path: Path
) -> None:
    library = IntentLibrary.load()
    written = write_guided_files(tmp_path / "with", library, encoder)
    assert [p.name for p in written] == ["latent.ebnf", "latent.lark", "plan.ebnf", "plan.lark"]
    assert written[3].read_text(encoding="utf-8") == plan_grammar(library, "lark")
    bare = ChatEncoder.load(tiny_hf_dir)
    written = write_guided_files(tmp_path / "without", library, bare)
    assert [path.name for path in written] == ["plan.ebnf", "plan.lark"]
    with pytest.raises(GplanError, match="lacks 33 latent tokens"):
        latent_grammar(library, bare, "lark")
