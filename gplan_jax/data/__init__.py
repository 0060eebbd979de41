"""From rows to typed batches: token ids and sections, length-bucketed plans, Grain pipelines."""

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.batches import Batch, PairRows, SampleRows
from gplan_jax.data.encoding import ChatEncoder, EncodedResponse
from gplan_jax.data.loaders import PreferenceLoader, SampleLoader
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.tasks.task import Example, Mode, Task
from gplan_jax.data.training_set import TrainingSet
