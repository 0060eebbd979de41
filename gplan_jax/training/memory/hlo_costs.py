"""What one step of a compiled module costs a device: FLOPs, main-memory traffic and collectives.

All figures are multiplied by the trip counts of the loops around them (``hlo_module``).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gplan_jax.training.memory.hlo_module import (
    Computation,
    Instruction,
    Module,
    Shape,
    parse_shapes,
)

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that only name or group data; as those that await it ("-done") they move none.
_NO_TRAFFIC = [
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "async-update",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "domain",
]


@dataclass(frozen=True)
class Collective:
    """All executions of one kind of collective in a step, seen from one device."""

    kind: str
    count: int
    bytes_sent: float
    between_slices: bool = False  # over the data centre's network (DCN) instead of the chip's links


@dataclass(frozen=True)
class HloCosts:
    """Costs of one step on one device."""

    matmul_flops: float  # 2 x multiplications, recomputation included
    kernel_flops: float  # of hand-written kernels: as stated; splash attention by its block grid
    silent_kernels: int  # executions of kernels that state nothing; they count nothing
    hbm_bytes: float  # read from and written to main memory
    collectives: tuple[Collective, ...]  # by kind, the most bytes first
    unknown_loops: tuple[str, ...]  # loops whose trips could not be read; they are counted once

    @property
    def flops(self) -> float:
        return self.matmul_flops + self.kernel_flops

    @property
    def bytes_sent(self) -> float:
        """Over the links of a slice."""
        return sum(c.bytes_sent for c in self.collectives if not c.between_slices)

    @property
    def bytes_between_slices(self) -> float:
        return sum(c.bytes_sent for c in self.collectives if c.between_slices)


def hlo_costs(module: Module, slices: int = 1) -> HloCosts:
    """Adds up what one execution of ``module``, over so many slices, costs a device."""
    counts, unknown_loops = module.executions()
    # The insides of fusions: their values stay in registers.
    fused: set[str] = set()
    waiting = [
        callee
        for computation in module.computations.values()
        for line in computation.instructions.values()
        if line.opcode in ("fusion", "async-start") and (callee := line.called("calls"))
    ]
    while waiting:
        name = waiting.pop()
        if name in fused or name not in module.computations:
            continue
        fused.add(name)
        lines = module.computations[name].instructions.values()
        waiting += [callee for line in lines if (callee := line.called("calls"))]
    matmul, kernels, hbm, silent = 0.0, 0.0, 0.0, 0
    for computation in module.computations.values():
        times = counts[computation.name]
        if not times:
            continue
        for line in computation.instructions.values():
            matmul += times * matmul_flops(computation, line)
            if line.opcode == "custom-call" and "tpu_custom_call" in line.attributes:
                stated = kernel_flops(line)
                kernels += times * (stated or 0.0)
                silent += times * (stated is None)
            if computation.name not in fused:
                hbm += times * _traffic(module, computation, line)
    return HloCosts(
        matmul_flops=matmul,
        kernel_flops=kernels,
        silent_kernels=silent,
        hbm_bytes=hbm,
        collectives=collectives(module, counts, slices),
        unknown_loops=unknown_loops,
    )


def collectives(module: Module, counts: dict[str, int], slices: int = 1) -> tuple[Collective, ...]:
    """Collectives of a step by kind.

    A TPU compiler may spread one collective over several fusions (start, middle, done), which then
    share a channel: a channel counts once. What crosses slices is a "send" of this chip's part to
    the hosts' runtime, which says the collective's kind.
    """
    found: dict[object, tuple[tuple[str, bool], int, float]] = {}
    for computation in module.computations.values():
        times = counts[computation.name]
        for line in computation.instructions.values():
            kind = line.opcode.removesuffix("-start")
            crossing = re.search(r'_xla_megascale_transfer_type="(\w+)"', line.attributes)
            if crossing and kind == "send":
                kind = crossing[1].lower().replace("_", "-")
            elif kind not in COLLECTIVES:
                continue
            if not times:
                continue
            channel = re.search(r"channel_id=(\d+)", line.attributes)
            key = channel.group(1) if channel else (computation.name, line.name)
            operand = sum(computation.bytes(name) for name in line.operands)
            group = slices if crossing else group_size(line.attributes, module.partitions)
            # What a device sends in a ring of ``group`` devices, each holding ``operand`` bytes.
            match kind:
                case "all-gather":
                    sent = operand * (group - 1)
                case "all-reduce":
                    sent = 2 * operand * (group - 1) / group
                case "reduce-scatter" | "all-to-all" | "ragged-all-to-all":
                    sent = operand * (group - 1) / group
                case _:
                    sent = operand
            known = found.get(key)
            if known is None or times * sent > known[1] * known[2]:
                found[key] = ((kind, crossing is not None), times, sent)
    totals: dict[tuple[str, bool], list[float]] = defaultdict(lambda: [0, 0.0])
    for name, times, sent in found.values():
        totals[name][0] += times
        totals[name][1] += times * sent
    listed = [
        Collective(kind, int(count), sent, between)
        for (kind, between), (count, sent) in totals.items()
    ]
    return tuple(sorted(listed, key=lambda c: -c.bytes_sent))


def group_size(attributes: str, partitions: int) -> int:
    """Devices that take part in one group of a collective, from any form of ``replica_groups``."""
    found = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if found:
        return found.group(1).count(",") + 1
    found = re.search(r"replica_groups=\[(\d+),(\d+)\]<=", attributes)
    if found:
        return int(found.group(2))
    found = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
    if found:
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found.group(1))}
        named = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part) if part else sizes[name] for name, part in named)
    return partitions


def matmul_flops(computation: Computation, line: Instruction) -> float:
    """FLOPs of a ``dot`` or ``convolution``: 2 x multiplications that meet no padding; else 0."""
    if line.opcode == "dot":
        left = computation.shapes(line.operands[0])[0]
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
        axes = [int(axis) for axis in contracted.group(1).split(",") if axis] if contracted else []
        return 2.0 * line.shapes[0].elements * math.prod(left.sizes[axis] for axis in axes)
    if line.opcode == "convolution":
        return _convolution_flops(computation, line)
    return 0.0


def _convolution_flops(computation: Computation, line: Instruction) -> float:
    """FLOPs of a convolution, as TPU compilers write products, batched ones dilated or padded.

    Most positions of such a window meet padding or holes and cost nothing, so real pairs of an
    output and a kernel element are counted, axis by axis.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    if labels is None:
        return 0.0
    left, right, out = labels.groups()
    image, kernel = (computation.shapes(name)[0].sizes for name in line.operands[:2])
    result = line.shapes[0].sizes
    window = re.search(r"window=\{([^}]*)\}", line.attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", window.group(1))) if window else {}
    pairs = 1.0
    for label in (label for label in left if label.isdigit()):
        axis = int(label)

        def of_axis(name: str, default: str, axis: int = axis) -> int:
            value = fields[name].split("x")[axis] if name in fields else default
            return int(value.split("_")[0])

        stride, dilation = of_axis("stride", "1"), of_axis("lhs_dilate", "1")
        size = image[left.index(label)]
        places = (
            np.arange(result[out.index(label)])[:, None] * stride
            - of_axis("pad", "0_0")
            + np.arange(kernel[right.index(label)])[None, :] * of_axis("rhs_dilate", "1")
        )
        # In the image, and not in a hole between two of its elements.
        real = (places >= 0) & (places <= (size - 1) * dilation) & (places % dilation == 0)
        pairs *= int(real.sum())
    features = result[out.index("b")] * result[out.index("f")] * kernel[right.index("i")]
    groups = re.search(r"batch_group_count=(\d+)", line.attributes)
    return 2.0 * features * pairs / (int(groups.group(1)) if groups else 1)


# Matrix products of [block_q, H] x [H, block_kv] size in each of the splash attention kernels.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def kernel_flops(line: Instruction) -> float | None:
    """FLOPs of a Pallas kernel; None where it neither states them nor is a splash attention.

    A splash kernel computes every block that its causal mask does not hide whole: queries are the
    last T of C positions, in a grid of blocks that its first operand spans.
    """
    stated = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', line.attributes)
    if stated:
        return float(stated.group(1))
    splash = re.match(r"splash_mha_(fwd|dq|dkv)", line.name)
    listed = re.search(r"operand_layout_constraints=\{(.*?\})\}", line.attributes)
    if splash is None or listed is None:
        return None
    operands = parse_shapes(listed.group(1))
    grid = operands[0].sizes[-2:]
    query, key = [x.sizes for x in operands if x.dtype in ("bf16", "f16", "f32")][:2]
    *_, length, width = query
    # Query-key pairs of the blocks that a causal mask, aligned at the end, does not hide whole.
    keys, query_blocks, key_blocks = key[-2], *grid
    block_q, block_kv = length // query_blocks, keys // key_blocks
    last = keys - length + block_q * (1 + np.arange(query_blocks))
    blocks = int(np.minimum(-(-last // block_kv), key_blocks).sum())
    products = _SPLASH_PRODUCTS[splash.group(1)] * math.prod(query[:-2])
    return 2.0 * products * width * blocks * block_q * block_kv


def _traffic(module: Module, computation: Computation, line: Instruction) -> float:
    """Bytes one execution of an instruction moves to and from main memory.

    A slice reads what it returns and an update in place writes what it is given, also inside a
    fusion; anything else reads its operands and writes its result. Results that live in the chip's
    fast memory are free.
    """
    if line.opcode in _NO_TRAFFIC or line.opcode.endswith("-done"):
        return 0.0
    inner = module.computations.get(line.called("calls") or "")
    if line.opcode == "fusion" and inner is not None:
        read = sum(
            _read_by_fusion(module, inner, number, _hbm(computation.shapes(name)))
            for number, name in enumerate(line.operands)
        )
        return read + _written_by_fusion(module, inner, line.shapes)
    if line.opcode in ("slice", "dynamic-slice", "gather"):
        return 2 * _hbm(line.shapes)
    if line.opcode in ("dynamic-update-slice", "scatter"):
        update = line.operands[1 if line.opcode == "dynamic-update-slice" else -1]
        return 2 * _hbm(computation.shapes(update))
    if line.opcode in ("copy-start", "async-start"):
        # The tuple names operand and result; a sliced operand is read only where it is returned.
        result = min(line.shapes[:2], key=lambda shape: shape.bytes, default=None)
        sides = [shape for shape in line.shapes[:2] if shape.in_hbm]
        return (result.bytes if result else 0.0) * len(sides)
    read = sum(_hbm(computation.shapes(name)) for name in line.operands)
    return read + _hbm(line.shapes)


def _read_by_fusion(module: Module, inner: Computation, number: int, whole: float) -> float:
    """Bytes of operand ``number`` that a fusion reads, ``whole`` at most."""
    parameters = (line for line in inner.instructions.values() if line.opcode == "parameter")
    parameter = next((line for line in parameters if line.arguments == str(number)), None)
    if not whole or parameter is None:
        return whole
    names, read = {parameter.name}, 0.0
    for line in inner.instructions.values():
        places = [place for place, name in enumerate(line.operands) if name in names]
        if not places:
            continue
        nested = module.computations.get(line.called("calls") or "")
        if line.opcode == "bitcast" or "output_to_operand_aliasing" in line.attributes:
            names.add(line.name)  # the operand itself, in another form or layout
        elif line.opcode in ("dynamic-slice", "slice", "gather"):
            read += line.bytes
        elif line.opcode == "tuple" or (line.opcode == "dynamic-update-slice" and places == [0]):
            continue  # passed on, or updated in place
        elif line.opcode == "fusion" and nested is not None:
            read += sum(_read_by_fusion(module, nested, place, whole) for place in places)
        else:
            return whole
    return min(read, whole)


def _written_by_fusion(module: Module, inner: Computation, shapes: tuple[Shape, ...]) -> float:
    """Bytes a fusion with results ``shapes`` writes: nothing for what it only passes on."""
    root = inner.root
    parts = [inner.instructions[name] for name in root.operands] if root.opcode == "tuple" else []
    written = 0.0
    for shape, part in zip(shapes, parts or [root], strict=False):
        while part.opcode == "bitcast":
            part = inner.instructions[part.operands[0]]
        nested = module.computations.get(part.called("calls") or "")
        if not shape.in_hbm or part.opcode == "parameter":
            continue
        if part.opcode == "dynamic-update-slice":
            written += inner.bytes(part.operands[1])
        elif part.opcode == "fusion" and nested is not None and len(part.shapes) == 1:
            written += _written_by_fusion(module, nested, (shape,))
        else:
            written += shape.bytes
    return written


def _hbm(shapes: Iterable[Shape]) -> float:
    return sum(shape.bytes for shape in shapes if shape.in_hbm)
