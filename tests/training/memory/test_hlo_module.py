"""Reading the text of a compiled module: lines, shapes, and how often a computation runs."""

from __future__ import annotations

import re

import pytest

from gplan_jax.training.memory.hlo_module import Shape, parse_module, parse_shapes

# The form that TPU compilers print: layouts with brackets, no stated trip count.
COUNTED = """HloModule jit_step, is_scheduled=true, num_partitions=4

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %one = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%count, %one), metadata={op_name="jit(f)/while/body (x) = y"}
  %value = f32[8]{0:T(8,128)S(1)} get-tuple-element(%arg), index=1
  ROOT %both = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) tuple(%next, %value)
}

%condition (arg.1: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(LIMIT)
  %arg.1 = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count.1, %limit), direction=DIRECTION
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0:T(8,128)} parameter(0)
  %start = s32[]{:T(128)} constant(START)
  %pair = (s32[]{:T(128)}, f32[8]{0:T(8,128)}) tuple(%start, %x)
  %loop = (s32[]{:T(128)}, f32[8]{0:T(8,128)}) while(%pair), condition=%condition, body=%body
  ROOT %out = f32[8]{0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def counted(*, start: int = 0, limit: str = "28", step: str = "1", direction: str = "LT") -> str:
    text = COUNTED.replace("START", str(start)).replace("LIMIT", limit)
    return text.replace("STEP", step).replace("DIRECTION", direction)


def test_lines_shapes_and_layouts_are_read() -> None:
    module = parse_module(counted())
    assert (module.entry, module.partitions) == ("main", 4)
    loop = module.computations["main"].instructions["loop"]
    assert (loop.opcode, loop.operands) == ("while", ("pair",))
    assert loop.shapes == (Shape("s32", ()), Shape("f32", (8,)))
    assert module.computations["body"].root.name == "both"
    assert module.computations["body"].instructions["next"].operands == ("count", "one")


@pytest.mark.parametrize(
    ("text", "bytes_", "in_hbm"),
    [
        ("bf16[2,3]{1,0:T(8,128)(2,1)}", 12, True),
        ("f32[4]{0:T(1024)S(1)}", 16, False),
        ("pred[]", 1, True),
        ("s4[8]{0}", 4, True),
    ],
)
def test_bytes_of_a_shape_and_where_it_lives(text: str, bytes_: float, in_hbm: bool) -> None:
    (shape,) = parse_shapes(text)
    assert (shape.bytes, shape.in_hbm) == (bytes_, in_hbm)


@pytest.mark.parametrize(
    ("kwargs", "trips"),
    [
        ({}, 28),
        ({"start": 4}, 24),
        ({"step": "3"}, 10),
        ({"direction": "LE"}, 29),
        ({"start": 9, "limit": "0", "step": "-1", "direction": "GT"}, 9),
        ({"start": 5, "limit": "5"}, 0),
        ({"direction": "NE"}, 28),
    ],
)
def test_trips_of_a_counted_loop(kwargs: dict, trips: int) -> None:
    module = parse_module(counted(**kwargs))
    loop = module.computations["main"].instructions["loop"]
    assert module.trip_count("main", loop) == trips
    assert module.executions()[0]["body"] == (trips or 1)


def test_what_the_compiler_states_goes_before_what_is_read() -> None:
    stated = counted().replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    )
    assert parse_module(stated).executions()[0]["body"] == 7


def test_a_loop_that_the_data_end_counts_once_and_is_named() -> None:
    text = counted().replace(
        "%limit = s32[]{:T(128)} constant(28)", "%limit = s32[]{:T(128)} sine(%arg.1)"
    )
    counts, unknown = parse_module(text).executions()
    assert unknown == ("loop",)
    assert counts["body"] == 1


def test_loops_inside_loops_multiply() -> None:
    outer = """%outer_body (arg.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg.2 = (s32[], f32[8]) parameter(0)
  %inner = (s32[], f32[8]) while(%arg.2), condition=%condition, body=%body, TRIPS(5)
  ROOT %again = (s32[], f32[8]) copy(%inner)
}

ENTRY"""
    text = counted().replace("ENTRY", outer)
    text = text.replace("while(%pair), condition=%condition, body=%body", "while(%pair), OUTER")
    text = text.replace("OUTER", "condition=%condition, body=%outer_body, TRIPS(3)")
    text = re.sub(r"TRIPS\((\d)\)", r'backend_config={"known_trip_count":{"n":"\1"}}', text)
    counts, _ = parse_module(text).executions()
    assert (counts["outer_body"], counts["body"]) == (3, 15)


def test_a_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        parse_module("HloModule nothing")
