"""Training: typed run configs, the pure jit-compiled step, checkpoints and the loop."""

from gplan_jax.training.steps.step import TrainState, make_train_step
from gplan_jax.training.steps.train_config import TrainConfig
