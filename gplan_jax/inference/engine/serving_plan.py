"""What an engine needs on a device that need not be here: memory, time of its passes, requests.

The programs are the engine's own (``program_calls``) with shapes for weights and cache. For TPUs
and this machine's devices they are compiled, for GPUs that are not here lowered and estimated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import override, parse_config
from gplan_jax.inference.engine import passes
from gplan_jax.inference.engine.decoder_setup import (
    Parts,
    any_context,
    build_prompter,
    engine_shapes,
    load_parts,
)
from gplan_jax.inference.engine.programs import Shapes, program_calls
from gplan_jax.inference.engine.requests import EngineConfig
from gplan_jax.inference.engine.sequences import longest_response
from gplan_jax.models import Qwen3Config
from gplan_jax.models.checkpoints.hugging_face import parameter_count
from gplan_jax.training.hosts.mesh import MeshConfig
from gplan_jax.training.memory.hlo_costs import HloCosts, hlo_costs
from gplan_jax.training.memory.hlo_module import parse_module
from gplan_jax.training.memory.planning import compile_with_text, needed_bytes
from gplan_jax.training.memory.report import Roofline, gib, roofline, table, verdict
from gplan_jax.training.memory.topologies import Topology, local_chip, topology_mesh

# Of a drafted plan, prefill included: the public rows in latent form (docs/benchmarks.md).
DRAFTED_PASSES = 4.4


@dataclass(frozen=True)
class PlannedPass:
    """One program: what it computes and moves, and what is live beside its operands."""

    name: str
    costs: HloCosts
    limits: Roofline | None  # None where the chip is not in the table
    temporaries: float  # bytes
    code: float


@dataclass(frozen=True)
class ServingPlan:
    """What one engine needs on one device; sizes in bytes."""

    parts: Parts
    config: EngineConfig
    topology: Topology
    shapes: Shapes
    system: int  # tokens of the system prompt
    programs: int  # that the engine compiles in all
    weights: float
    slots: float  # keys and values of all slots
    tables: float  # keys and values of the system prompt, grammar, rows of its tokens
    # The longest prefill, the shortest, a pass of one row, a pass of all slots.
    planned: tuple[PlannedPass, ...]
    compiled: bool
    plan_passes: float  # of one plan, the prefill included
    refused: float = 0.0  # bytes that the compiler asked for where it refused a program

    @property
    def pages(self) -> float:
        """The prefix cache, when it is full."""
        return float(self.config.prefix_cache_mib << 20)

    @property
    def needed(self) -> float:
        """Bytes at the peak; programs that were not compiled count like those that were."""
        code = [one.code for one in self.planned]
        program = self.programs * sum(code) / max(1, len(code))
        temporaries = max((one.temporaries for one in self.planned), default=0.0)
        held = self.weights + self.slots + self.tables + self.pages
        return max(held + temporaries + program, self.refused)

    @property
    def fits(self) -> bool:
        chip = self.topology.chip
        return chip is None or self.needed <= chip.memory

    def speed(self) -> tuple[float, float]:
        """The least seconds of a plan with the longest prompt that nothing delays; the most such
        plans a second, all slots busy. NaN where the chip is not in the table.
        """
        seconds = [one.limits.seconds if one.limits else math.nan for one in self.planned]
        prefill, _, one, many = seconds
        slots, after = self.config.slots, self.plan_passes - 1
        return prefill + after * one, slots / (slots * prefill + after * many)


def plan_serving(
    model_dir: Path,
    overrides: Sequence[str],
    topology: Topology,
    *,
    shape: Qwen3Config,
    service: str | None = None,
    system: int | None = None,
    longest: int | None = None,
    plan_passes: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> ServingPlan:
    """Plans what ``gplan serve --model model_dir`` would start on one device; no weights are read.

    ``overrides`` are KEY=VALUE of ``EngineConfig``. ``shape`` is that of the model; ``service`` is
    for a directory that holds none; ``system`` and ``longest`` are the tokens of the system prompt
    and of the longest prompt; None: the directory's.
    GplanError for several devices: a server has one engine on each (--replicas).
    """
    if topology.devices != 1:
        raise GplanError(
            f"{topology.name} has {topology.devices} devices, and an engine uses one: plan for "
            "v5e:1x1, v6e:1x1, h100 or local; gplan serve --replicas has an engine on each."
        )
    config = parse_config(EngineConfig, override({}, overrides), source="The engine")
    parts = load_parts(model_dir, config, shape=shape, service=service)
    prompter = build_prompter(parts.task, parts.encoder, config)
    system = system or len(prompter.system_ids(any_context(parts.task)))
    prompt = (longest or parts.task.most_prompt_tokens) - system
    if prompt < 1:
        raise GplanError(f"A prompt of {prompt + system} tokens has no room beside {system} of it.")
    shapes, grammar = engine_shapes(config, parts.grammar, prompt), parts.grammar
    graphdef, params = nnx.split(parts.model, nnx.Param)

    def serve(params: Any) -> tuple[passes.Served, passes.KVCache]:
        model, ids = nnx.merge(graphdef, params), np.zeros(system, np.int32)
        served = passes.Served.of(model, ids, parts.encoder.vocabulary_size, grammar)
        return served, passes.KVCache.empty(model, config.slots, shapes.places)

    served, cache = jax.eval_shape(serve, params)
    chip = topology.chip
    estimated = chip is not None and chip.platform == "gpu" and local_chip() is not chip
    free = config.max_new_tokens if grammar is None else longest_response(grammar)
    usual = DRAFTED_PASSES if config.mode == "drafted" else float(1 + free)
    calls = program_calls(served, cache, shapes, pages=config.prefix_cache_mib > 0)
    plan = ServingPlan(
        parts,
        config,
        topology,
        shapes,
        system,
        programs=len(calls),
        weights=_bytes(served.params),
        slots=_bytes(cache),
        tables=_bytes((served.system, served.head_RxD, served.table)),
        planned=(),
        compiled=not estimated,
        plan_passes=plan_passes or usual,
    )
    mesh = None if estimated else topology_mesh(topology, MeshConfig())
    prefills = [call for call in calls if isinstance(call[-2], passes.PromptRest)]
    trees = [call for call in calls if isinstance(call[-2], passes.Trees)]
    planned: list[PlannedPass] = []
    for function, *operands in (prefills[-1], prefills[0], trees[0], trees[-1]):
        ids = operands[2].ids_S[None] if len(planned) < 2 else operands[2].ids_bxT
        rows, tokens = ids.shape
        name = f"{'prefill' if len(planned) < 2 else 'pass'} of {rows} x {tokens}"
        report(f"planning the {name} tokens for {topology.name}; compiling takes a minute or less")
        # The slot's own tokens are seen where these are not the first.
        held = shapes.places if getattr(operands[2], "continues", True) else 0
        costs, temporaries = _from_shapes(plan, rows, tokens, system + held + tokens)
        code = 0.0
        if mesh is None:
            function.trace(*operands).lower(lowering_platforms=("cuda",))
        else:
            there = NamedSharding(mesh, PartitionSpec())
            laid_out = jax.tree.map(
                lambda x, there=there: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there),
                operands,
            )
            try:
                compiled, text = compile_with_text(function.lower(*laid_out))
            except jax.errors.JaxRuntimeError as error:
                if (refused := needed_bytes(str(error))) is None:
                    raise
                return dataclasses.replace(plan, refused=refused)
            stats: Any = compiled.memory_analysis()
            temporaries = stats.temp_size_in_bytes
            temporaries += stats.output_size_in_bytes - stats.alias_size_in_bytes
            # What the chip's layouts add to the operands is known here alone.
            temporaries += max(0, stats.argument_size_in_bytes - _bytes(operands))
            costs, code = hlo_costs(parse_module(text)), stats.generated_code_size_in_bytes
        limits = roofline(chip, costs, 0.0) if chip else None
        planned.append(PlannedPass(name, costs, limits, temporaries, code))
    return dataclasses.replace(plan, planned=tuple(planned))


def _from_shapes(plan: ServingPlan, rows: int, tokens: int, places: int) -> tuple[HloCosts, float]:
    """The least work of a pass whose tokens see so many places, and its temporaries in bytes.

    2 x weights of the layers and 2 D R for the logits of R rows a token, 4 N H for each place in
    each layer; each weight and each row's slot is read once. Live at once are one layer's scores
    and their softmax in float32, the states of its products, and the keys and values of all layers.
    """
    shape, grammar, count = plan.parts.model.config, plan.parts.grammar, rows * tokens
    width, layers, heads = shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads
    item = np.dtype(plan.config.compute_dtype).itemsize
    vocabulary = shape.vocab_size * width * (2 - shape.tie_word_embeddings)
    outputs = plan.parts.encoder.vocabulary_size if grammar is None else len(grammar.token_ids)
    products = 2.0 * (parameter_count(shape) - vocabulary + outputs * width)
    flops = count * (products + 4 * layers * heads * shape.head_dim * places)
    stored = np.dtype(plan.parts.model.embedding.get_value().dtype).itemsize
    read = plan.weights - vocabulary * stored + outputs * width * item + plan.tables
    read += plan.slots * rows / plan.config.slots
    kept = 2 * layers * shape.num_key_value_heads * shape.head_dim
    states = 3 * shape.intermediate_size + 4 * width + kept
    live = float(count * (2 * 4 * heads * places + states * item))
    return HloCosts(flops, 0.0, 0, read, (), ()), live


def _bytes(tree: Any) -> float:
    return float(sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree)))


def describe_serving(plan: ServingPlan) -> str:
    """Everything a serving plan knows, as lines of at most 100 columns."""
    config, shape, chip = plan.config, plan.parts.model.config, plan.topology.chip
    per_row = plan.shapes.nodes[max(plan.shapes.nodes)]
    source = "compiled ahead of time" if plan.compiled else "ESTIMATE from shapes; lowered for CUDA"
    lines = [
        f"model     {shape.num_hidden_layers} layers, width {shape.hidden_size:,}, "
        f"{parameter_count(shape) / 1e9:.2f} B parameters, weights {config.weights}, products "
        f"{config.compute_dtype}",
        f"engine    {config.slots} slots of {plan.shapes.places:,} tokens after {plan.system:,} of "
        f"the system prompt, {config.mode}, {per_row} tokens a row",
        f"device    {chip.name if chip else jax.devices()[0].device_kind}",
        f"source    {source}, {plan.programs} programs in all",
        "",
    ]
    sizes = [
        ("weights", plan.weights, ""),
        ("slots", plan.slots, "keys and values of the requests being decoded"),
        ("pages", plan.pages, "cached prefixes of users, when full (prefix_cache_mib)"),
        ("tables", plan.tables, "system prompt, grammar"),
    ]
    if plan.refused:
        lines += [f"The compiler refused a program: a device would need {gib(plan.refused)}.", ""]
    else:
        busiest = max(plan.planned, key=lambda one: one.temporaries)
        sizes.append(("temporaries", busiest.temporaries, f"at most, in a {busiest.name}"))
        if plan.compiled:
            sizes.append(("programs", plan.needed - sum(size for _, size, _ in sizes), ""))
    sizes.append(("peak", plan.needed, ""))
    lines += table(("memory of a device", "", ""), [(n, gib(s), note) for n, s, note in sizes])
    timed = [(one, one.limits) for one in plan.planned if one.limits]
    rows = [
        (
            f"{one.name} tokens",
            f"{1e3 * limits.seconds:.2f}",
            f"{limits.limit}: {one.costs.flops / 1e9:,.0f} GFLOP, "
            f"{one.costs.hbm_bytes / 1e9:,.2f} GB",
        )
        for one, limits in timed
    ]
    if rows:
        lines += table(("at least", "ms", ""), rows)
        alone, most = plan.speed()
        lines.append(
            f"A plan of {plan.plan_passes:g} passes: {1e3 * alone:.1f} ms alone, "
            f"{most:,.0f} requests/s with all slots busy; at best, by the roofline."
        )
    capacity = chip.memory if chip else 0.0
    return "\n".join([*lines, verdict(plan.needed, capacity, estimated=not plan.compiled)])
