"""Every kernel of this machine is right, and each, broken on purpose, is called wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import pytest

from gplan_jax.inference.doctor import devices
from gplan_jax.inference.doctor.machine import Finding
from gplan_jax.inference.doctor.run import caught
from gplan_jax.inference.engine import passes
from gplan_jax.models.attention import causal, merge
from gplan_jax.models.attention import kernels as attention
from gplan_jax.models.attention.check import PLAIN_FLASH
from gplan_jax.models.layers import projection, vocabulary


def found(name: str) -> Finding:
    if name.startswith("int8"):
        pytest.importorskip("qwix")
    return caught(name, devices.kernel_checks()[name])


def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is refused for the platform."""
    monkeypatch.setattr(devices, "resolve_kernel", lambda name, **_: name)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(
    "kernel",
    ["attention xla", "prefix tree merge", "int8 weights", "engine passes", "embedding", "head"],
)
def test_is_right_here(kernel: str, dtype: str) -> None:
    finding = found(f"{kernel} {dtype}")
    assert finding.state == "ok" and finding.seen.startswith("error "), finding
    assert ("gradient" in finding.seen) == (kernel != "engine passes")


@pytest.mark.parametrize("kernel", ["cudnn", "splash"])
def test_a_kernel_for_other_devices_is_absent(kernel: str) -> None:
    finding = found(f"attention {kernel} bf16")
    assert finding.state == "absent" and "these devices are cpu" in finding.seen


def test_splash_interpreted_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere(monkeypatch)
    interpreted = partial(attention.splash_attention, interpret=True)
    monkeypatch.setattr(attention, "splash_attention", interpreted)
    assert found("attention splash fp32").state == "ok"


def test_cudnn_over_a_plain_flash_call_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere(monkeypatch)
    monkeypatch.setattr(attention, "CUDNN_FLASH", PLAIN_FLASH)
    assert found("attention cudnn bf16").state == "ok"


def one_key_late(start: int, *operands: Any) -> Any:
    return _ATTEND_BLOCK(start + 1, *operands)


def forgets_the_whole(query: Any, key: Any, value: Any, lengths: Any, o: Any, *rest: Any) -> Any:
    """The backward pass of a part that is not told of the others, as cuDNN's public call is."""
    own, lse = PLAIN_FLASH.forward(query, key, value, lengths)
    return PLAIN_FLASH.backward(query, key, value, lengths, own, lse, rest[1])


def without_context(query: Any, key: Any, value: Any, contexts: Any, **_: Any) -> Any:
    return causal._xla_attention(query, key, value, ())


_ATTEND_BLOCK, _WRITTEN = causal._attend_block, passes._written
BROKEN = {
    "attention xla fp32": (causal, "_attend_block", one_key_late),
    "attention cudnn bf16": (
        attention,
        "CUDNN_FLASH",
        merge.Flash(PLAIN_FLASH.forward, forgets_the_whole),
    ),
    "attention splash fp32": (attention, "splash_attention", without_context),
    "prefix tree merge fp32": (merge, "_empty", lambda context: context.lengths < 0),
    "int8 weights bf16": (projection, "dense", lambda m: m.qvalue.astype(m.dtype) * 0.01),
    "engine passes fp32": (
        passes,
        "_written",
        lambda cache, k, v, at: _WRITTEN(cache, k, v, (*at[:2], at[2] + 1, 0, 0)),
    ),
    "embedding bf16": (devices, "embed_tokens", lambda t, ids_BxS, dtype: t[ids_BxS ^ 1]),
    "head fp32": (
        vocabulary,
        "chunked_token_nll",
        lambda hidden, head, targets, vocab_chunk: vocabulary.partition_and_picked(
            hidden, head[:-1], targets, vocab_chunk=vocab_chunk
        )[0],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_on_purpose_it_is_wrong(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere(monkeypatch)
    monkeypatch.setattr(*BROKEN[name])
    finding = found(name)
    assert finding.state == "wrong" and finding.mend, finding
    instead = "precision.attention=auto" in finding.mend
    assert instead == (name.split()[1] in ("cudnn", "splash"))


def test_a_kernel_that_refuses_is_wrong_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    anywhere(monkeypatch)
    finding = found("attention cudnn bf16")  # on a CPU
    assert finding.state == "wrong" and "cuDNN" in finding.seen
    assert "runs take xla" in finding.mend


def test_weights_rounded_by_more_than_half_a_step_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def floored(matrix: Any, axes: Any, dtype: Any) -> Any:
        right = projection.to_small(matrix, axes, dtype)
        down = jnp.floor(matrix.astype(jnp.float32) / right.scale).astype(jnp.int8)
        return right.replace(qvalue=down)

    monkeypatch.setattr(devices, "to_small", floored)
    finding = found("int8 weights fp32")
    assert finding.state == "wrong" and "steps from its 8-bit one" in finding.seen


def test_too_little_memory_for_a_check_is_no_fault_of_a_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")

    monkeypatch.setattr(devices, "compare", full)
    finding = found("head bf16")
    assert finding.state == "absent" and "too little memory" in finding.mend
