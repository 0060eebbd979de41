"""The GSISR task: samples, intent library, plans, prompts, rule filter and metrics (no JAX)."""

from gplan_jax.gsisr.context_pairs import (
    ContextPair,
    Provenance,
    check_shared,
    read_context_pairs,
    write_context_pairs,
)
from gplan_jax.gsisr.facts import (
    Behavior,
    Facts,
    Habit,
    facts_of,
    long_term,
    place_kind,
    short_term,
)
from gplan_jax.gsisr.filter import Violation, check_plan
from gplan_jax.gsisr.labels import Label, RowPlace, parse_label, read_labelled_samples
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.metrics import (
    PlanScore,
    latent_failure,
    latent_valid,
    ndcg,
    normalized_edit_similarity,
    score_prediction,
)
from gplan_jax.gsisr.plans import Intent, Plan, canonical_plan, parse_plan
from gplan_jax.gsisr.prompts import PromptTemplate, training_texts
from gplan_jax.gsisr.row_form import RowForm
from gplan_jax.gsisr.samples import (
    COLUMNS,
    Sample,
    read_numbered_samples,
    read_samples,
    split_by_id,
    write_samples,
)
from gplan_jax.gsisr.service import Service
from gplan_jax.reasoning import Prompt
