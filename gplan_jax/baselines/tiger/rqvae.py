"""A residual-quantised VAE: a vector becomes L codes, each nearest to what the ones before left.

    r_0 = encoder(x);  c_l = argmin_k |r_l - e_lk|;  r_l+1 = r_l - e_l,c_l;  q = sum_l e_l,c_l
    loss = |x - decoder(q)|^2 + sum_l |sg(r_l) - e_l,c_l|^2 + beta |r_l - sg(e_l,c_l)|^2

(Rajput et al. 2023, TIGER, section 3.1; Zeghidour et al. 2021, SoundStream; with one level it is
the VQ-VAE of van den Oord et al. 2017.) Gradients of the reconstruction pass q as if it were r_0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from pydantic import Field

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import load_extra


class RqVaeSettings(Config):
    """Sizes and training of the RQ-VAE; a library's intents are few, so a step sees all of them."""

    levels: int = Field(3, ge=1)  # L
    codes: int = Field(8, ge=1)  # K, of each level
    hidden: int = Field(64, ge=1)  # width of the one hidden layer of encoder and decoder
    latent: int = Field(16, ge=1)  # width of the encoding
    commitment: float = Field(0.25, ge=0)  # beta
    steps: int = Field(600, ge=0)  # of Adam
    learning_rate: float = Field(3e-3, gt=0)
    reseed_every: int = Field(20, ge=1)  # steps; none in their last quarter


class Quantized(NamedTuple):
    """Codes of N encodings."""

    codes: jax.Array  # their numbers [N, L]
    vectors: jax.Array  # their vectors [N, L, D]
    residuals: jax.Array  # what each level was given [N, L, D]
    rest: jax.Array  # what the last one left [N, D]


def quantize(codebooks_LxKxD: jax.Array, encoded_NxD: jax.Array) -> Quantized:
    """Each level takes the code nearest to the residual; the first one where several are."""

    def level(rest_NxD: jax.Array, codebook_KxD: jax.Array) -> tuple[jax.Array, tuple]:
        apart = rest_NxD[:, None, :] - codebook_KxD
        codes = jnp.argmin(jnp.sum(jnp.square(apart), axis=-1), axis=-1)
        chosen = codebook_KxD[codes]
        return rest_NxD - chosen, (codes, chosen, rest_NxD)

    rest, (codes, vectors, residuals) = jax.lax.scan(level, encoded_NxD, codebooks_LxKxD)
    return Quantized(codes.T, vectors.swapaxes(0, 1), residuals.swapaxes(0, 1), rest)


def straight_through(encoded: jax.Array, quantized: jax.Array) -> jax.Array:
    """``quantized`` in value, ``encoded`` in gradient (Bengio et al. 2013)."""
    return encoded + jax.lax.stop_gradient(quantized - encoded)


class CodeMlp(nnx.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, widths: Sequence[int], rngs: nnx.Rngs) -> None:
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairs])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class RqVae(nnx.Module):
    """Encoder, L codebooks [L, K, D] and decoder."""

    def __init__(self, inputs: int, settings: RqVaeSettings, rngs: nnx.Rngs) -> None:
        widths = (inputs, settings.hidden, settings.latent)
        self.encoder = CodeMlp(widths, rngs)
        self.decoder = CodeMlp(widths[::-1], rngs)
        shape = (settings.levels, settings.codes, settings.latent)
        self.codebooks = nnx.Param(jnp.zeros(shape))

    def __call__(self, x_NxF: jax.Array) -> Quantized:
        return quantize(self.codebooks[...], self.encoder(x_NxF))


def rqvae_loss(model: RqVae, x_NxF: jax.Array, commitment: float) -> tuple[jax.Array, Quantized]:
    """The mean loss of N vectors, and their codes."""
    encoded = model.encoder(x_NxF)
    found = quantize(model.codebooks[...], encoded)
    decoded = model.decoder(straight_through(encoded, found.vectors.sum(axis=1)))
    # Gradients reach each codebook by its own term alone, not by the residuals of later levels.
    fixed = jax.lax.stop_gradient(found.vectors)
    inputs = encoded[:, None] - (jnp.cumsum(fixed, axis=1) - fixed)
    codebook = _squared(jax.lax.stop_gradient(inputs) - found.vectors)
    commit = _squared(inputs - fixed)
    return _squared(x_NxF - decoded) + codebook + commitment * commit, found


def kmeans_codebooks(encoded_NxD: np.ndarray, levels: int, codes: int, seed: int) -> np.ndarray:
    """Float32 [L, K, D]: each level's codes are the k-means centres of the residuals before it.

    Where there are fewer than K different residuals, the spare codes repeat residuals.
    """
    k_means = load_extra("sklearn.cluster", "baselines", "the start of TIGER's codebooks").KMeans
    draw = np.random.default_rng(seed)
    rest = np.asarray(encoded_NxD, np.float32)
    codebooks = []
    for level in range(levels):
        count = min(codes, len(np.unique(rest, axis=0)))
        means = k_means(count, n_init=4, random_state=seed + level).fit(rest).cluster_centers_
        spare = rest[draw.integers(len(rest), size=codes - count)]
        codebook = np.concatenate((means, spare)).astype(np.float32)
        nearest = np.square(rest[:, None] - codebook).sum(axis=-1).argmin(axis=1)
        rest = rest - codebook[nearest]
        codebooks.append(codebook)
    return np.stack(codebooks)


def fit_rqvae(
    x_NxF: np.ndarray, settings: RqVaeSettings, seed: int = 0
) -> tuple[RqVae, np.ndarray]:
    """Trains on N vectors; the model, and the loss of each step."""
    if not len(x_NxF):
        raise GplanError("There are no vectors to fit an RQ-VAE on.")
    model = RqVae(x_NxF.shape[1], settings, nnx.Rngs(seed))
    x = jnp.asarray(x_NxF, jnp.float32)
    start = kmeans_codebooks(np.asarray(model.encoder(x)), settings.levels, settings.codes, seed)
    model.codebooks[...] = jnp.asarray(start)
    graph, state = nnx.split(model)
    state, losses = _train(graph, settings, state, x, jax.random.key(seed))
    return nnx.merge(graph, state), np.asarray(losses)


@partial(jax.jit, static_argnums=(0, 1))
def _train(
    graph: nnx.GraphDef, settings: RqVaeSettings, state: nnx.State, x: jax.Array, key: jax.Array
) -> tuple[nnx.State, jax.Array]:
    optimizer = optax.adam(settings.learning_rate)

    def loss_of(state: nnx.State) -> tuple[jax.Array, Quantized]:
        return rqvae_loss(nnx.merge(graph, state), x, settings.commitment)

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, jax.Array]:
        state, moments = carry
        (loss, found), gradient = jax.value_and_grad(loss_of, has_aux=True)(state)
        updates, moments = optimizer.update(gradient, moments, state)
        state = optax.apply_updates(state, updates)
        due = (number + 1) % settings.reseed_every == 0
        due &= number < settings.steps * 3 // 4
        model = nnx.merge(graph, state)
        fresh = reseeded(model.codebooks[...], found, jax.random.fold_in(key, number))
        model.codebooks[...] = jnp.where(due, fresh, model.codebooks[...])
        return (nnx.state(model), moments), loss

    carry = (state, optimizer.init(state))
    (state, _), losses = jax.lax.scan(step, carry, jnp.arange(settings.steps))
    return state, losses


def reseeded(codebooks_LxKxD: jax.Array, found: Quantized, key: jax.Array) -> jax.Array:
    """The codebooks with every code that no vector chose moved to a drawn vector's residual."""
    levels, codes, _ = codebooks_LxKxD.shape
    chosen_NxLxK = jax.nn.one_hot(found.codes, codes, dtype=jnp.bool_)
    drawn_LxK = jax.random.randint(key, (levels, codes), 0, len(found.codes))
    residuals_LxNxD = found.residuals.swapaxes(0, 1)
    fresh = jnp.take_along_axis(residuals_LxNxD, drawn_LxK[:, :, None], axis=1)
    return jnp.where(chosen_NxLxK.any(axis=0)[:, :, None], codebooks_LxKxD, fresh)


def _squared(apart: jax.Array) -> jax.Array:
    """The squared length over all axes but the first, its mean over the first."""
    return jnp.sum(jnp.square(apart)) / apart.shape[0]
