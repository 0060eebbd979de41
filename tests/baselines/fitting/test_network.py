"""The training loop of the networks among the baselines."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.fitting.network import (
    FitSettings,
    batches_of,
    count_parameters,
    fit_network,
    learning_rate,
)
from gplan_jax.foundation import GplanError

SETTINGS = FitSettings(epochs=40, patience=40, batch_size=8, learning_rate=0.05, warmup_steps=3)
TRACES: list[bool] = []


class Toy(nnx.Module):
    """A line, and a count of the training rows it saw, as other state than weights."""

    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.line = nnx.Linear(3, 1, rngs=rngs)
        self.seen = nnx.Variable(jnp.zeros(()))


def squared_error(
    model: Any, batch: dict[str, jax.Array], key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    TRACES.append(train)
    errors_B = (model.line(batch["x"])[:, 0] - batch["y"]) ** 2 * batch["weight"]
    if train:
        model.seen[...] += batch["weight"].sum()
    return errors_B.sum(), batch["weight"].sum()


def rows(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3).astype(np.float32)}


def weights(model: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(nnx.state(model))])


def test_it_learns_a_line_and_tells_how() -> None:
    model, curve = fit_network(Toy(0), squared_error, rows(30), rows(9, 1), SETTINGS, 0)
    np.testing.assert_allclose(model.line.kernel[:, 0], [1.0, -2.0, 0.5], atol=0.02)
    assert [row["epoch"] for row in curve] == list(range(1, 41))
    assert curve[-1]["loss"] < 1e-3 < curve[0]["loss"]
    # The best epoch may be an earlier one; each saw all 30 rows once, fillers counted for nothing.
    assert model.seen[...] % 30 == 0 and count_parameters(model) == 4


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    fits = [
        fit_network(Toy(0), squared_error, rows(30), None, SETTINGS, seed)[0] for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(weights(fits[0]), weights(fits[1]))
    assert not np.array_equal(weights(fits[0]), weights(fits[2]))


def test_the_given_model_stays_as_it_is() -> None:
    model = Toy(0)
    fit_network(model, squared_error, rows(30), None, SETTINGS, 0)
    np.testing.assert_array_equal(weights(model), weights(Toy(0)))


def test_rows_that_fill_a_batch_change_nothing() -> None:
    """All rows in one batch: its order doesn't matter, so only the fillers could differ."""
    train = rows(5)
    exact = SETTINGS.model_copy(update={"batch_size": 5, "epochs": 10})
    filled = SETTINGS.model_copy(update={"batch_size": 8, "epochs": 10})
    first, first_curve = fit_network(Toy(0), squared_error, train, train, exact, 0)
    second, second_curve = fit_network(Toy(0), squared_error, train, train, filled, 0)
    np.testing.assert_allclose(weights(first), weights(second), rtol=1e-5)
    for a, b in zip(first_curve, second_curve, strict=True):
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-5)


def test_a_second_fit_of_the_same_structure_compiles_nothing() -> None:
    fit_network(Toy(0), squared_error, rows(30), rows(9), SETTINGS, 0)
    traced = len(TRACES)
    other = SETTINGS.model_copy(update={"learning_rate": 0.01, "weight_decay": 0.5, "epochs": 2})
    fit_network(Toy(5), squared_error, rows(21), rows(4), other, 3)
    assert len(TRACES) == traced
    fit_network(
        Toy(5), squared_error, rows(21), None, other.model_copy(update={"batch_size": 4}), 3
    )
    assert TRACES[traced:] == [True]


def diverging(
    model: Any, batch: dict[str, jax.Array], key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    """Training pulls the weight up by about the rate; validation is best where it is 0.3."""
    weight = model.line.kernel[0, 0]
    return (-weight if train else (weight - 0.3) ** 2), jnp.ones(())


def test_early_stopping_keeps_the_best_weights() -> None:
    model = Toy(0)
    model.line.kernel[...] = jnp.zeros((3, 1))
    settings = FitSettings(
        epochs=30, patience=3, batch_size=8, learning_rate=0.1, weight_decay=0, warmup_steps=0
    )
    best, curve = fit_network(model, diverging, rows(8), rows(8), settings, 0)
    assert [round(row["validation_loss"], 4) for row in curve] == [0.04, 0.01, 0, 0.01, 0.04, 0.09]
    assert best.line.kernel[0, 0] == pytest.approx(0.3, abs=1e-4)
    last, curve = fit_network(model, diverging, rows(8), None, settings, 0)
    assert len(curve) == 30 and last.line.kernel[0, 0] == pytest.approx(3.0, abs=1e-3)
    assert {row["validation_loss"] for row in curve} == {None}


def test_stopping_after_an_epoch_gives_the_weights_that_early_stopping_keeps() -> None:
    """On a cosine, too: the rates of the epochs before the end stay what they were."""
    settings = SETTINGS.model_copy(update={"schedule": "cosine", "epochs": 8, "patience": 8})
    model = Toy(0)
    model.line.kernel[...] = jnp.zeros((3, 1))
    kept, curve = fit_network(model, diverging, rows(30), rows(9), settings, 5)
    best = min(curve, key=lambda row: row["validation_loss"])["epoch"]
    assert 1 < best < 8
    stopped = settings.model_copy(update={"stop_after": best})
    again, short = fit_network(model, diverging, rows(30), None, stopped, 5)
    assert len(short) == best
    np.testing.assert_array_equal(weights(kept), weights(again))


def test_the_number_of_steps_is_bounded() -> None:
    settings = SETTINGS.model_copy(update={"max_steps": 7})
    model, curve = fit_network(Toy(0), squared_error, rows(32), None, settings, 0)
    assert len(curve) == 2 and model.seen[...] == 7 * 8


def test_the_rate_rises_and_then_stays_or_falls() -> None:
    constant = FitSettings(learning_rate=1.0, warmup_steps=4)
    cosine = constant.model_copy(update={"schedule": "cosine"})
    rates = [learning_rate(constant, step, 12) for step in range(12)]
    assert rates == [0.25, 0.5, 0.75, 1.0] + [1.0] * 8
    falling = [learning_rate(cosine, step, 12) for step in range(13)]
    assert falling[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert falling[8] == pytest.approx(0.5) and falling[12] == pytest.approx(0)


def test_batches_cover_every_row_once_in_order() -> None:
    batches = list(batches_of({"x": np.arange(7)}, 3))
    assert [count for _, count in batches] == [3, 3, 1]
    assert [batch["x"].tolist() for batch, _ in batches] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert batches[-1][0]["weight"].tolist() == [1, 0, 0]


def not_finite(model: Any, batch: dict[str, jax.Array], key: jax.Array, train: bool) -> Any:
    return model.line.kernel.sum() * jnp.nan, jnp.ones(())


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(GplanError, match="no training rows"):
        fit_network(Toy(0), squared_error, rows(0), None, SETTINGS, 0)
    uneven = rows(4) | {"y": np.zeros(3, np.float32)}
    with pytest.raises(GplanError, match="'x': 4, 'y': 3"):
        fit_network(Toy(0), squared_error, uneven, None, SETTINGS, 0)
    with pytest.raises(GplanError, match=r"not finite after epoch 1 .*lower learning_rate"):
        fit_network(Toy(0), not_finite, rows(4), None, SETTINGS, 0)
