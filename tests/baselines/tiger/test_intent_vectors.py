import math

import numpy as np
import pytest

from gplan_jax.baselines.tiger.intent_vectors import company_vectors, described, intent_vectors
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.gsisr.plan_rules import admissible_intents

LIBRARY = IntentLibrary.load()
INTENTS = admissible_intents(LIBRARY)


def test_what_an_intent_is_made_of_is_marked():
    marks = described(INTENTS, LIBRARY)
    values = sum(len(p.values or ()) for p in LIBRARY.parameters.values())
    assert marks.shape == (len(INTENTS), len(LIBRARY.tools) + len(LIBRARY.parameters) + values)
    np.testing.assert_array_equal(marks.sum(axis=1), [2 * len(i) - 1 for i in INTENTS])
    assert len(np.unique(marks, axis=0)) == len(INTENTS)


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
    vectors = intent_vectors(INTENTS, LIBRARY, [(0, 1, 2), (3, 2, 5)], company=8)
    about, company = vectors[:, :-8], vectors[:, -8:]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.square(about).sum(), np.square(company).sum(), rtol=1e-5)
    alone = intent_vectors(INTENTS, LIBRARY, [], company=8)
    np.testing.assert_array_equal(alone[:, :-8], about)
    assert not alone[:, -8:].any()


def test_a_plan_of_an_unknown_intent_is_refused():
    with pytest.raises(GplanError, match="Training plan 2"):
        company_vectors(3, [(0, 1), (2, 3)], 2)
