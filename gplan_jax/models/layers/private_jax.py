"""What we use of JAX that has no public name: all of it, and only here."""

from __future__ import annotations

import importlib
from types import ModuleType

import jax

from gplan_jax.foundation.errors import GplanError

# Module below jax._src -> the names in it, with those inside of them, and why no public one serves.
PRIVATE: dict[str, tuple[str, ...]] = {
    # jax.nn.dot_product_attention's gradient ignores the cotangent of the log-sum-exp, which it
    # moreover rounds to bfloat16.
    "cudnn.fused_attention_stablehlo": (
        "AttentionLayout",
        "MaskType",
        "dot_product_attention",
        "_dot_product_attention_bwd_p_wrapper",
    ),
    # The key-value store of the processes of a run.
    "distributed": ("global_state.client",),
    # What tells a run's processes from one another: jax.distributed.initialize asks Kubernetes' API
    # server besides, and fails in any pod that is not of an indexed Job.
    "clusters": (
        "GceTpuCluster.is_env_present",
        "GkeTpuCluster._get_worker_list_in_slice",
        "OmpiCluster.get_local_process_id",
        "SlurmCluster.get_coordinator_address",
    ),
}


def private_jax(module: str, mend: str = "") -> ModuleType:
    """A module of ``PRIVATE``; GplanError, with the ``mend``, where this jax has moved a name."""
    try:
        found = importlib.import_module(f"jax._src.{module}")
        for name in PRIVATE[module]:
            value = found
            for part in name.split("."):
                value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise GplanError(
            f"jax {jax.__version__} has moved what is used of its {module} ({error}); install the "
            f"jax of constraints.txt{mend}."
        ) from None
    return found
