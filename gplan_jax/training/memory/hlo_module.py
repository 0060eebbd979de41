"""The text of a compiled XLA module as data: computations, instructions, and how often each runs.

``cost_analysis`` of a compiled program counts the body of a loop once, so nothing it says about a
scanned model can be used as it is. Here every computation gets the number of times one step
executes it, from the trip counts of the loops around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

_ITEM_BYTES = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "s8": 1,
    "u8": 1,
    "f8e4m3fn": 1,
    "f8e5m2": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
    "c64": 8,
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


@dataclass(frozen=True)
class Module:
    """A compiled program for one device.

    Attributes:
        computations: by name.
        entry: name of the computation that runs first.
        partitions: devices the program is split over.
    """

    computations: dict[str, Computation]
    entry: str
    partitions: int

    def executions(self) -> Executions:
        """How often one run of the program executes each computation."""
        counts = dict.fromkeys(self.computations, 0)
        unknown: list[str] = []
        self._visit(self.entry, 1, counts, unknown)
        return Executions(counts, tuple(unknown))

    def _visit(self, name: str, times: int, counts: dict[str, int], unknown: list[str]) -> None:
        counts[name] += times
        for line in self.computations[name].instructions.values():
            for callee, factor in self._callees(name, line, unknown):
                if callee in self.computations:
                    self._visit(callee, times * factor, counts, unknown)

    def _callees(
        self, caller: str, line: Instruction, unknown: list[str]
    ) -> Iterator[tuple[str, int]]:
        if line.opcode == "while":
            trips = self.trip_count(caller, line)
            if trips is None:
                unknown.append(line.name)
            for attribute in ("condition", "body"):
                callee = line.called(attribute)
                if callee:
                    yield callee, trips or 1
        elif line.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", line.attributes)
            for callee in _NAME.findall(branches.group(1)) if branches else []:
                yield callee, 1
        elif callee := line.called("calls") or (
            line.called("to_apply") if line.opcode in ("call", "async-start") else None
        ):
            yield callee, 1

    def trip_count(self, caller: str, loop: Instruction) -> int | None:
        """Trips of a ``while``: as the compiler states it, or read off a counted loop.

        A counted loop starts element i of its tuple at a constant, compares it with a constant and
        adds a constant to it. None where the loop is of another form.
        """
        stated = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if stated:
            return int(stated.group(1))
        condition = self.computations.get(loop.called("condition") or "")
        body = self.computations.get(loop.called("body") or "")
        if condition is None or body is None:
            return None
        compared = _comparison(condition, self)
        if compared is None:
            return None
        index, limit, direction = compared
        start = self._initial(caller, loop, index)
        step = self._increment(body, index)
        if start is None or step is None or not step or direction not in ("LT", "LE", "GT", "GE"):
            return None
        inclusive = direction in ("LE", "GE")
        distance = limit - start if step > 0 else start - limit
        return max(0, -(-(distance + inclusive) // abs(step)))

    def _initial(self, caller: str, loop: Instruction, index: int) -> int | None:
        lines = self.computations[caller].instructions
        operand = lines.get(loop.operands[0])
        if operand is None or operand.opcode != "tuple":
            return None
        return _constant(lines, operand.operands[index], self)

    def _increment(self, body: Computation, index: int) -> int | None:
        root = body.root
        if root.opcode != "tuple":
            return None
        return _added(body, root.operands[index], index, self)


@dataclass(frozen=True)
class Executions:
    """Executions of every computation in one step, and loops whose trips are not known.

    The body of an unknown loop is counted once.
    """

    counts: dict[str, int]
    unknown_loops: tuple[str, ...]


def parse_module(text: str) -> Module:
    """Reads the text that XLA prints for an optimised module.

    Raises:
        ValueError: the text holds no entry computation.
    """
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


def _comparison(condition: Computation, module: Module) -> tuple[int, int, str] | None:
    """(tuple element, constant, direction) of a condition that compares one with the other."""
    root, lines = condition.root, condition.instructions
    if root.opcode == "fusion" and (inner := module.computations.get(root.called("calls") or "")):
        # A fused compare: its parameters are the fusion's operands.
        root_inside = inner.root
        if root_inside.opcode != "compare":
            return None
        operands = [_outside(inner, name, root) for name in root_inside.operands]
        attributes = root_inside.attributes
    elif root.opcode == "compare":
        operands, attributes = list(root.operands), root.attributes
    else:
        return None
    direction = re.search(r"direction=(\w+)", attributes)
    if direction is None or len(operands) != 2 or None in operands:
        return None
    first, second = (str(name) for name in operands)
    index, limit = _element(lines, first), _constant(lines, second, module)
    mirrored = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}
    if index is not None and limit is not None:
        return index, limit, direction.group(1)
    index, limit = _element(lines, second), _constant(lines, first, module)
    if index is not None and limit is not None:
        return index, limit, mirrored.get(direction.group(1), "")
    return None


def _added(body: Computation, name: str, index: int, module: Module) -> int | None:
    """The constant that ``name`` adds to element ``index`` of the loop's tuple."""
    lines = body.instructions
    line = lines.get(name)
    while line is not None and line.opcode in ("copy", "bitcast"):
        line = lines.get(line.operands[0])
    if line is None:
        return None
    if line.opcode == "fusion" and (inner := module.computations.get(line.called("calls") or "")):
        if inner.root.opcode != "add":
            return None
        operands = [_outside(inner, operand, line) for operand in inner.root.operands]
        constants = [_constant(inner.instructions, o, module) for o in inner.root.operands]
    elif line.opcode == "add":
        operands = list(line.operands)
        constants = [_constant(lines, operand, module) for operand in line.operands]
    else:
        return None
    from_tuple = [o is not None and _element(lines, o) == index for o in operands]
    for is_counter, constant in zip(from_tuple, reversed(constants), strict=True):
        if is_counter and constant is not None:
            return constant
    return None


def _outside(inner: Computation, name: str, fusion: Instruction) -> str | None:
    """The fusion's operand behind a parameter of its computation, or the inner name itself."""
    line = inner.instructions.get(name)
    if line is not None and line.opcode == "parameter":
        return fusion.operands[int(line.arguments)]
    return name


def _element(lines: dict[str, Instruction], name: str) -> int | None:
    line = lines.get(name)
    while line is not None and line.opcode in ("copy", "bitcast"):
        line = lines.get(line.operands[0])
    if line is None or line.opcode != "get-tuple-element":
        return None
    found = re.search(r"index=(\d+)", line.attributes)
    return int(found.group(1)) if found else None


def _constant(lines: dict[str, Instruction], name: str, module: Module) -> int | None:
    line = lines.get(name)
    while line is not None and line.opcode in ("copy", "bitcast", "convert"):
        line = lines.get(line.operands[0])
    if line is None or line.opcode != "constant" or line.shapes[0].sizes:
        return None
    try:
        return int(line.arguments)
    except ValueError:
        return None
