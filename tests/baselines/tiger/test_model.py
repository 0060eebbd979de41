"""The network on random rows: what it sums, what counts, and that what it writes are plans."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.baselines.t5 import T5Config, longest_plan, plan_constraint
from gplan_jax.baselines.tiger.model import Decoding, Tiger, decode_rows, tiger_loss
from gplan_jax.baselines.tiger.semantic_ids import END, START, grammar_ids, plan_text
from gplan_jax.gsisr import IntentLibrary, check_plan

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
IDS, MASK = grammar_ids(ATOMS), plan_mask(ATOMS)
CONFIG = T5Config(
    vocabulary_size=IDS.vocabulary, hidden_size=16, heads=2, head_dim=8, mlp_size=16,
    encoder_layers=1, decoder_layers=1,
)  # fmt: skip
FEATURES = np.random.default_rng(0).integers(1, 40, (6, 5, 3)).astype(np.int32)
TARGET = np.array([[3, 20, END, START], [4, END, START, START], [5, 6, 7, END]] * 2, np.int32)


@nnx.jit
def logits_of(model: Tiger, features: jax.Array, target: jax.Array = TARGET) -> jax.Array:
    return model(features, target)


@nnx.jit(static_argnums=3)
def loss_of(
    model: Tiger, batch: dict[str, jax.Array], key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    return tiger_loss(model, batch, key, train)


@pytest.fixture(scope="module")
def model() -> Tiger:
    return Tiger(40, CONFIG, feature_dropout=0.5, rngs=nnx.Rngs(0))


def test_a_position_is_the_sum_of_its_numbers_and_padding_is_not_there(model: Tiger) -> None:
    expected = logits_of(model, FEATURES)
    np.testing.assert_allclose(logits_of(model, FEATURES[:, :, ::-1]), expected, atol=1e-5)
    padded = np.pad(FEATURES, ((0, 0), (0, 2), (0, 1)))
    np.testing.assert_allclose(logits_of(model, padded), expected, atol=1e-5)
    other = np.where(np.arange(5)[:, None] == 2, FEATURES[::-1], FEATURES)
    assert np.abs(np.asarray(logits_of(model, other)) - expected).max() > 1e-3


def test_the_loss_is_the_cross_entropy_of_tokens_up_to_the_end(model: Tiger) -> None:
    batch = {"features": FEATURES, "target": TARGET, "weight": np.array([1, 1, 1, 0, 1, 1.0])}
    total, count = loss_of(model, batch, jax.random.key(0), False)
    log_probs = np.asarray(jax.nn.log_softmax(logits_of(model, FEATURES)))
    expected = 0.0
    for row in (0, 1, 2, 4, 5):
        for place, token in enumerate(TARGET[row]):
            expected -= log_probs[row, place, token] * (token != START)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert count == 3 + 2 + 4 + 2 + 4


def test_training_leaves_numbers_out_and_prediction_does_not(model: Tiger) -> None:
    batch = {"features": FEATURES, "target": TARGET, "weight": np.ones(6)}
    keys = jax.random.split(jax.random.key(0), 2)
    trained = [float(loss_of(model, batch, key, True)[0]) for key in keys]
    judged = [float(loss_of(model, batch, key, False)[0]) for key in keys]
    assert trained[0] != trained[1]
    assert judged[0] == judged[1]


def test_what_an_untrained_network_writes_under_the_rules_are_plans(model: Tiger) -> None:
    constraint = plan_constraint(IDS.codes, MASK, vocabulary=IDS.vocabulary, end=END)
    how = Decoding(beams=2, steps=longest_plan(IDS.codes, MASK), batch_size=4)
    found = decode_rows(model, FEATURES, constraint, how)
    assert found.shape == (6, how.steps)
    plans = [IDS.read(tokens) for tokens in found]
    assert not [violation for p in plans for violation in check_plan(plan_text(p, ATOMS), LIBRARY)]
    for plan, tokens in zip(plans, found, strict=True):
        written = IDS.write([atom for atom in plan if atom is not None])
        assert tuple(tokens[: len(written)]) == written


def test_one_free_beam_follows_the_most_probable_token(model: Tiger) -> None:
    how = Decoding(beams=1, steps=TARGET.shape[1], batch_size=6)
    found = decode_rows(model, FEATURES, None, how)
    # Teacher forcing with the found tokens must agree at every place up to the end.
    probable = np.asarray(logits_of(model, FEATURES, found)).argmax(axis=-1)
    for tokens, best in zip(found.tolist(), probable.tolist(), strict=True):
        length = tokens.index(END) + 1 if END in tokens else len(tokens)
        assert tokens[:length] == best[:length]
