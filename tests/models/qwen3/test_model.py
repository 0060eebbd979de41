"""The model against golden logits, against itself written out, and against its own cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.models import Qwen3, Qwen3Config, load_qwen3
from gplan_jax.models.checkpoints.hugging_face import checkpoint_tensors
from gplan_jax.models.checkpoints.model_directory import model_parameters

IDS = np.random.default_rng(3).integers(0, 40, size=(2, 9))


@pytest.fixture(scope="module")
def tensors(any_config: Qwen3Config, random_tensors: Callable) -> dict[str, np.ndarray]:
    return random_tensors(any_config)


@pytest.fixture(scope="module")
def checkpoint(
    any_config: Qwen3Config,
    tensors: dict[str, np.ndarray],
    write_checkpoint: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("hf") / "model", any_config, tensors)


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied"])
def test_golden_logits(shared: Path, name: str) -> None:
    expected = np.load(shared / "golden" / name / "expected.npz")
    model = load_qwen3(shared / "golden" / name)
    logits = jax.jit(lambda ids, mask: model(ids, mask))(
        expected["input_ids"], expected["attention_mask"]
    )
    real = expected["attention_mask"].astype(bool)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[real], expected["logits"][real], rtol=0, atol=3e-5)


def test_logits_equal_the_written_out_model(
    checkpoint: Path,
    any_config: Qwen3Config,
    tensors: dict[str, np.ndarray],
    reference_logits: Callable,
) -> None:
    expected = jax.jit(lambda t: reference_logits(t, any_config, IDS))(tensors)
    np.testing.assert_allclose(jax.jit(load_qwen3(checkpoint))(IDS), expected, atol=2e-5)


def loss(logits: jax.Array) -> jax.Array:
    return -jax.nn.log_softmax(logits[:, :-1])[:, jnp.arange(8), IDS[:, 1:]].mean()


@pytest.fixture(scope="module")
def written_out_gradients(
    any_config: Qwen3Config, tensors: dict[str, np.ndarray], reference_logits: Callable
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of the written-out model, and its gradients by the tensors' names."""
    return jax.jit(jax.value_and_grad(lambda t: loss(reference_logits(t, any_config, IDS))))(
        {name: jnp.asarray(tensor) for name, tensor in tensors.items()}
    )


@pytest.mark.parametrize("remat", ["none", "full", "dots", "offload"])
def test_gradients_through_the_scan_equal_the_written_out_model(
    checkpoint: Path,
    any_config: Qwen3Config,
    written_out_gradients: tuple[jax.Array, dict[str, jax.Array]],
    remat: str,
) -> None:
    model = load_qwen3(checkpoint, remat=remat)  # type: ignore[arg-type]
    graphdef, params = nnx.split(model, nnx.Param)
    value_and_grad = jax.jit(jax.value_and_grad(lambda p: loss(nnx.merge(graphdef, p)(IDS))))
    value, gradients = value_and_grad(params)
    expected_value, expected = written_out_gradients
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    # The mapping's own inverse puts the gradients under the checkpoint's names.
    nnx.update(model, gradients)
    parts = model_parameters(model)
    found = checkpoint_tensors(
        lambda path: np.asarray(parts[path]),
        {path: np.dtype(np.float32) for path in parts},
        any_config,
        ships_lm_head=False,
    )
    compared = {tensor.name: tensor.values() for tensor in found}
    assert compared.keys() == expected.keys()
    for name, gradient in compared.items():
        np.testing.assert_allclose(gradient, expected[name], atol=2e-6, err_msg=name)


def test_padding_on_the_right_changes_nothing(checkpoint: Path) -> None:
    model = jax.jit(load_qwen3(checkpoint))
    mask = np.ones_like(IDS)
    mask[1, 5:] = 0
    padded = model(np.where(mask, IDS, 39), mask)
    np.testing.assert_allclose(padded[0], model(IDS[:1])[0], atol=1e-5)
    np.testing.assert_allclose(padded[1, :5], model(IDS[1:, :5])[0], atol=1e-5)


def test_a_mask_of_another_shape_is_refused_rather_than_broadcast(config: Qwen3Config) -> None:
    model = nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0)))
    with pytest.raises(AssertionError, match=r"\(1, 9\)"):
        jax.eval_shape(model, IDS, np.ones((1, 9), np.int32))


def test_logits_depend_on_relative_positions_only(checkpoint: Path) -> None:
    model = load_qwen3(checkpoint)
    hidden = jax.jit(lambda positions: model.hidden(IDS, positions_BxS=positions))
    plain, positions = jax.jit(model.hidden)(IDS), jnp.arange(9)[None]
    np.testing.assert_allclose(hidden(positions + 17), plain, atol=2e-5)
    assert jnp.abs(hidden(2 * positions) - plain).max() > 1e-2


def test_tokens_that_continue_kept_rows_equal_the_full_forward(checkpoint: Path) -> None:
    """Rows of lengths 6 and 3 share an array of 6; then three tokens each, one after the other."""
    model = load_qwen3(checkpoint)
    lengths = np.asarray([6, 3])
    prompts = np.where(np.arange(6) < lengths[:, None], IDS[:, :6], 0)
    run = jax.jit(lambda ids, lengths, held: model.branch(ids, lengths, held, keep=True))
    hidden, context = run(prompts, lengths, [])
    full = jax.jit(model)(IDS)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            model.logits(hidden)[row, :length], full[row, :length], atol=2e-5
        )
    held = [context]
    for t in range(3):
        positions = lengths + t
        hidden, context = run(IDS[np.arange(2), positions][:, None], np.ones(2, int), held)
        held.append(context)
        np.testing.assert_allclose(
            model.logits(hidden)[:, 0], full[np.arange(2), positions], atol=2e-5
        )


def test_a_tied_model_has_one_vocabulary_matrix(config: Qwen3Config) -> None:
    model = nnx.eval_shape(lambda: Qwen3(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert [leaf.shape for leaf in leaves].count((config.vocab_size, config.hidden_size)) == 1


def test_dtype_policy(checkpoint: Path) -> None:
    mixed = load_qwen3(checkpoint, compute_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(mixed))} == {jnp.dtype("float32")}
    hidden, logits = jax.jit(lambda ids: (mixed.hidden(ids), mixed(ids)))(IDS)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
    exact = jax.jit(load_qwen3(checkpoint))(IDS)
    assert 0 < jnp.abs(logits - exact).max() < 0.05 * jnp.abs(exact).max()


def test_layers_start_different_and_seeds_matter(config: Qwen3Config) -> None:
    def query(seed: int) -> jax.Array:
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))  # compiles quickly
        return Qwen3(config, rngs=rngs, param_dtype=jnp.bfloat16).layers.attention.query[...]

    first, second = query(0), query(1)
    assert first.dtype == jnp.bfloat16
    assert (first[0] != first[1]).mean() > 0.9
    assert (first != second).mean() > 0.9
    assert 0.015 < first.astype(jnp.float32).std() < 0.025  # config.initializer_range
