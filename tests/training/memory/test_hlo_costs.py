"""Costs of a compiled module against figures derived by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from gplan_jax.training.memory.hlo_costs import Collective, group_size, hlo_costs
from gplan_jax.training.memory.hlo_module import Module, parse_module


def module(*lines: str, others: str = "") -> Module:
    body = "\n".join(f"  {line}" for line in lines)
    return parse_module(
        f"HloModule m, num_partitions=8\n\n{others}\n\nENTRY %main (p: f32[8]) -> f32[8] {{\n"
        f"{body}\n  ROOT %end = f32[] constant(0)\n}}\n"
    )


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}", 4),
        ("replica_groups=[4,2]<=[8], dimensions={0}", 2),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['axis_0'=16] {'axis_0'}", 16),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0', 'axis_1'}", 8),
        ("replica_groups=mesh['axis_0'=16] {'axis_0':(1)4}", 4),
        ("replica_groups={}", 8),
    ],
)
def test_group_sizes_in_every_form(attributes: str, size: int) -> None:
    assert group_size(attributes, 8) == size


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("%c = f32[64]{0} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}", 7 * 32),
        ("%c = f32[8]{0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add", 2 * 32 * 7 / 8),
        ("%c = f32[1]{0} reduce-scatter(%p), replica_groups=[1,8]<=[8]", 32 * 7 / 8),
        ("%c = f32[8]{0} all-to-all(%p), replica_groups=[2,4]<=[8]", 32 * 3 / 4),
        ("%c = f32[8]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}", 32),
    ],
)
def test_bytes_that_a_collective_sends(line: str, sent: float) -> None:
    costs = hlo_costs(module("%p = f32[8]{0} parameter(0)", line))
    assert [c.bytes_sent for c in costs.collectives] == [sent]


def test_a_collective_spread_over_fusions_counts_once() -> None:
    gather = "all-gather(%p), channel_id=5, replica_groups=[1,8]<=[8]"
    costs = hlo_costs(
        module(
            "%p = f32[8]{0} parameter(0)",
            f"%start = f32[64]{{0}} {gather}",
            f"%middle = f32[64]{{0}} {gather}",
            "%other = f32[64]{0} all-gather(%p), channel_id=6, replica_groups=[1,8]<=[8]",
        )
    )
    assert costs.collectives == (Collective("all-gather", 2, 2 * 7 * 32),)


@pytest.mark.parametrize(
    ("kind", "sent"), [("ALL_GATHER", 2 * 32), ("ALL_REDUCE", 2 * 32 * 2 / 3), ("ONE_TO_ONE", 32)]
)
def test_what_crosses_three_slices_is_apart(kind: str, sent: float) -> None:
    costs = hlo_costs(
        module(
            "%p = f32[8]{0} parameter(0)",
            "%gather = f32[64]{0} all-gather(%p), channel_id=5, replica_groups=[1,8]<=[8]",
            "%token = token[] after-all()",
            "%s = (f32[8]{0}, u32[], token[]) send(%p, %token), channel_id=6, is_host_transfer=true"
            f', frontend_attributes={{_xla_megascale_transfer_type="{kind}"}}',
            "%d = token[] send-done(%s), channel_id=6, is_host_transfer=true",
            "%local = (f32[8]{0}, u32[], token[]) send(%p, %token), channel_id=7",
        ),
        slices=3,
    )
    assert (costs.bytes_sent, costs.bytes_between_slices) == (7 * 32, sent)
    crossing = [c for c in costs.collectives if c.between_slices]
    assert crossing == [Collective(kind.lower().replace("_", "-"), 1, sent, between_slices=True)]


@pytest.mark.parametrize(
    ("left", "right", "out", "attributes", "flops"),
    [
        # A plain product [48, 96] x [96, 64].
        ("bf16[48,96]", "bf16[96,64]", "bf16[48,64]", "dim_labels=bf_io->bf", 2 * 48 * 96 * 64),
        # [48, 96] x [96, 16, 8]: the heads are a kernel axis that slides over padding.
        (
            "bf16[48,96,1]",
            "bf16[96,16,8]",
            "bf16[48,16,8]",
            "window={size=16 pad=15_15 rhs_reversal=1}, dim_labels=bf0_i0o->b0f",
            2 * 48 * 96 * 16 * 8,
        ),
        # Eight products [40, 16] x [16, 24], their batch written as a dilated window.
        (
            "bf16[40,8,16]",
            "bf16[24,8,16]",
            "f32[8,24,40]",
            "window={size=8 stride=7 lhs_dilate=8}, dim_labels=b0f_o0i->0fb",
            2 * 8 * 40 * 16 * 24,
        ),
        # The same axis summed over: [48, 16 x 8] x [16 x 8, 32].
        (
            "bf16[48,16,8]",
            "bf16[16,8,32]",
            "bf16[48,32,1]",
            "window={size=16}, dim_labels=b0f_0io->bf0",
            2 * 48 * 16 * 8 * 32,
        ),
    ],
)
def test_products_written_as_convolutions(
    left: str, right: str, out: str, attributes: str, flops: float
) -> None:
    costs = hlo_costs(
        module(
            f"%a = {left} parameter(0)",
            f"%b = {right} parameter(1)",
            f"%c = {out} convolution(%a, %b), {attributes}",
        )
    )
    assert costs.matmul_flops == flops


def test_a_splash_kernel_counts_the_blocks_its_mask_shows() -> None:
    # 1,280 queries at the end of 2,048 keys, in a grid of 5 x 4 blocks: 2+3+3+4+4 of 20 are shown.
    grid = "s8[1,5,4]{2,1,0}, s8[1,5,4]{2,1,0}"
    arrays = "bf16[16,1280,128]{2,1,0}, bf16[8,2048,128]{2,1,0}, bf16[8,2048,128]{2,1,0}"
    call = (
        'custom-call(%p), custom_call_target="tpu_custom_call", '
        f"operand_layout_constraints={{{grid}, {arrays}}}"
    )
    pairs = 16 * 256 * 512
    for kernel, products in (("fwd", 2), ("dq", 3), ("dkv", 4)):
        name = f"%splash_mha_{kernel}_segmented_residuals.4"
        costs = hlo_costs(
            module("%p = f32[8]{0} parameter(0)", f"{name} = bf16[16,1280,128]{{2,1,0}} {call}")
        )
        assert costs.kernel_flops == 2 * products * 16 * 128 * pairs
    silent = hlo_costs(module("%p = f32[8] parameter(0)", f"%mine = f32[8] {call}"))
    assert (silent.kernel_flops, silent.silent_kernels) == (0, 1)
    stated = call + ', backend_config={"custom_call_config":{"cost_estimate":{"flops":"42"}}}'
    assert hlo_costs(module("%p = f32[8] parameter(0)", f"%mine = f32[8] {stated}")).flops == 42


def test_traffic_of_slices_and_updates_is_what_they_touch() -> None:
    read_one_layer = """%slice (a: f32[28,64], i: s32[]) -> f32[1,64] {
  %a = f32[28,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,64]{1,0} dynamic-slice(%a, %i, %zero), dynamic_slice_sizes={1,64}
}

%update (b: f32[28,64], x: f32[1,64], j: s32[]) -> f32[28,64] {
  %b = f32[28,64]{1,0} parameter(0)
  %x = f32[1,64]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %none = s32[] constant(0)
  ROOT %u = f32[28,64]{1,0} dynamic-update-slice(%b, %x, %j, %none)
}"""
    costs = hlo_costs(
        module(
            "%stack = f32[28,64]{1,0} parameter(0)",
            "%layer = s32[] parameter(1)",
            "%one = f32[1,64]{1,0} fusion(%stack, %layer), kind=kLoop, calls=%slice",
            "%all = f32[28,64]{1,0} fusion(%stack, %one, %layer), kind=kLoop, calls=%update",
            others=read_one_layer,
        )
    )
    layer, scalar = 64 * 4, 4
    assert costs.hbm_bytes == (layer + scalar + layer) + (layer + scalar + layer)


def test_a_stack_in_another_layout_is_read_a_layer_at_a_time() -> None:
    """As for stacked weights of 8 bits on a TPU: what renames an operand reads none of it."""
    relaid = """
%relay (c: s8[28,64]) -> s8[28,64] {
  %c = s8[28,64]{1,0:T(32,128)(4,1)} parameter(0)
  ROOT %d = s8[28,64]{1,0:T(8,128)(4,1)} copy(%c)
}

%slice (a: s8[28,64], i: s32[]) -> bf16[1,64] {
  %a = s8[28,64]{1,0:T(32,128)(4,1)} parameter(0)
  %r = s8[28,64]{1,0:T(8,128)(4,1)} fusion(%a), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%relay
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %s = s8[1,64]{1,0} dynamic-slice(%r, %i, %zero), dynamic_slice_sizes={1,64}
  ROOT %t = bf16[1,64]{1,0} convert(%s)
}
"""  # noqa: E501
    costs = hlo_costs(
        module(
            "%stack = s8[28,64]{1,0:T(32,128)(4,1)} parameter(0)",
            "%layer = s32[] parameter(1)",
            "%one = bf16[1,64]{1,0} fusion(%stack, %layer), kind=kLoop, calls=%slice",
            others=relaid,
        )
    )
    assert costs.hbm_bytes == 64 + 4 + 2 * 64


def test_values_in_fast_memory_are_no_traffic() -> None:
    costs = hlo_costs(
        module(
            "%a = f32[64]{0:T(1024)} parameter(0)",
            "%b = f32[64]{0:T(1024)S(1)} negate(%a)",
            "%c = f32[64]{0:T(1024)S(1)} negate(%b)",
        )
    )
    assert costs.hbm_bytes == 256


def test_a_scanned_and_sharded_program_compiled_for_eight_devices() -> None:
    """L layers h @ w with w split over eight devices: gathered forwards and backwards."""
    program = """
        import json
        import jax, jax.numpy as jnp
        from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
        from gplan_jax.training.memory.hlo_costs import hlo_costs
        from gplan_jax.training.memory.hlo_module import parse_module
        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
        def put(shape, spec):
            return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        w, x = put((3, 64, 64), P(None, "x", None)), put((16, 64), P("x", None))
        def loss(w, x):
            h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)
            return jnp.sum(h**2)
        text = jax.jit(jax.grad(loss)).lower(w, x).compile().as_text()
        costs = hlo_costs(parse_module(text))
        kinds = {c.kind: [c.count, c.bytes_sent] for c in costs.collectives}
        print(json.dumps([costs.matmul_flops, kinds, costs.unknown_loops]))
    """
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        check=True,
    )
    flops, kinds, unknown = json.loads(done.stdout)
    layers, rows, width, devices = 3, 16 // 8, 64, 8
    # Forwards h @ w; backwards dh @ w^T and h^T @ dh.
    assert flops == layers * 3 * 2 * rows * width * width
    shard, whole = width * width * 4 // devices, width * width * 4
    assert kinds["all-gather"] == [2 * layers, 2 * layers * (devices - 1) * shard]
    # The gradient of w is summed over rows: as an all-reduce, or as a reduce-scatter of half that.
    summed = {"all-reduce": 2, "reduce-scatter": 1}
    (kind,) = kinds.keys() - {"all-gather"}
    assert kinds[kind] == [layers, layers * summed[kind] * whole * (devices - 1) / devices]
    assert unknown == []
