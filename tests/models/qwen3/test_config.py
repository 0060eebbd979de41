"""Reading shapes from config.json: both places of rope_theta, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import Qwen3Config


@pytest.fixture
def values(config: Qwen3Config) -> dict[str, object]:
    return config.to_hf()


def test_round_trip(any_config: Qwen3Config) -> None:
    assert Qwen3Config.from_hf(any_config.to_hf()) == any_config


def test_golden_configs_are_read(shared: Path) -> None:
    path = shared / "golden" / "qwen3_untied" / "config.json"
    config = Qwen3Config.from_hf(json.loads(path.read_text()))
    assert (config.num_key_value_heads, config.tie_word_embeddings) == (1, False)
    assert (config.head_dim, config.rope_theta) == (16, 1e6)


def test_rope_theta_at_top_level(values: dict[str, object]) -> None:
    del values["rope_parameters"]
    assert Qwen3Config.from_hf(values | {"rope_theta": 12345}).rope_theta == 12345.0
    assert Qwen3Config.from_hf(values | {"rope_theta": 7, "rope_scaling": None}).rope_theta == 7.0


def test_absent_head_dim_means_128_not_hidden_over_heads(values: dict[str, object]) -> None:
    del values["head_dim"]
    assert Qwen3Config.from_hf(values).head_dim == 128


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "sliding"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
        # As the model card says to add it, beside what transformers 5 has written.
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling: rope type 'yarn'"),
        ({"rope_scaling": {"rope_type": "default", "type": "yarn"}}, "yarn"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "fp8-quantised weights",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq-quantised"),
        ({"rope_parameters": None}, "rope_theta: missing"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"head_dim": 7}, "even"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    values: dict[str, object], change: dict[str, object], message: str
) -> None:
    with pytest.raises(GplanError, match=message):
        Qwen3Config.from_hf(values | change)


def test_all_faults_are_in_one_message(values: dict[str, object]) -> None:
    del values["hidden_size"], values["vocab_size"]
    with pytest.raises(GplanError, match=r"some\.json") as error:
        Qwen3Config.from_hf(values | {"attention_bias": True}, source="some.json")
    for key in ("hidden_size", "vocab_size", "attention_bias"):
        assert key in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "32"),
        ("num_key_value_heads", 0),
        ("vocab_size", 2.5),
        ("num_hidden_layers", True),
        ("tie_word_embeddings", "no"),
        ("rms_norm_eps", [1e-6]),
    ],
)
def test_values_of_another_type_are_named(
    key: str, value: object, values: dict[str, object]
) -> None:
    with pytest.raises(GplanError, match=f"{key}: .*, expected"):
        Qwen3Config.from_hf(values | {key: value})


def test_a_config_that_is_no_object() -> None:
    with pytest.raises(GplanError, match=r"here/config\.json is not a JSON object"):
        Qwen3Config.from_hf([], source="here/config.json")  # type: ignore[arg-type]
