"""The shapes that an engine compiles for hold everything that may come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.inference.engine.programs import PAGE, shapes_of


@given(
    prompt=st.integers(1, 5000),
    tail=st.integers(0, 60),
    response=st.integers(1, 400),
    slots=st.integers(1, 256),
    nodes=st.integers(1, 1024),
)
def test_every_prompt_pass_and_response_has_its_place(
    prompt: int, tail: int, response: int, slots: int, nodes: int
) -> None:
    shapes = shapes_of(
        prompt=prompt,
        tail=tail,
        response=response,
        slots=slots,
        nodes=nodes,
        queries=1,
    )
    longest = prompt + tail
    assert len(shapes.buckets) <= 11
    for tokens in {1, longest // 3 + 1, longest}:
        bucket = shapes.bucket(tokens)
        assert tokens <= bucket <= tokens + max(PAGE, longest / 10 + PAGE)
        assert bucket <= shapes.places
    for highest in {0, slots // 2, slots - 1}:
        rows = shapes.rows(highest)
        assert highest < rows <= min(slots, max(1, 2 * highest))
        # The tree behind the longest response, and the window that closes it up.
        assert longest + response + shapes.window <= shapes.places
        assert min(nodes, 16) <= shapes.nodes[rows] <= max(nodes, 16)
    assert shapes.nodes[1] == nodes
    assert all(rows * shapes.nodes[rows] <= max(nodes, rows * 16) for rows in shapes.nodes)
