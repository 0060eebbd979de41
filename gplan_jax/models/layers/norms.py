"""Pure layer functions whose arithmetic stays in float32: RMS norm and rotary embedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Computes x / sqrt(mean(x^2) + eps) * scale over the last axis, in float32, in x's dtype."""
    x_f32 = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x_f32), axis=-1, keepdims=True) + eps)
    return (x_f32 * inverse * scale.astype(jnp.float32)).astype(x.dtype)


def rotation(positions_BxS: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Returns cos and sin of the rotary angles, float32 [B, S, head_dim / 2].

    Pair i of a head turns by position * theta^(-2 i / head_dim).
    """
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles_BxSxP = positions_BxS.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles_BxSxP), jnp.sin(angles_BxSxP)


def rotate(x_BxSxNxH: jax.Array, cos_sin: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns each head's pairs (i, i + H/2) by the angles of ``rotation``, in float32."""
    cos, sin = (part[:, :, None, :] for part in cos_sin)
    first, second = jnp.split(x_BxSxNxH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
    return turned.astype(x_BxSxNxH.dtype)
