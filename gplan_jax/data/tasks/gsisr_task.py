"""GSISR as a task, and how it is kept beside a model's weights.

MODEL/prompt/system.j2 and user.j2   the prompt template
MODEL/library.yaml                   the intent library, and how rows are written
MODEL/service/                       the service that it was trained for
MODEL/intent_counts.json             counts of the training plans, for drafts; not needed otherwise
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.task import (
    PROMPT_FOLDER,
    TASK_FILE,
    Example,
    ExamplePair,
    Response,
    RowScores,
    Task,
    read_task_file,
)
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    COLUMNS,
    IntentLibrary,
    PromptTemplate,
    Sample,
    Service,
    canonical_plan,
    check_plan,
    latent_failure,
    latent_valid,
    parse_plan,
    read_context_pairs,
    read_labelled_samples,
    read_numbered_samples,
    score_prediction,
)
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.gsisr.service import MEND, service_of_prompt
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary, Prompt, read_response

LIBRARY_FILE, COUNTS_FILE = "library.yaml", "intent_counts.json"
TIERS = ("format", "schema", "logic")
UNREADABLE = ("not_json", "not_a_list")
PLAN_MEASURES = (
    "acc1", "ndcg3", "nes", "ndcg3_unique", "ndcg3_positional", "exact", "acc1_tool", "ndcg3_tool",
)  # fmt: skip
FILTER_MEASURES = ("filter_pass", *(f"filter_pass_{tier}" for tier in TIERS))
MODEL_MEASURES = (*PLAN_MEASURES, "latent_valid", *FILTER_MEASURES)


@dataclass(frozen=True)
class GsisrTask(Task):
    """Plans for contexts, by a prompt template and an intent library."""

    template: PromptTemplate
    library: IntentLibrary

    name: ClassVar[str] = "gsisr"
    cuts_prompts: ClassVar[bool] = True
    reasoning_mend: ClassVar[str] = "Write it with `gplan explain --data FILE --out FILE`."
    measures: ClassVar[tuple[str, ...]] = MODEL_MEASURES

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        template: str | None = None,
        service: str | None = None,
        prompt_length: int | None = None,
        response: Response | None = None,
    ) -> GsisrTask:
        """The task of a model directory; ``service`` is for one that holds none, and ``template``
        replaces its prompt. A shipped template tells its service.

        GplanError where the directory's files are broken, it is a model of another task or service,
        or nothing tells of which.
        """
        name, stored_length, stored_response = read_task_file(model_dir)
        if name != cls.name:
            raise GplanError(
                f"{model_dir / TASK_FILE}: this model's task is {name}, and what was asked for is "
                f"of the task {cls.name}; `gplan evaluate` scores it."
            )
        lengths: dict[str, Any] = {
            "prompt_length": prompt_length or stored_length,
            "response": response or stored_response,
        }
        stored = model_dir / LIBRARY_FILE
        library = IntentLibrary.load(stored) if stored.is_file() else None
        if service is None and library is None and template is not None:
            service = service_of_prompt(template)
        found = Service.load(service) if service is not None else None
        if library is None:
            if found is None:
                if not model_dir.is_dir():
                    raise GplanError(f"{model_dir} is not a model directory: there is none.")
                raise GplanError(f"{model_dir} does not say which service it plans for. {MEND}")
            return cls(found.template(template), found.library, **lengths)
        if found is not None and library.name != found.name:
            raise GplanError(
                f"{model_dir} is a model of the service {library.name}, not of {found.name}."
            )
        # Naming the service that it has changes nothing: its own prompt stays.
        if found is None or template is None:
            prompt = PromptTemplate.load(template or model_dir / PROMPT_FOLDER)
        else:
            prompt = found.template(template)
        return cls(prompt, library, **lengths)

    @property
    def prompt_sources(self) -> list[Any]:
        return [self.template.system, self.template.user, self.library.model_dump(mode="json")]

    def read(
        self, path: str | Path, latents: LatentVocabulary, faulty: FaultyRows | None = None
    ) -> Iterator[Example]:
        rows = read_labelled_samples(path, self.library, vocabulary=latents, faulty=faulty)
        for sample, label in rows:
            steps = (f"STEP_{number}" for number in range(1, len(label.plan) + 1))
            yield Example(
                sample.id,
                sample,
                label.trace.blocks if label.trace else (),
                (*latents.context_blocks, *steps),
                canonical_plan(label.plan, self.library),
            )

    def read_pairs(
        self, path: str | Path, latents: LatentVocabulary, faulty: FaultyRows | None = None
    ) -> Iterator[ExamplePair]:
        def example(sample: Sample) -> Example:
            blocks, plan = read_response(sample.raw_labels, latents)
            return Example(sample.id, sample, blocks, tuple(name for name, _ in blocks), plan)

        for pair in read_context_pairs(path, self.library, vocabulary=latents, faulty=faulty):
            examples = (example(pair.anchor), example(pair.counterfactual))
            yield ExamplePair(pair.key, examples, pair.provenance.changed)

    def read_contexts(
        self, path: str | Path, faulty: FaultyRows, *, skip: int = 0
    ) -> Iterator[tuple[int, str, Sample]]:
        """Samples, labelled or not; a column that lacks is empty, as in a request to a server."""
        rows = read_numbered_samples(path, form=self.library.rows, faulty=faulty, skip=skip)
        return ((number, sample.id, sample) for number, sample in rows)

    def context_of(self, texts: Sequence[Any]) -> Sample:
        known, more = texts[: len(COLUMNS)], texts[len(COLUMNS) :]
        texts_of: dict[str, Any] = dict(zip(COLUMNS, known, strict=True))
        return Sample(**texts_of, extra=tuple(*more), written=self.library.rows)

    def prompt(self, context: Sample) -> Prompt:
        user = self.template.render_user(context, self.library, self.response)
        return Prompt(self._system, user)

    @cached_property
    def _system(self) -> str:
        return self.template.render_system(self.library, self.response)

    def score(self, text: str, example: Example, encoder: ChatEncoder) -> RowScores:
        """The paper's measures; see ``score_text``."""
        latents = encoder.latents if self.has_latents else None
        return score_text(text, example.answer, self.library, latents)

    def read_answer(self, text: str, encoder: ChatEncoder) -> dict[str, Any]:
        """The plan, and whether the latent prefix (None for none) and the rule filter pass."""
        valid, library = None, self.library
        if self.response != "plan":
            valid = latent_valid(text, encoder.latents, library)
        passed = not check_plan(text, library)
        return {"plan": parse_plan(text, library), "latent_valid": valid, "passed": passed}

    def save(self, model_dir: Path, examples: Iterable[Example] = ()) -> None:
        """Writes the task into a model directory, with the counts of the plans of ``examples``."""
        self.template.save(model_dir / PROMPT_FOLDER)
        self.library.save(model_dir / LIBRARY_FILE)
        if self.library.folder:
            Service.load(self.library.folder).copy_to(model_dir)
        super().save(model_dir)
        plans = ((row.context, parse_plan(row.answer, self.library)) for row in examples)
        if len(counts := IntentCounts.fit(plans, self.library)):
            counts.save(model_dir / COUNTS_FILE)


def score_text(
    text: str, label: str, library: IntentLibrary, latents: LatentVocabulary | None = GSISR_LATENTS
) -> RowScores:
    """Scores one raw answer against one raw label (paper, section 5.1.2) and the rule filter.

    Without ``latents`` nobody asks whether it is Latent-Valid, and the scores don't say.
    """
    score = score_prediction(text, label, library)
    failure = latent_failure(text, latents, library) if latents else None
    violations = tuple((v.tier, v.code) for v in check_plan(text, library))
    # What is no list at all has nothing that the later tiers could find fault with.
    unreadable = any(code in UNREADABLE for _, code in violations)
    broken = set(TIERS) if unreadable else {tier for tier, _ in violations}
    values = {measure: float(getattr(score, measure)) for measure in PLAN_MEASURES}
    if latents:
        values["latent_valid"] = float(failure is None)
    values["filter_pass"] = float(not violations)
    values |= {f"filter_pass_{tier}": float(tier not in broken) for tier in TIERS}
    return RowScores(values, failure, violations)
