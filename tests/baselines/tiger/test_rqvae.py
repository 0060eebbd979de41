import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.tiger.rqvae import (
    Quantized,
    RqVae,
    RqVaeSettings,
    fit_rqvae,
    kmeans_codebooks,
    quantize,
    reseeded,
    rqvae_loss,
    straight_through,
)
from gplan_jax.foundation import GplanError

SETTINGS = RqVaeSettings(levels=3, codes=4, hidden=8, latent=5, steps=40, reseed_every=5)
VECTORS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return fit_rqvae(VECTORS, SETTINGS, seed=3)


def test_one_level_is_a_vq_vae_written_out():
    draw = np.random.default_rng(1)
    model = RqVae(6, SETTINGS.model_copy(update={"levels": 1}), nnx.Rngs(0))
    codebook = draw.normal(size=(4, 5)).astype(np.float32)
    model.codebooks[...] = jnp.asarray(codebook)[None]

    encoded = np.asarray(model.encoder(jnp.asarray(VECTORS)))
    codes = np.array([min(range(4), key=lambda k: ((z - codebook[k]) ** 2).sum()) for z in encoded])
    chosen = codebook[codes]
    decoded = np.asarray(model.decoder(jnp.asarray(chosen)))
    expected = ((VECTORS - decoded) ** 2).sum(1) + 1.25 * ((encoded - chosen) ** 2).sum(1)

    loss, found = rqvae_loss(model, jnp.asarray(VECTORS), 0.25)
    np.testing.assert_array_equal(found.codes[:, 0], codes)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)

    gradient = nnx.grad(lambda m: rqvae_loss(m, jnp.asarray(VECTORS), 0.25)[0])(model)
    pulls = np.zeros_like(codebook)
    np.add.at(pulls, codes, 2 * (chosen - encoded) / len(VECTORS))
    np.testing.assert_allclose(gradient["codebooks"][0], pulls, atol=1e-6)


def test_codes_and_rest_add_up_to_the_encoding_and_each_code_is_the_nearest():
    draw = np.random.default_rng(2)
    codebooks = draw.normal(size=(3, 4, 5)).astype(np.float32)
    encoded = draw.normal(size=(20, 5)).astype(np.float32)
    found = quantize(jnp.asarray(codebooks), jnp.asarray(encoded))
    np.testing.assert_allclose(found.vectors.sum(axis=1) + found.rest, encoded, atol=1e-5)
    rest = encoded.copy()
    for level in range(3):
        np.testing.assert_allclose(found.residuals[:, level], rest, atol=1e-5)
        distances = ((rest[:, None] - codebooks[level]) ** 2).sum(axis=-1)
        np.testing.assert_array_equal(found.codes[:, level], distances.argmin(axis=1))
        rest -= codebooks[level][found.codes[:, level]]


def test_the_gradient_passes_the_codes_as_if_they_were_the_encoding():
    weights = jnp.arange(10.0).reshape(2, 5)
    quantized = jnp.ones((2, 5))
    value, (to_encoded, to_quantized) = jax.value_and_grad(
        lambda z, q: jnp.sum(weights * straight_through(z, q)), argnums=(0, 1)
    )(jnp.zeros((2, 5)), quantized)
    assert value == weights.sum()
    np.testing.assert_array_equal(to_encoded, weights)
    np.testing.assert_array_equal(to_quantized, 0)


def test_more_levels_after_k_means_never_leave_more():
    codebooks = kmeans_codebooks(VECTORS, levels=5, codes=4, seed=0)
    left = [
        float(jnp.sum(jnp.square(quantize(jnp.asarray(codebooks[:levels]), VECTORS).rest)))
        for levels in range(1, 6)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.5 * left[0]


def test_k_means_with_more_codes_than_vectors_leaves_nothing():
    codebooks = kmeans_codebooks(VECTORS[:3], levels=2, codes=8, seed=0)
    assert codebooks.shape == (2, 8, 6)
    found = quantize(jnp.asarray(codebooks), jnp.asarray(VECTORS[:3]))
    np.testing.assert_allclose(found.rest, 0, atol=1e-5)


def test_a_code_without_vectors_moves_to_a_residual_of_its_level_and_others_stay():
    codebooks = jnp.stack([jnp.full((3, 2), v) for v in (0.0, 9.0)])
    residuals = jnp.asarray(np.random.default_rng(4).normal(size=(4, 2, 2)), jnp.float32)
    codes = jnp.asarray([[0, 2], [0, 2], [1, 2], [1, 2]])
    found = Quantized(codes, residuals, residuals, residuals[:, 0])
    fresh = np.asarray(reseeded(codebooks, found, jax.random.key(0)))
    np.testing.assert_array_equal(fresh[0, :2], codebooks[0, :2])
    np.testing.assert_array_equal(fresh[1, 2], codebooks[1, 2])
    for level, code in ((0, 2), (1, 0), (1, 1)):
        assert any(np.array_equal(fresh[level, code], r) for r in residuals[:, level])


def test_training_lowers_the_loss_and_repeats_itself_for_a_seed(fitted):
    model, losses = fitted
    again, losses_again = fit_rqvae(VECTORS, SETTINGS, seed=3)
    assert losses.shape == (40,)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(losses, losses_again)
    np.testing.assert_array_equal(model(VECTORS).codes, again(VECTORS).codes)
    other = fit_rqvae(VECTORS, SETTINGS, seed=4)[1]
    assert not np.array_equal(losses, other)


def test_nothing_to_fit_on_is_said():
    with pytest.raises(GplanError, match="no vectors"):
        fit_rqvae(np.zeros((0, 6), np.float32), SETTINGS)
