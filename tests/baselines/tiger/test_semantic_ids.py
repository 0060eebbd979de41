import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.tiger.arm import (
    END,
    FIRST_CODE,
    coded_ids,
    company_vectors,
    described,
    grammar_ids,
    intent_vectors,
    plan_text,
    rq_ids,
)
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings
from gplan_jax.foundation import GplanError
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
    assert len({len(code) for code in rq(1).codes}) == 1


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


def test_what_an_intent_is_made_of_is_marked():
    marks = described(ATOMS.intents, LIBRARY)
    values = sum(len(p.values or ()) for p in LIBRARY.parameters.values())
    assert marks.shape == (
        len(ATOMS.intents),
        len(LIBRARY.tools) + len(LIBRARY.parameters) + values,
    )
    np.testing.assert_array_equal(marks.sum(axis=1), [2 * len(i) - 1 for i in ATOMS.intents])
    assert len(np.unique(marks, axis=0)) == len(ATOMS.intents)


def test_company_is_the_factored_mutual_information():
    plans = [(0, 1), (0, 1, 2), (2, 3), (0, 1)]
    vectors = company_vectors(5, plans, 5)
    # Sums of pairs: 0 has 4, 1 has 4, 2 has 3, 3 has 1, all 12; 0 and 1 stand together 3 times.
    n = np.zeros((5, 5))
    n[0, 1], n[0, 2], n[1, 2], n[2, 3] = 3, 1, 1, 1
    n += n.T
    sums = [4, 4, 3, 1, 0]
    expected = np.zeros((5, 5))
    for i, j in zip(*np.nonzero(n), strict=True):
        expected[i, j] = max(0, math.log(n[i, j] * 12 / (sums[i] * sums[j])))
    # U S U^T is |PPMI|, whose square is PPMI's.
    np.testing.assert_allclose(
        np.linalg.matrix_power(vectors @ vectors.T, 2), expected @ expected, atol=1e-5
    )
    assert not vectors[4].any()


def test_both_parts_weigh_the_same_and_without_plans_the_first_is_alone():
    vectors = intent_vectors(ATOMS.intents, LIBRARY, [(0, 1, 2), (3, 2, 5)], company=8)
    about, company = vectors[:, :-8], vectors[:, -8:]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.square(about).sum(), np.square(company).sum(), rtol=1e-5)
    alone = intent_vectors(ATOMS.intents, LIBRARY, [], company=8)
    np.testing.assert_array_equal(alone[:, :-8], about)
    assert not alone[:, -8:].any()


def test_a_plan_of_an_unknown_intent_is_refused():
    with pytest.raises(GplanError, match="Training plan 2"):
        company_vectors(3, [(0, 1), (2, 3)], 2)
