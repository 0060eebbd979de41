"""Greedy decoding: golden tokens, agreement with full forward passes, no recompiling."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine import decoding
from gplan_jax.inference.engine.decoding import GreedyDecoder
from gplan_jax.models import Qwen3, Qwen3Config, load_qwen3

CONFIG = Qwen3Config(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
    max_position_embeddings=128,
    initializer_range=0.4,
)
NO_TOKEN = -1  # never produced: rows run to max_new_tokens


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return make_model(7)


def make_model(seed: int) -> Qwen3:
    # This generator compiles in a fraction of the default one's time.
    return Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(seed, impl="rbg")))


def make_decoder(model: Qwen3, end_id: int = NO_TOKEN, **changes: object) -> GreedyDecoder:
    settings = dict(pad_id=0, max_new_tokens=6, length_buckets=(16, 4), batch_size=3)
    return GreedyDecoder(model, end_id=end_id, **(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    lengths = (9, 1, 4, 16, 3, 5, 2)
    return [rng.integers(1, CONFIG.vocab_size, size=n).tolist() for n in lengths]


@pytest.fixture(scope="module")
def reference(model: Qwen3, prompts: list[list[int]]) -> list[list[int]]:
    """Each prompt alone, without padding or cache: a full forward pass for every token."""
    forward = jax.jit(lambda ids: model(ids))
    answers = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            padded = jnp.asarray([ids + [0] * (24 - len(ids))])
            ids.append(int(forward(padded)[0, len(ids) - 1].argmax()))
        answers.append(ids[len(prompt) :])
    return answers


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied"])
def test_golden_greedy_tokens(shared: Path, name: str) -> None:
    checkpoint = shared / "golden" / name
    expected = np.load(checkpoint / "expected.npz")
    prompt = expected["greedy_prompt"][0].tolist()
    decoder = GreedyDecoder(
        load_qwen3(checkpoint),
        end_id=301,
        pad_id=300,
        max_new_tokens=20,
        length_buckets=(16,),
        batch_size=2,
    )
    # The second prompt shares the batch and must not change the first one's answer.
    answers = decoder.decode([prompt, prompt[:5]])
    assert answers[0] == expected["greedy_tokens"].tolist()


def test_padded_cached_batches_equal_full_forward_passes(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]]
) -> None:
    finished: list[int] = []
    assert make_decoder(model).decode(prompts, on_rows=finished.append) == reference
    assert sum(finished) == len(prompts)
    assert max(finished) == 3  # the batch size: rows of one bucket are batched together


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_row_stops_before_its_end_token_and_others_go_on(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]], step: int
) -> None:
    end = reference[0][step]
    expected = [row[: row.index(end)] if end in row else row for row in reference]
    assert make_decoder(model, end_id=end).decode(prompts) == expected


def test_answers_that_contain_the_pad_token_are_kept_whole(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]]
) -> None:
    pad = reference[0][0]
    assert make_decoder(model, pad_id=pad).decode(prompts[:1]) == reference[:1]


def test_the_loop_stops_when_all_rows_are_done(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]], monkeypatch: object
) -> None:
    """Dummy rows never emit an end token; they must not keep the loop going."""
    steps = []
    original = Qwen3.hidden_with_cache

    def counted(self: Qwen3, ids: jax.Array, *rest: object) -> object:
        if ids.shape[1] == 1:
            jax.debug.callback(lambda: steps.append(1))
        return original(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Qwen3, "hidden_with_cache", counted)  # type: ignore[attr-defined]
    end = reference[0][2]
    first = reference[0].index(end)
    decoder = make_decoder(model, end_id=end, max_new_tokens=40, batch_size=5)
    assert decoder.decode(prompts[:1]) == [reference[0][:first]]
    jax.effects_barrier()
    assert len(steps) == first


def test_one_program_a_bucket_whatever_the_requests_and_weights(
    model: Qwen3, prompts: list[list[int]]
) -> None:
    settings = dict(max_new_tokens=3, batch_size=2)
    before = decoding._generate._cache_size()
    first = make_decoder(model, **settings)
    short_answers = first.decode([[5], [5, 6]])
    assert decoding._generate._cache_size() == before + 1  # one bucket met so far
    first.decode(prompts)
    first.decode(prompts[::-1][:4])
    other = make_decoder(make_model(8), **settings)
    assert other.decode([[5], [5, 6]]) != short_answers
    assert decoding._generate._cache_size() == before + 2


def test_no_prompts_give_no_answers(model: Qwen3) -> None:
    assert make_decoder(model).decode([]) == []


@pytest.mark.parametrize("length", [0, 17])
def test_prompts_outside_the_buckets_are_named(model: Qwen3, length: int) -> None:
    with pytest.raises(GplanError, match=f"Prompt 1 has {length} tokens.*1 to 16"):
        make_decoder(model).decode([[1], [1] * length])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length_buckets": ()}, "positive"),
        ({"max_new_tokens": 0}, "positive"),
        ({"batch_size": 0}, "positive"),
        ({"length_buckets": (120,), "max_new_tokens": 9}, "128 positions"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    model: Qwen3, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(GplanError, match=message):
        make_decoder(model, **changes)
