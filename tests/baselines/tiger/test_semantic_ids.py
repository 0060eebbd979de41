import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings
from gplan_jax.baselines.tiger.semantic_ids import (
    END,
    FIRST_CODE,
    coded_ids,
    grammar_ids,
    plan_text,
    rq_ids,
)
from gplan_jax.gsisr import IntentLibrary, check_plan, parse_plan
from gplan_jax.gsisr.library import Parameter, PlanLength, Tool

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
GRAMMAR = grammar_ids(ATOMS)
SETTINGS = RqVaeSettings(levels=2, codes=4, hidden=8, latent=4, steps=20)
PLANS = [(0, 30, 60), (1, 31, 61), (0, 31, 90), (5, 60, 100)]
OTHER = IntentLibrary(
    name="other",
    tool_key="do",
    parameters={"where": Parameter(values={"a": "", "b": ""}), "how": Parameter(values={"a": ""})},
    tools={
        "go": Tool(parameters=["where"], optional=["how"]),
        "rest": Tool(),
        "eat": Tool(optional=["how"]),
    },
    plan_length=PlanLength(minimum=1, maximum=2),
)


def rq(seed=0):
    return rq_ids(ATOMS, PLANS, SETTINGS, company=4, seed=seed)


@pytest.fixture(scope="module", params=["grammar", "rq", "other"])
def ids(request):
    if request.param == "other":
        return grammar_ids(Atoms.of(OTHER))
    return GRAMMAR if request.param == "grammar" else rq()


def test_codes_are_unique_in_the_vocabulary_and_begin_no_other(ids):
    assert len(set(ids.codes)) == len(ids.codes)
    tokens = {token for code in ids.codes for token in code}
    assert min(tokens) >= FIRST_CODE and max(tokens) < ids.vocabulary
    beginnings = {code[:n] for code in ids.codes for n in range(1, len(code))}
    assert not beginnings & set(ids.codes)


def test_plans_come_back_whatever_follows_their_end(ids):
    for plan in ([], [0], list(range(len(ids.codes)))):
        assert ids.read([*ids.write(plan), FIRST_CODE, END]) == tuple(plan)


def test_the_grammar_writes_what_a_tool_takes_and_says_what_is_absent():
    ids, atoms = grammar_ids(Atoms.of(OTHER)), Atoms.of(OTHER)
    by_text = {atoms.text([a]): len(code) for a, code in enumerate(ids.codes)}
    assert by_text == {
        '[{"do":"go","where":"a"}]': 3,
        '[{"do":"go","where":"a","how":"a"}]': 3,
        '[{"do":"go","where":"b"}]': 3,
        '[{"do":"go","where":"b","how":"a"}]': 3,
        '[{"do":"rest"}]': 1,
        '[{"do":"eat"}]': 2,
        '[{"do":"eat","how":"a"}]': 2,
    }
    first = {code[0]: atoms.intents[a]["do"] for a, code in enumerate(ids.codes)}
    assert sorted(first.values()) == ["eat", "go", "rest"]
    # A value of one parameter is another token than the same value of another.
    assert ids.vocabulary == FIRST_CODE + 3 + (1 + 2) + (1 + 1)


def test_intents_of_the_shipped_library_share_tokens_exactly_where_they_share_values():
    for one in (0, 20, 100):
        for other in range(ATOMS.count):
            a, b = ATOMS.intents[one], ATOMS.intents[other]
            shared = sum(a[key] == b.get(key) for key in a)
            assert len(set(GRAMMAR.codes[one]) & set(GRAMMAR.codes[other])) == shared


def test_equal_codes_are_told_apart_by_the_last_token():
    codes = np.array([[0, 1], [2, 0], [0, 1], [0, 1]])
    ids = coded_ids(codes, 3)
    assert ids.codes == ((2, 6, 8), (4, 5, 8), (2, 6, 9), (2, 6, 10))
    assert ids.vocabulary == 2 + 6 + 4


def test_rq_codes_repeat_themselves_for_a_seed():
    assert rq(1) == rq(1)
    assert rq(1) != rq(2)


def test_runs_that_are_no_code_are_unknown_intents_and_hide_nothing_after_them():
    tool_1, start, destination = GRAMMAR.codes[0]
    single = next(a for a, code in enumerate(GRAMMAR.codes) if len(code) == 1)
    [token] = GRAMMAR.codes[single]
    assert GRAMMAR.read([tool_1, token, END]) == (None, single)
    assert GRAMMAR.read([start, destination, token]) == (None, single)
    assert GRAMMAR.read([token, tool_1, start]) == (single, None)
    assert GRAMMAR.read([tool_1, start, start, tool_1, start, destination]) == (None, 0)
    text = plan_text((single, None), ATOMS)
    assert len(parse_plan(text)) == 2
    assert "schema" in {violation.tier for violation in check_plan(text, LIBRARY)}


@given(st.lists(st.integers(0, GRAMMAR.vocabulary - 1), max_size=12))
def test_no_token_is_lost_whatever_is_read(tokens):
    plan = GRAMMAR.read(tokens)
    kept = tokens[: tokens.index(END)] if END in tokens else tokens
    assert bool(plan) == bool(kept)
    known = sum(len(GRAMMAR.codes[atom]) for atom in plan if atom is not None)
    assert known + sum(atom is None for atom in plan) <= len(kept)
    if None not in plan:
        assert GRAMMAR.write(plan) == (*kept, END)
