"""Training: typed run configs, the pure jit-compiled step, checkpoints and the loop."""

from gplan_jax.training.config import TrainConfig
from gplan_jax.training.state import TrainState
from gplan_jax.training.step import make_train_step

__all__ = ["TrainConfig", "TrainState", "make_train_step"]
