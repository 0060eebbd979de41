"""The text of a compiled XLA module as data: computations, instructions, and how often each runs.

The compiler's own ``cost_analysis`` counts the body of every loop once, and unrolling our loops
does not help: a TPU compiler turns an all-gather and the product after it into a loop of its own
("windowed dot general"), and kernels count nothing. Of one unrolled layer of Qwen3-1.7B on v5e:4x4
it finds 4.38 TFLOP of 5.91 (docs/memory.md). So every computation gets the number of times that one
step executes it, from the trip counts of the loops around it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

_TYPES_BY_BYTES = {
    0.5: ("s4", "u4"),
    1: ("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"),
    2: ("s16", "u16", "bf16", "f16"),
    4: ("s32", "u32", "f32"),
    8: ("s64", "u64", "f64", "c64"),
}
_ITEM_BYTES = {name: size for size, names in _TYPES_BY_BYTES.items() for name in names}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    name: getattr(operator, name.lower()) for name in ("LT", "LE", "GT", "GE", "EQ", "NE")
}
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")


@dataclass(frozen=True)
class Shape:
    """One array: element type, sizes, and whether it lives in main memory (HBM)."""

    dtype: str
    sizes: tuple[int, ...]
    in_hbm: bool = True

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> float:
        return self.elements * _ITEM_BYTES.get(self.dtype, 0)


@dataclass(frozen=True)
class Instruction:
    """One line: ``name = shapes opcode(operands), attributes``; a tuple has several shapes."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str
    is_root: bool

    def called(self, attribute: str) -> str | None:
        """The computation named by ``attribute=%name``."""
        found = re.search(rf"\b{attribute}=%([\w.\-]+)", self.attributes)
        return found.group(1) if found else None

    @property
    def bytes(self) -> float:
        return sum(shape.bytes for shape in self.shapes)


@dataclass(frozen=True)
class Computation:
    """A named list of instructions in the order they are scheduled."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(line for line in self.instructions.values() if line.is_root)

    def shapes(self, name: str) -> tuple[Shape, ...]:
        line = self.instructions.get(name)
        return line.shapes if line else ()

    def bytes(self, name: str) -> float:
        return sum(shape.bytes for shape in self.shapes(name))


# A scalar of a program; a tuple of them; None for an array, or what is only known as it runs.
Scalar = int | tuple["Scalar", ...] | None
MOST_TRIPS = 100_000


@dataclass(frozen=True)
class Module:
    """A compiled program for one device."""

    computations: dict[str, Computation]
    entry: str  # the computation that runs first
    partitions: int  # devices the program is split over

    def executions(self) -> tuple[dict[str, int], tuple[str, ...]]:
        """How often one run executes each computation, and loops whose trips are not known.

        The body of an unknown loop is counted once.
        """
        counts = dict.fromkeys(self.computations, 0)
        unknown: list[str] = []

        def visit(name: str, times: int) -> None:
            if name not in self.computations:
                return
            counts[name] += times
            for line in self.computations[name].instructions.values():
                if line.opcode == "while":
                    trips = self.trip_count(name, line)
                    if trips is None:
                        unknown.append(line.name)
                    for attribute in ("condition", "body"):
                        visit(line.called(attribute) or "", times * (trips or 1))
                elif line.opcode == "conditional":
                    branches = re.search(r"branch_computations=\{([^}]*)\}", line.attributes)
                    for branch in _NAME.findall(branches.group(1)) if branches else []:
                        visit(branch, times)
                else:
                    applied = line.opcode in ("call", "async-start") and line.called("to_apply")
                    visit(line.called("calls") or applied or "", times)

        visit(self.entry, 1)
        return counts, tuple(unknown)

    def trip_count(self, caller: str, loop: Instruction) -> int | None:
        """Trips of a ``while``: as the compiler states it, or by running its counter.

        TPU compilers state none. But a counter is a scalar in the loop's tuple that starts at a
        constant, and condition and body are small programs on it: they are run, without the arrays.
        None where the condition asks for something that only the data tell.
        """
        stated = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if stated:
            return int(stated.group(1))
        condition = self.computations.get(loop.called("condition") or "")
        body = self.computations.get(loop.called("body") or "")
        if condition is None or body is None:
            return None
        state = self._scalar(self.computations[caller], loop.operands[0], ())
        for trips in range(MOST_TRIPS):
            goes_on = self._scalar(condition, condition.root.name, (state,))
            if not isinstance(goes_on, int):
                return None
            if not goes_on:
                return trips
            state = self._scalar(body, body.root.name, (state,))
        return None

    def _scalar(self, inside: Computation, name: str, arguments: tuple[Scalar, ...]) -> Scalar:
        """The value of an instruction, given those of its computation's parameters."""
        line = inside.instructions.get(name)
        if line is None:
            return None

        def operand(number: int) -> Scalar:
            return self._scalar(inside, line.operands[number], arguments)

        match line.opcode:
            case "parameter":
                number = int(line.arguments)
                return arguments[number] if number < len(arguments) else None
            case "tuple":
                return tuple(operand(number) for number in range(len(line.operands)))
            case "get-tuple-element":
                whole, index = operand(0), re.search(r"index=(\d+)", line.attributes)
                return whole[int(index.group(1))] if index and isinstance(whole, tuple) else None
            case _ if all(shape.sizes for shape in line.shapes):
                return None  # Arrays only: not what a loop counts by.
            case "constant":
                try:
                    return int({"true": "1", "false": "0"}.get(line.arguments, line.arguments))
                except ValueError:
                    return None
            case "copy" | "bitcast" | "convert":
                return operand(0)
            case "fusion" | "call":
                called = line.called("calls") or line.called("to_apply")
                inner = self.computations.get(called or "")
                values = tuple(operand(number) for number in range(len(line.operands)))
                return self._scalar(inner, inner.root.name, values) if inner else None
            case "add" | "subtract" | "compare":
                left, right = operand(0), operand(1)
                if not isinstance(left, int) or not isinstance(right, int):
                    return None
                if line.opcode != "compare":
                    return left + right if line.opcode == "add" else left - right
                direction = re.search(r"direction=(\w+)", line.attributes)
                return _COMPARE[direction.group(1)](left, right) if direction else None
        return None


def parse_module(text: str) -> Module:
    """Reads the text that XLA prints for an optimised module."""
    computations: dict[str, Computation] = {}
    entry = ""
    lines: dict[str, Instruction] | None = None
    for raw in text.splitlines():
        header = _HEADER.match(raw)
        if header and not raw.startswith(" "):
            lines = {}
            computations[header.group(2)] = Computation(header.group(2), lines)
            entry = header.group(2) if header.group(1) else entry
        elif raw == "}":
            lines = None
        elif lines is not None and (found := _LINE.match(raw)):
            line = _parse_line(raw[found.end() :], found.group(2), bool(found.group(1)))
            lines[line.name] = line
    if not entry:
        raise ValueError("no ENTRY computation in the text of the module")
    partitions = re.search(r"num_partitions=(\d+)", text[:20000])
    return Module(computations, entry, int(partitions.group(1)) if partitions else 1)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays in the text of a shape: ``f32[8,2]{1,0:T(8,128)S(1)}`` or a tuple of such."""
    shapes = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        if dtype in _ITEM_BYTES:
            values = tuple(int(size) for size in sizes.split(",") if size)
            # S(1) is the chip's fast memory (VMEM), S(2) its semaphores, S(5) host memory.
            shapes.append(Shape(dtype, values, "S(" not in layout))
    return tuple(shapes)


def _parse_line(rest: str, name: str, is_root: bool) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing]
    return Instruction(
        name=name,
        shapes=parse_shapes(shape),
        opcode=rest[:opening],
        operands=tuple(_NAME.findall(arguments)),
        arguments=arguments,
        attributes=rest[closing + 1 :],
        is_root=is_root,
    )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place
    raise ValueError(f"unbalanced brackets in {text[:80]!r}")
