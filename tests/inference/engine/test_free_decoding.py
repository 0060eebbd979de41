"""Decoding without a grammar: golden tokens, agreement with full forward passes, no recompiling."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine import programs
from gplan_jax.inference.engine.continuous import ContinuousDecoder, Prompted, decode_all
from gplan_jax.inference.engine.programs import Programs, shapes_of
from gplan_jax.inference.engine.requests import NotFinite
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
SYSTEM = [3, 7]  # what all prompts begin with
LONGEST, NEW_TOKENS, SLOTS = 16, 6, 3


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return make_model(7)


def make_model(seed: int) -> Qwen3:
    # This generator compiles in a fraction of the default one's time.
    return Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(seed, impl="rbg")))


def make_decoder(
    model: Qwen3,
    end_id: int = NO_TOKEN,
    *,
    system: list[int] = SYSTEM,
    max_new_tokens: int = NEW_TOKENS,
    slots: int = SLOTS,
) -> ContinuousDecoder:
    shapes = shapes_of(
        prompt=LONGEST,
        tail=0,
        response=max_new_tokens,
        slots=slots,
        nodes=1,
        queries=1,
    )
    vocabulary = model.config.vocab_size
    return ContinuousDecoder(
        Programs(
            model, system, shapes, vocabulary=vocabulary, grammar=None, pages=False, ahead=False
        ),
        system=len(system),
        grammar=None,
        drafter=None,
        end_id=end_id,
        max_new_tokens=max_new_tokens,
    )


def decode(decoder: ContinuousDecoder, prompts: list[list[int]]) -> list[list[int]]:
    rows = decode_all(decoder, [Prompted(prompt) for prompt in prompts], on_row=lambda: None)
    return [row.response for row in rows]


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    lengths = (9, 1, 4, 16, 3, 5, 2)
    return [[*SYSTEM, *rng.integers(1, CONFIG.vocab_size, size=n).tolist()] for n in lengths]


@pytest.fixture(scope="module")
def reference(model: Qwen3, prompts: list[list[int]]) -> list[list[int]]:
    """Each prompt alone, without padding or cache: a full forward pass for every token."""
    forward = jax.jit(lambda ids: model(ids))
    answers = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(NEW_TOKENS):
            padded = jnp.asarray([ids + [0] * (24 - len(ids))])
            ids.append(int(forward(padded)[0, len(ids) - 1].argmax()))
        answers.append(ids[len(prompt) :])
    return answers


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied"])
def test_golden_greedy_tokens(shared: Path, name: str) -> None:
    checkpoint = shared / "golden" / name
    expected = np.load(checkpoint / "expected.npz")
    prompt = expected["greedy_prompt"][0].tolist()
    model = load_qwen3(checkpoint)
    decoder = make_decoder(model, end_id=301, system=prompt[:2], max_new_tokens=20, slots=2)
    # The second prompt shares the passes and must not change the first one's answer.
    answers = decode(decoder, [prompt, prompt[:5]])
    assert answers[0] == expected["greedy_tokens"].tolist()


def test_rows_that_share_passes_equal_full_forward_passes(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]]
) -> None:
    decoder = make_decoder(model)
    assert decode(decoder, prompts) == reference
    assert decoder.counts.rows_of_passes == {3: 2 * (NEW_TOKENS - 1), 1: NEW_TOKENS - 1}


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_row_stops_before_its_end_token_and_others_go_on(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]], step: int
) -> None:
    end = reference[0][step]
    expected = [row[: row.index(end)] if end in row else row for row in reference]
    assert decode(make_decoder(model, end_id=end), prompts) == expected


def test_passes_stop_when_all_rows_are_done(
    model: Qwen3, prompts: list[list[int]], reference: list[list[int]]
) -> None:
    """Slots that nobody holds don't keep the loop going."""
    end = reference[0][2]
    first = reference[0].index(end)
    decoder = make_decoder(model, end_id=end, max_new_tokens=40, slots=5)
    assert decode(decoder, prompts[:1]) == [reference[0][:first]]
    assert decoder.counts.passes == 1 + first  # a prefill, and one for each token after the first


def test_one_program_a_shape_whatever_the_requests_and_weights(
    model: Qwen3, prompts: list[list[int]]
) -> None:
    def compiled() -> list[int]:
        return [function._cache_size() for function in (programs._PREFILL, programs._VERIFY)]

    before = compiled()
    first = make_decoder(model, slots=1, max_new_tokens=5)
    answers = decode(first, prompts)
    decode(first, prompts[::-1][:4])
    other = make_decoder(make_model(8), slots=1, max_new_tokens=5)
    assert decode(other, prompts) != answers
    assert compiled() == [count + 1 for count in before]


def test_no_prompts_give_no_answers(model: Qwen3) -> None:
    assert decode(make_decoder(model), []) == []


@pytest.mark.parametrize("length", [0, 65])
def test_prompts_outside_the_buckets_are_named(model: Qwen3, length: int) -> None:
    with pytest.raises(GplanError, match=f"prompt of {length} tokens.*1 to 64"):
        decode(make_decoder(model), [[*SYSTEM, 1], [*SYSTEM, *[1] * length]])


def test_more_positions_than_the_model_has_are_refused(model: Qwen3) -> None:
    with pytest.raises(GplanError, match="model's 128 positions"):
        make_decoder(model, max_new_tokens=120)


def test_logits_that_are_not_finite_are_no_tokens(prompts: list[list[int]]) -> None:
    broken = make_model(7)
    broken.final_norm.set_value(broken.final_norm[...].at[0].set(jnp.nan))
    with pytest.raises(NotFinite, match="NaN or infinite"):
        decode(make_decoder(broken), prompts)
