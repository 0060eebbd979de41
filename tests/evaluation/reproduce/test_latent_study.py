"""Interventions on latents against whole sequences written out, and probes on made-up states."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.evaluation.reproduce.latent_study import (
    LatentRows,
    donors,
    first_layers,
    interventions,
    token_accuracies,
)
from gplan_jax.models import Qwen3, Qwen3Config

CONFIG = Qwen3Config(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    initializer_range=0.5,  # so that tokens matter
)
HEADS, LATENTS, ANSWER = [5, 5, 7, 4], [3, 3, 3, 2], 2
CLOSE = 1


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(CONFIG, rngs=nnx.Rngs(0))


def greedy(model: Qwen3, ids: list[int], count: int) -> list[int]:
    """The next tokens, one whole forward pass each."""
    found: list[int] = []
    for _ in range(count):
        logits = model(jnp.array([[*ids, *found]]))
        found.append(int(jnp.argmax(logits[0, -1])))
    return found


@pytest.fixture(scope="module")
def rows(model: Qwen3) -> LatentRows:
    """Rows whose answers are what the model itself says; the first two prompts are the same."""
    rng = np.random.default_rng(1)
    heads = [rng.integers(8, 24, n).tolist() for n in HEADS]
    heads[1] = heads[0]
    latents = [list(range(2, 2 + n)) for n in LATENTS]
    parts = list(zip(heads, latents, strict=True))
    rests = [[CLOSE, *greedy(model, [*h, *z, CLOSE], ANSWER)] for h, z in parts]

    def pad(lists: list[list[int]]) -> np.ndarray:
        width = max(map(len, lists))
        return np.array([[*row, *[0] * (width - len(row))] for row in lists], np.int32)

    def lengths(lists: list[list[int]]) -> np.ndarray:
        return np.array([len(row) for row in lists], np.int32)

    return LatentRows(
        pad(heads), lengths(heads), pad(latents), lengths(latents), pad(rests), lengths(rests),
        np.array([[False, True, True]] * len(rests)), ((),) * len(rests),
    )  # fmt: skip


def parts_of(rows: LatentRows, row: int) -> tuple[list[int], list[int], list[int]]:
    head = rows.head_NxP[row, : rows.head_lengths_N[row]].tolist()
    latents = rows.latents_NxH[row, : rows.latent_lengths_N[row]].tolist()
    return head, latents, rows.rest_NxR[row].tolist()


def test_answers_are_right_where_greedy_decoding_gives_them(model: Qwen3, rows: LatentRows) -> None:
    found = interventions(model, rows, seed=0)
    assert found["as trained"].all()
    for row in range(len(HEADS)):
        head, latents, rest = parts_of(rows, row)
        for name, changed in (("dropped", []), ("one token", latents[:1] * len(latents))):
            told = greedy(model, [*head, *changed, CLOSE], ANSWER)
            assert found[name][row] == (told == rest[1:]), name


def test_a_transplant_from_an_equal_row_changes_nothing(model: Qwen3, rows: LatentRows) -> None:
    donors_N = donors(rows, np.random.default_rng(0))
    assert donors_N.tolist() == [1, 0, 2, 3]  # the others have nobody of their shape
    assert interventions(model, rows, seed=0)["transplanted"].all()


def test_wrong_answers_stay_wrong(model: Qwen3, rows: LatentRows) -> None:
    other = rows.rest_NxR.copy()
    other[2, 2] = (other[2, 2] + 1) % CONFIG.vocab_size
    wrong = dataclasses.replace(rows, rest_NxR=other)
    assert interventions(model, wrong, seed=0)["as trained"].tolist() == [True, True, False, True]


def test_a_model_cut_down_has_the_first_layers_of_the_whole(model: Qwen3) -> None:
    ids = jnp.arange(6)[None]
    np.testing.assert_array_equal(first_layers(model, 2)(ids), model(ids))
    cut = first_layers(model, 1)
    alone = Qwen3(dataclasses.replace(CONFIG, num_hidden_layers=1), rngs=nnx.Rngs(5))
    state = nnx.to_pure_dict(nnx.state(model))
    state["layers"] = jax.tree.map(lambda array: array[:1], state["layers"])
    target = nnx.state(alone)
    nnx.replace_by_pure_dict(target, state)
    nnx.update(alone, target)
    np.testing.assert_array_equal(cut(ids), alone(ids))
    assert model.config.num_hidden_layers == 2


def test_probes_read_what_is_there_and_only_that() -> None:
    rng = np.random.default_rng(0)
    token_N = rng.integers(0, 4, 400)
    holds_NxD = np.eye(4)[token_N] + rng.normal(0, 0.1, (400, 4))
    lens_NxK = np.stack([rng.integers(0, 4, 400), token_N], axis=1)
    told = token_accuracies(holds_NxD, lens_NxK, token_N)
    assert told["probe"] == 1.0 and told["lens"] == 1.0
    assert 0.15 < told["frequency"] < 0.4 and 0.3 < told["lens_other"] < 0.6
    empty = token_accuracies(rng.normal(0, 1, (400, 4)), lens_NxK, token_N)
    assert empty["probe"] < 0.4
