"""The plan grammar against check_plan, all plans of a small library, and llguidance."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models

from gplan_jax.data import ChatEncoder, EncodedResponse
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import (
    Intent,
    IntentLibrary,
    canonical_plan,
    check_plan,
    latent_valid,
    parse_plan,
    read_samples,
)
from gplan_jax.inference.grammar.plan_grammar import Edge, GrammarState, PlanGrammar, ResponseForm
from gplan_jax.models.checkpoints.tiny import SPECIAL_TOKENS, train_tokenizer
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary
from tests.inference.planners import tokens_of

FORMS: tuple[ResponseForm, ...] = ("plan", "latent")


def library(**changes: object) -> IntentLibrary:
    """Tools whose names are prefixes of others, an optional parameter, a tool in two groups."""
    values: dict[str, object] = dict(
        name="small",
        tool_key="tool",
        parameters={"from": {"values": {"here": "", "there": ""}}, "tag": {"values": {"吃": ""}}},
        tools={
            "tool_1": {"optional": ["from"], "yields_place": True},
            "tool_10": {"parameters": ["tag"]},
            "tool_2": {},
            "tool_3": {"parameters": ["from"], "yields_place": True},
            "tool_4": {},
        },
        previous_place="there",
        exclusive_groups=[["tool_1", "tool_3"], ["tool_3", "tool_4"]],
        plan_length={"minimum": 2, "maximum": 3},
    )
    return IntentLibrary.model_validate(values | changes)


SMALL = library()
INTENTS: list[Intent] = [
    {"tool": "tool_1"},
    {"tool": "tool_1", "from": "here"},
    {"tool": "tool_1", "from": "there"},
    {"tool": "tool_10", "tag": "吃"},
    {"tool": "tool_2"},
    {"tool": "tool_3", "from": "here"},
    {"tool": "tool_3", "from": "there"},
    {"tool": "tool_4"},
]


def admissible(
    intents: Sequence[Intent], of: IntentLibrary, lengths: Sequence[int] = range(5)
) -> set[str]:
    """The texts of all plans that pass check_plan, by trying every sequence of intents."""
    plans = (p for n in lengths for p in itertools.product(intents, repeat=n))
    texts = (canonical_plan(plan, of) for plan in plans)
    return {text for text in texts if not check_plan(text, of)}


def language(grammar: PlanGrammar, encoder: ChatEncoder) -> set[str]:
    """All texts that a grammar generates; no state on the way may be a dead end."""
    texts: set[str] = set()
    stack: list[tuple[GrammarState, tuple[int, ...]]] = [(grammar.start, ())]
    while stack:
        state, tokens = stack.pop()
        run, state = grammar.forced_run(state)
        tokens = (*tokens, *run)
        if grammar.finished(state):
            assert tokens == tuple(encoder.response(encoder.decode(tokens)).ids[:-1])
            texts.add(encoder.decode(tokens))
            continue
        edges = grammar.edges(state)
        assert len(edges) > 1, encoder.decode(tokens)
        for edge in edges:
            stack.append((grammar.advance(state, edge.token), (*tokens, edge.token)))
    return texts


def walk(grammar: PlanGrammar, rng: random.Random) -> Iterator[tuple[GrammarState, Edge]]:
    """A random response: each state on the way and the edge taken from it."""
    state = grammar.start
    while not grammar.finished(state):
        edge = rng.choice(grammar.edges(state))
        yield state, edge
        state = grammar.advance(state, edge.token)


def walked_tokens(grammar: PlanGrammar, rng: random.Random) -> tuple[int, ...]:
    return tuple(edge.token for _, edge in walk(grammar, rng))


def accepts(grammar: PlanGrammar, plan: Sequence[Intent]) -> bool:
    try:
        state = functools.reduce(grammar.advance, tokens_of(grammar, plan), grammar.start)
    except (GplanError, LookupError, ValueError):  # It breaks a rule, is empty, or no intent is so.
        return False
    return grammar.finished(state)


def latent_text(steps: int) -> str:
    context = GSISR_LATENTS.block_tokens("CONTEXT") + GSISR_LATENTS.block_tokens("STRATEGY")
    blocks = [GSISR_LATENTS.block_tokens(f"STEP_{i}") for i in range(1, steps + 1)]
    return "<THOUGHT>" + "".join(context) + "".join(map("".join, blocks)) + "</THOUGHT>"


def crafted_encoder(merges: list[tuple[str, str]]) -> ChatEncoder:
    """Single characters, joined only as ``merges`` say, wherever they stand."""
    alphabet = sorted({*map(chr, range(32, 127)), "吃"})
    pieces = [*alphabet, *(a + b for a, b in merges)]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    return ChatEncoder(tokenizer.to_str())


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(tiny_model_dir)


@pytest.fixture(scope="module")
def qwen3(qwen3_json: str) -> ChatEncoder:
    return ChatEncoder(qwen3_json)


@pytest.fixture(scope="module", params=FORMS)
def amap(request: pytest.FixtureRequest, qwen3: ChatEncoder) -> PlanGrammar:
    return PlanGrammar.compile(IntentLibrary.load(), qwen3, request.param)


@pytest.mark.parametrize("name", ["tiny", "qwen3"])
def test_all_plans_of_a_small_library_and_no_other(
    name: str, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue(name)
    wanted = admissible(INTENTS, SMALL)
    assert {len(json.loads(text)) for text in wanted} == {2, 3}
    assert language(PlanGrammar.compile(SMALL, encoder, "plan"), encoder) == wanted
    latent = PlanGrammar.compile(SMALL, encoder, "latent")
    announced = {latent_text(len(json.loads(text))) + text for text in wanted}
    assert language(latent, encoder) == announced


def test_llguidance_allows_the_same_texts(tiny: ChatEncoder, tiny_model_dir: Path) -> None:
    """Its matcher gets every plan written out, so it knows nothing of our rules."""
    tokenizer = LLTokenizer((tiny_model_dir / "tokenizer.json").read_text(encoding="utf-8"))
    texts = sorted(admissible(INTENTS, SMALL))
    choices = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    oracle = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(f"start: {choices}"))
    grammar = PlanGrammar.compile(SMALL, tiny, "plan")
    rng = random.Random(0)
    for _ in range(60):
        oracle.reset()
        for state, edge in walk(grammar, rng):
            allowed = np.frombuffer(oracle.compute_bitmask(), np.uint32)
            for token in (other.token for other in grammar.edges(state)):
                assert allowed[token // 32] >> (token % 32) & 1
            assert oracle.consume_token(edge.token)
        assert oracle.is_accepting()
    for _ in range(60):
        oracle.reset()
        tokens: list[int] = []
        while not oracle.is_stopped():
            bits = np.unpackbits(
                np.frombuffer(oracle.compute_bitmask(), np.uint8), bitorder="little"
            )
            token = rng.choice(np.flatnonzero(bits).tolist())
            oracle.consume_token(token)
            if token != tokenizer.eos_token:
                tokens.append(token)
        # The oracle may cut a text into other tokens than the model's own.
        ids = tiny.response(tokenizer.decode_str(tokens)).ids[:-1].tolist()
        assert grammar.finished(functools.reduce(grammar.advance, ids, grammar.start))


def test_walks_through_the_amap_grammar_are_plans_that_pass(
    amap: PlanGrammar, qwen3: ChatEncoder
) -> None:
    rng = random.Random(1)
    lengths = set()
    for _ in range(300):
        tokens = walked_tokens(amap, rng)
        text = qwen3.decode(tokens)
        assert check_plan(text, amap.library) == []
        assert latent_valid(text) == (amap.form == "latent")
        assert tokens == tuple(qwen3.response(text).ids[:-1])
        plan = json.loads(text.split("</THOUGHT>")[-1])
        assert tokens_of(amap, plan) == tokens
        lengths.add(len(plan))
    assert lengths == {3, 4, 5, 6, 7, 8, 9}


@settings(max_examples=200)
@given(data=st.data())
def test_accepts_exactly_what_check_plan_accepts(amap: PlanGrammar, data: st.DataObject) -> None:
    tools = [intent["工具名称"] for intent in amap.intents]
    some = data.draw(st.sets(st.sampled_from(tools), min_size=1, max_size=4))
    pool = [i for i, tool in zip(amap.intents, tools, strict=True) if tool in some]
    plan = data.draw(st.lists(st.sampled_from(pool), max_size=11))
    passes = not check_plan(canonical_plan(plan), amap.library)
    assert accepts(amap, plan) == passes
    shuffled = [dict(reversed(intent.items())) for intent in plan]
    assert accepts(amap, shuffled) == passes


def test_the_public_plans_are_accepted_where_they_pass(
    amap: PlanGrammar, qwen3: ChatEncoder, shared: Path
) -> None:
    outcomes = []
    for sample in read_samples(shared / "gsisr" / "gsisr_dev.csv"):
        plan = parse_plan(sample.raw_labels, amap.library)
        text = canonical_plan(plan, amap.library)
        passes = not check_plan(text, amap.library)
        assert accepts(amap, plan) == passes
        if passes and amap.form == "plan":
            assert tokens_of(amap, plan) == tuple(qwen3.response(text).ids[:-1])
        outcomes.append(passes)
    assert (len(outcomes), sum(outcomes)) == (703, 700)


def test_the_device_table_has_the_same_open_edges(amap: PlanGrammar) -> None:
    rng = random.Random(2)
    for _ in range(20):
        for state, _ in walk(amap, rng):
            open_words = amap.words(amap.open_bits(state))
            edge = amap.table.edge_NxE[state.node]
            [numbers] = np.nonzero((amap.table.bits_MxW[edge] & open_words).any(axis=-1))
            tokens = amap.token_ids[amap.table.row_M[edge[numbers]]]
            expected = [(edge.number, edge.token) for edge in amap.edges(state)]
            assert list(zip(numbers.tolist(), tokens.tolist(), strict=True)) == expected
            assert sorted(tokens) == tokens.tolist()


def test_the_table_has_nothing_beyond_the_automaton(amap: PlanGrammar) -> None:
    edge_NxE, row_M, bits_MxW = amap.table
    assert (edge_NxE > 0).sum(axis=1).tolist() == [len(edges) for edges in amap.automaton.edges]
    assert sorted(edge_NxE[edge_NxE > 0]) == list(range(1, len(row_M)))
    assert bits_MxW.any(axis=-1).tolist() == [False] + [True] * (len(row_M) - 1)
    assert bits_MxW.shape[1] == 5  # 148 intents and 4 decisions in words of 32
    assert amap.words(1 << 33 | 1).tolist() == [1, 2, 0, 0, 0]


def test_only_tokens_of_the_tokenizer_are_ever_allowed(
    amap: PlanGrammar, qwen3: ChatEncoder
) -> None:
    """The model has 151,936 rows, the tokenizer 151,669 tokens and 33 latent ones."""
    assert qwen3.vocabulary_size == 151_702
    assert amap.token_ids.max() < qwen3.vocabulary_size
    assert (np.diff(amap.token_ids) > 0).all()
    assert not {qwen3.end_id, qwen3.pad_id} & set(amap.token_ids.tolist())


def test_forced_runs_end_where_something_is_to_be_decided(amap: PlanGrammar) -> None:
    for state, _ in walk(amap, random.Random(3)):
        run, after = amap.forced_run(state)
        for token in run:
            [edge] = amap.edges(state)
            assert edge.token == token
            state = amap.advance(state, token)
        assert state == after
        assert len(amap.edges(state)) > 1 or amap.finished(state)


def test_what_every_response_begins_with(amap: PlanGrammar, qwen3: ChatEncoder) -> None:
    prefix, end = amap.prefix()
    states = [*itertools.accumulate(prefix, amap.advance, initial=amap.start)]
    assert states[-1] == end
    decided = [place for place, state in enumerate(states[:-1]) if len(amap.edges(state)) > 1]
    if amap.form == "plan":
        assert qwen3.decode(prefix) == '[{"工具名称":"tool_' and not decided
        return
    assert qwen3.decode(prefix) == latent_text(9).removesuffix("</THOUGHT>")
    assert [states[place].steps for place in decided] == [3, 4, 5, 6, 7, 8]
    for place in decided:
        written = latent_text(states[place].steps).removesuffix("</THOUGHT>")
        assert qwen3.decode(prefix[:place]) == written
        assert {edge.bits for edge in amap.edges(states[place])} == {
            1 << amap.plan_bits.STEP,
            1 << amap.plan_bits.CLOSE,
        }


def test_a_token_that_is_not_allowed_is_named(tiny: ChatEncoder) -> None:
    grammar = PlanGrammar.compile(SMALL, tiny, "plan")
    [first] = grammar.edges(grammar.start)
    with pytest.raises(GplanError, match=f"Token 7 can't follow .* allowed tokens: {first.token}"):
        grammar.advance(grammar.start, 7)
    tokens = tokens_of(grammar, [INTENTS[4], INTENTS[7]])
    end = functools.reduce(grammar.advance, tokens, grammar.start)
    assert grammar.edges(end) == ()
    with pytest.raises(GplanError, match="allowed tokens: none"):
        grammar.advance(end, first.token)


@st.composite
def libraries(draw: st.DrawFn) -> IntentLibrary:
    names = [f"t{i}" for i in range(1, 5)]
    tools = {
        name: draw(
            st.fixed_dictionaries(
                {
                    "parameters": st.sampled_from([[], ["p"]]),
                    "yields_place": st.booleans(),
                }
            )
        )
        for name in names[: draw(st.integers(1, 4))]
    }
    groups = st.lists(st.lists(st.sampled_from(list(tools)), unique=True), max_size=3)
    minimum, more = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    return library(
        parameters={"p": {"values": {"x": "", "there": ""}}},
        tools=tools,
        exclusive_groups=draw(groups),
        plan_length={"minimum": minimum, "maximum": min(minimum + more, 3)},
    )


@pytest.fixture(scope="module")
def plain() -> ChatEncoder:
    """A byte-level tokenizer with the latent tokens and no other words."""
    tokenizer = train_tokenizer(["a"], 300)
    latents = LatentVocabulary(("CONTEXT",), max_steps=3, width=1)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in latents.tokens])
    return ChatEncoder(tokenizer.to_str(), latents=latents)


@given(of=libraries())
def test_whatever_the_rules_no_plan_gets_stuck(plain: ChatEncoder, of: IntentLibrary) -> None:
    """Where a library is not refused, its grammar writes all plans; announced ones, as many."""
    intents = [
        {"tool": name} | ({"p": value} if tool.parameters else {})
        for name, tool in of.tools.items()
        for value in (("x", "there") if tool.parameters else ("",))
    ]
    try:
        grammar = PlanGrammar.compile(of, plain, "plan")
    except GplanError as error:
        assert "could get stuck" in str(error)
        with pytest.raises(GplanError, match="could get stuck"):
            PlanGrammar.compile(of, plain, "latent")
        return
    assert language(grammar, plain) == admissible(intents, of)
    latent = PlanGrammar.compile(of, plain, "latent")
    lengths = range(latent.rules.minimum, latent.rules.maximum + 1)
    written = {text.split("</THOUGHT>")[1] for text in language(latent, plain)}
    assert written == admissible(intents, of, lengths)


def test_a_library_whose_plans_can_get_stuck_is_refused(tiny: ChatEncoder) -> None:
    # tool_10, tool_2 and one of the groups' tools are there whatever is taken: three, not four.
    too_long = library(plan_length={"minimum": 4, "maximum": 5})
    with pytest.raises(GplanError, match=r"stuck after 3 intents, but plan_length\.minimum is 4"):
        PlanGrammar.compile(too_long, tiny, "plan")
    latents = LatentVocabulary(max_steps=1)
    short = ChatEncoder(tiny._json, latents=latents)
    with pytest.raises(GplanError, match=r"1 steps, but a plan .* has at least 2 intents"):
        PlanGrammar.compile(SMALL, short, "latent")


def test_free_text_is_refused(tiny: ChatEncoder) -> None:
    free = library(parameters={"from": {}, "tag": {"values": {"吃": ""}}})
    with pytest.raises(GplanError, match=r"tool_1 takes any text as from.*list the values of from"):
        PlanGrammar.compile(free, tiny, "plan")


def test_a_library_without_intents_is_refused(tiny: ChatEncoder) -> None:
    nothing = library(
        parameters={"from": {"values": {"there": ""}}, "tag": {"values": {"": "empty"}}},
        tools={"tool_10": {"parameters": ["tag"]}},
        exclusive_groups=[],
    )
    with pytest.raises(GplanError, match="admits no intent"):
        PlanGrammar.compile(nothing, tiny, "plan")


def test_latent_tokens_are_needed_for_the_latent_form() -> None:
    with pytest.raises(GplanError, match="lacks 33 latent tokens"):
        PlanGrammar.compile(SMALL, crafted_encoder([]), "latent")


def test_values_may_hold_any_character(tiny: ChatEncoder, qwen3: ChatEncoder) -> None:
    values = ['a"b', "b\\", "c\n", "d)", "e}", "}]", "", " f", "👍🏽", '","', "é"]
    odd = library(
        parameters={"tag": {"values": dict.fromkeys(values, "")}},
        tools={"tool_10": {"optional": ["tag"]}, "tool_1": {"parameters": ["tag"]}},
        exclusive_groups=[],
        plan_length={"minimum": 1, "maximum": 2},
        previous_place=None,
    )
    filled = [value for value in values if value]
    intents = [{"tool": name, "tag": v} for name in odd.tools for v in filled]
    wanted = admissible([{"tool": "tool_10"}, *intents], odd, range(4))
    for encoder in (tiny, qwen3):
        assert language(PlanGrammar.compile(odd, encoder, "plan"), encoder) == wanted


def test_values_that_differ_in_what_merges_with_the_closing_quote_are_named(
    qwen3: ChatEncoder,
) -> None:
    """Qwen3 has tokens such as ``)"``: both values end at the same node, with one token more."""
    alike = library(
        parameters={"from": {"values": {}}, "tag": {"values": {"food": "", "food)": ""}}},
        previous_place=None,
        exclusive_groups=[],
    )
    with pytest.raises(GplanError, match=r"'food'} and .* 'food\)'} depend on each other"):
        PlanGrammar.compile(alike, qwen3, "plan")


def test_values_that_the_tokenizer_rewrites_or_reads_as_control_are_named(
    tiny: ChatEncoder,
) -> None:
    decomposed = library(
        parameters={"from": {"values": {"e\u0301": ""}}, "tag": {"values": {"吃": ""}}},
        previous_place=None,
    )
    with pytest.raises(GplanError, match="composed form"):
        PlanGrammar.compile(decomposed, tiny, "plan")
    control = library(parameters={"from": {"values": {"<|im_end|>": ""}}, "tag": {"values": {}}})
    with pytest.raises(GplanError, match=r"contains <\|im_end\|>"):
        PlanGrammar.compile(control, tiny, "plan")


JOINT = [('"', "}"), ('"}', ","), ('"},', "{"), ('"},{', '"')]


@pytest.mark.parametrize(
    "merges",
    [
        [],
        JOINT,
        [*JOINT, ("4", '"},{"')],  # one intent grows into what follows it
        [*JOINT, ('"},{"', "t"), ("t", "o")],  # all grow into what follows them
        [("1", '"'), ("{", '"'), ('1"', "}"), ("o", "l"), ("0", '"'), ('"', "]")],
    ],
)
def test_tokens_may_straddle_intents(merges: list[tuple[str, str]]) -> None:
    encoder = crafted_encoder(merges)
    grammar = PlanGrammar.compile(SMALL, encoder, "plan")
    assert language(grammar, encoder) == admissible(INTENTS, SMALL)


def test_intents_whose_tokens_depend_on_each_other_are_named() -> None:
    """tool_2, its joint and the beginning of tool_4 are one token."""
    grown = itertools.pairwise(itertools.accumulate('2"},{"tool":"tool_4'))
    merges = [(shorter, longer[-1]) for shorter, longer in grown]
    with pytest.raises(GplanError, match=r"'tool_2'} and {'tool': 'tool_4'} depend on each other"):
        PlanGrammar.compile(SMALL, crafted_encoder(merges), "plan")


@pytest.mark.parametrize("which", ["tiny", "qwen3"])
def test_twice_the_intents_take_twice_the_encoding(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pairs of intents would take four times as much."""
    encoder = request.getfixturevalue(which)
    encoded: list[int] = []
    response = ChatEncoder.response

    def counted(self: ChatEncoder, text: str) -> EncodedResponse:
        encoded.append(len(text))
        return response(self, text)

    monkeypatch.setattr(ChatEncoder, "response", counted)
    work = []
    for count in (40, 80):
        values = {f"{'店馆吧'[i % 3]}{i}": "" for i in range(count)}
        grown = library(parameters={"from": {"values": {}}, "tag": {"values": values}})
        encoded.clear()
        grammar = PlanGrammar.compile(grown, encoder, "plan")
        assert len(grammar.intents) > count
        work.append(sum(encoded))
    assert work[1] < 2.2 * work[0]


def test_an_intent_that_ends_like_another_goes_on_is_named() -> None:
    """tool_1 before its joint is one token with it, but before the end it is tool_10's 1."""
    merges = [*JOINT, ("1", '"},{"')]
    with pytest.raises(GplanError, match=r"'tool_1'} and {'tool': 'tool_1.* depend on each other"):
        PlanGrammar.compile(SMALL, crafted_encoder(merges), "plan")


def test_a_library_of_one_intent(plain: ChatEncoder) -> None:
    single = library(
        tools={"tool_2": {}}, exclusive_groups=[], plan_length={"minimum": 1, "maximum": 3}
    )
    grammar = PlanGrammar.compile(single, plain, "plan")
    tokens, state = grammar.forced_run(grammar.start)
    assert plain.decode(tokens) == '[{"tool":"tool_2"}]'
    assert grammar.finished(state)
    latent = PlanGrammar.compile(single, plain, "latent")
    prefix, end = latent.prefix()
    assert plain.decode(prefix).endswith('<T_1_a></THOUGHT>[{"tool":"tool_2"}]')
    assert latent.finished(end) and end.steps == 1
    assert (prefix, end) == latent.forced_run(latent.start)
