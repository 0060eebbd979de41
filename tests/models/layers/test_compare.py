"""When a computation counts as right, and when not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplan_jax.models.attention.check import Comparison, compare, rounding

X, W = (np.random.default_rng(seed).normal(size=(32, 32)).astype(np.float32) for seed in (0, 1))


def product(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.matmul(*operands)


def low(*arrays: np.ndarray) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(x, jnp.bfloat16) for x in arrays)


def test_the_reference_itself_is_exact() -> None:
    found = compare(product, product, (X, W), unit=2.0**-20)
    assert found.right and found.error == 0 and found.gradient and found.gradient[0] == 0


@pytest.mark.parametrize("size", [32, 512])
def test_products_in_bfloat16_are_within_their_rounding(size: int) -> None:
    rng = np.random.default_rng(2)
    operands = low(*rng.normal(size=(2, size, size)))
    unit = rounding(jnp.bfloat16, "cpu")
    found = compare(product, product, operands, unit=unit)
    assert found.right and 0 < found.error < found.bound
    # Sums of independent errors of up to u: far below n u, above u.
    assert unit < found.bound < 10 * unit


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_a_tenth_too_little_or_too_much_is_wrong(share: float) -> None:
    unit = rounding(jnp.bfloat16, "cpu")
    assert not compare(lambda x: share * product(x), product, low(X, W), unit=unit).right


def test_a_wrong_gradient_alone_is_wrong() -> None:
    @jax.custom_vjp
    def call(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        return product(operands)

    call.defvjp(lambda o: (product(o), o), lambda o, d: ((d @ o[1].T, d @ o[0]),))
    found = compare(call, product, (X, W), unit=2.0**-20)
    assert found.error <= found.bound and not found.right
    assert compare(call, product, (X, W), unit=2.0**-20, gradient=False).right


def test_what_is_no_number_is_wrong() -> None:
    assert not Comparison(float("nan"), 1.0).right
    assert not Comparison(0.0, 1.0, (float("nan"), 1.0)).right
    found = compare(lambda x: product(x) * jnp.nan, product, (X, W), unit=1.0)
    assert not found.right and "nan" in str(found)


@pytest.mark.parametrize(
    ("dtype", "platform", "expected"),
    [
        (jnp.bfloat16, "cpu", 2.0**-8),
        (jnp.float16, "gpu", 2.0**-11),
        (jnp.float32, "gpu", 2.0**-11),  # TensorFloat-32
        (jnp.float32, "tpu", 2.0**-8),  # one bfloat16 pass
        (jnp.float32, "cpu", 2.0**-20),
    ],
)
def test_what_a_product_rounds_its_operands_to(dtype: type, platform: str, expected: float) -> None:
    assert rounding(dtype, platform) == expected
    if dtype == jnp.float32:
        with jax.default_matmul_precision("highest"):
            assert rounding(dtype, platform) == 2.0**-20
