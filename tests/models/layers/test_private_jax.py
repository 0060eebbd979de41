"""The private names of JAX: where they stand, and that this jax has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gplan_jax
from gplan_jax.foundation import GplanError
from gplan_jax.models.layers import private_jax as module
from gplan_jax.models.layers.private_jax import PRIVATE, private_jax

REPOSITORY = Path(gplan_jax.__file__).parents[1]
# Underscored modules of the libraries whose newest versions are tried, imported or reached for.
UNDERSCORED = re.compile(r"\b(jax|jaxlib|flax|nnx|optax|orbax|grain|chex)(\.\w+)*\._(?!_)\w+")


@pytest.mark.parametrize("name", PRIVATE)
def test_this_jax_has_them(name: str) -> None:
    """Where this fails, a newer jax has moved a name: find it, and keep both places."""
    private_jax(name)


def test_they_are_named_in_one_place() -> None:
    place = Path(module.__file__)
    named = {
        path.relative_to(REPOSITORY)
        for folder in ("gplan_jax", "scripts", "tests")
        for path in (REPOSITORY / folder).rglob("*.py")
        if path not in (place, Path(__file__)) and UNDERSCORED.search(path.read_text())
    }
    assert named == set()
    assert UNDERSCORED.search(place.read_text())


def test_what_has_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIVATE, "clusters", ("SlurmCluster.gone",))
    with pytest.raises(GplanError, match=r"its clusters \(.*'gone'\); install the jax of const"):
        private_jax("clusters")
    monkeypatch.setitem(PRIVATE, "no_module", ())
    with pytest.raises(GplanError, match=r"No module named 'jax._src.no_module'.*, or not\."):
        private_jax("no_module", ", or not")
