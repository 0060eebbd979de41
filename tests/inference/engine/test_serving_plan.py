"""Serving plans against the arrays of a real engine, and by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.inference.engine.decoder_setup import build_decoder, build_prompter, load_parts
from gplan_jax.inference.engine.programs import program_calls
from gplan_jax.inference.engine.requests import EngineConfig
from gplan_jax.inference.engine.serving_plan import ServingPlan, describe_serving, plan_serving
from gplan_jax.models import read_config
from gplan_jax.training.memory.abstract_step import QWEN3_SHAPES
from gplan_jax.training.memory.topologies import CHIPS, parse_topology

SETTINGS = {"response": "plan", "slots": 3, "prefix_cache_mib": 1}


def plan_of(model_dir: Path, topology: str, **options: Any) -> ServingPlan:
    options = {"shape": read_config(model_dir), "service": "amap"} | options
    settings = SETTINGS | options.pop("settings", {})
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return plan_serving(model_dir, overrides, parse_topology(topology), **options)


@pytest.mark.parametrize(
    ("mode", "weights"), [("drafted", "int8"), ("drafted", "bf16"), ("unconstrained", "fp8")]
)
def test_sizes_are_those_of_a_real_engines_arrays(
    tiny_model_dir: Path, mode: str, weights: str
) -> None:
    if weights != "bf16":
        pytest.importorskip("qwix")
    settings = {"mode": mode, "weights": weights}
    plan = plan_of(tiny_model_dir, "h100", settings=settings)
    config = EngineConfig.model_validate(SETTINGS | settings)
    parts = load_parts(tiny_model_dir, config, service="amap")
    prompter = build_prompter(parts.task, parts.encoder, config)
    programs = build_decoder(parts, config, prompter, ahead=False).programs
    assert plan.shapes == programs.shapes or mode == "unconstrained"
    served, cache = programs._served, programs._cache

    def held(tree: Any) -> int:
        return sum(array.nbytes for array in jax.tree.leaves(tree))

    assert plan.weights == held(served.params)
    assert plan.slots == held(cache)
    assert plan.tables == held((served.system, served.head_RxD, served.table))
    calls = program_calls(served, cache, plan.shapes, pages=True)
    assert plan.programs == len(calls)


def test_compiled_here_it_costs_what_the_shapes_say(tiny_model_dir: Path) -> None:
    """The least work, from shapes, against that of programs compiled for this machine."""
    least, compiled = (plan_of(tiny_model_dir, name) for name in ("h100", "local"))
    assert compiled.compiled and not least.compiled
    for ours, theirs in zip(least.planned, compiled.planned, strict=True):
        assert ours.name == theirs.name
        assert theirs.costs.flops == pytest.approx(ours.costs.flops, rel=0.15)
        assert theirs.costs.hbm_bytes > ours.costs.hbm_bytes * 0.5
    assert compiled.planned[0].temporaries > 0
    assert "fits: unknown; a device needs" in describe_serving(compiled)


def test_a_plan_by_hand(tiny_model_dir: Path) -> None:
    shape = QWEN3_SHAPES["qwen3-1.7b"]
    settings = {"compute_dtype": "bfloat16", "slots": 8, "prefix_cache_mib": 256}
    options: dict[str, Any] = {"shape": shape, "system": 761, "longest": 1888}
    plan = plan_of(tiny_model_dir, "h100", settings=settings, **options)
    # 28 layers of 2 x 8 heads of 128 numbers in two bytes a token.
    assert plan.slots == 8 * plan.shapes.places * 28 * 2 * 8 * 128 * 2
    assert plan.weights == 2 * 1_720_574_976
    prefill, _, one, many = (p.limits.seconds for p in plan.planned if p.limits)
    assert plan.speed() == pytest.approx((prefill + 3.4 * one, 8 / (8 * prefill + 3.4 * many)))
    # A pass reads all weights but the embedding, and its rows' slots.
    read = plan.weights - 2 * shape.vocab_size * 2048 + plan.slots
    assert many > read / CHIPS["h100"].bandwidth
    text = describe_serving(plan)
    assert "ESTIMATE" in text and "fits: yes (estimate)" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topology": "h100:8"}, "has 8 devices, and an engine uses one"),
        ({"longest": 40, "system": 50}, "has no room beside 50"),
        ({"settings": {"slot": 4}}, r"slot: unknown key; did you mean slots\?"),
        ({"settings": {"response": "null"}}, "does not say what its responses hold"),
    ],
)
def test_what_no_engine_could_do_is_refused(
    tiny_model_dir: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(GplanError, match=message):
        plan_of(tiny_model_dir, options.pop("topology", "h100"), **options)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("topology", ["v5e:1x1", "v6e:1x1"])
def test_the_programs_compile_for_tpus(tiny_model_dir: Path, topology: str) -> None:
    plan = plan_of(tiny_model_dir, topology, settings={"compute_dtype": "bfloat16"})
    assert plan.compiled and plan.fits and plan.speed()[1] > 0
    assert all(one.code > 0 for one in plan.planned)
