"""One prompt for a context, whoever asks, and what a user's next one shares with it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.pieces import cut_row
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.task import Example, Mode
from gplan_jax.data.training_set import TrainingSet
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, PromptTemplate, Sample
from gplan_jax.gsisr.context_pairs import SPATIOTEMPORAL_COLUMNS
from gplan_jax.inference.engine import decoder_setup, engine, planner
from gplan_jax.inference.engine.decoder_setup import Prompter, build_prompter, elsewhere
from gplan_jax.inference.engine.requests import EngineConfig, PlanRequest

CONTEXT = (*SPATIOTEMPORAL_COLUMNS, *(f"trigger_{number}" for number in range(1, 8)))


@pytest.fixture(scope="module")
def prompter(tiny_model_dir: Path) -> Prompter:
    encoder = ChatEncoder.load(tiny_model_dir)
    return Prompter(
        encoder, GsisrTask(PromptTemplate.load("amap_zh"), IntentLibrary.load(), prompt_length=4000)
    )


def test_elsewhere_changes_every_column_of_the_context_and_no_other(
    world_rows: list[Sample],
) -> None:
    for row in world_rows:
        other = elsewhere(row)
        assert {c for c in COLUMNS if getattr(row, c) != getattr(other, c)} == set(CONTEXT)


def test_a_prompt_shares_all_but_its_context(prompter: Prompter, world_rows: list[Sample]) -> None:
    for row in world_rows[:5]:
        prompted = prompter.prompted(PlanRequest(row))
        system = len(prompter.system_ids(row))
        assert system < prompted.shared < len(prompted.ids)
        shared = prompter.encoder.decode(prompted.ids[: prompted.shared])
        rest = prompter.encoder.decode(prompted.ids[prompted.shared :])
        assert row.long_term_behavior in shared and row.profile_feat_13 in shared
        assert row.currenttime[-8:] in rest and row.trigger_4 in rest


@settings(max_examples=20)
@given(data=st.data())
def test_every_other_context_of_the_user_shares_as_much(
    prompter: Prompter, world_rows: list[Sample], data: st.DataObject
) -> None:
    row, other = (data.draw(st.sampled_from(world_rows)) for _ in range(2))
    moved = dataclasses.replace(row, **{c: getattr(other, c) for c in CONTEXT})
    here, there = (prompter.prompted(PlanRequest(sample)) for sample in (row, moved))
    assert here.shared == there.shared
    assert list(here.ids[: here.shared]) == list(there.ids[: there.shared])
    assert here.context == prompter.prompted(PlanRequest(row)).context


def test_a_prompt_that_is_cut_may_share_nothing_beyond_the_system_prompt(
    prompter: Prompter, world_rows: list[Sample]
) -> None:
    row = dataclasses.replace(world_rows[0], short_term_behavior_seq="去" * 3000)
    system = len(prompter.system_ids(row))
    task = dataclasses.replace(prompter.task, prompt_length=system + 400)
    short = dataclasses.replace(prompter, task=task)
    prompted = short.prompted(PlanRequest(row))
    assert len(prompted.ids) == system + 400
    assert list(prompted.ids[:system]) == prompter.system_ids(row)


def test_a_template_that_reads_a_column_as_a_number_shares_nothing(
    prompter: Prompter, world_rows: list[Sample]
) -> None:
    template = PromptTemplate("picky", "system", "{{ 1 / (sample.current_tag | length - 2) }}")
    task = dataclasses.replace(prompter.task, template=template)
    picky = dataclasses.replace(prompter, task=task)
    row = dataclasses.replace(world_rows[0], current_tag="a")  # "#a" would divide by zero
    prompted = picky.prompted(PlanRequest(row, temperature=0.7, seed=5))
    assert prompted.shared == 0
    assert (prompted.temperature, prompted.seed) == (0.7, 5)
    with pytest.raises(GplanError, match="can't be filled in"):
        picky.prompted(PlanRequest(dataclasses.replace(row, current_tag="#a")))


@dataclasses.dataclass(frozen=True)
class Prompts:
    """What turns a context into a prompt in training, and wherever a model plans."""

    rows: TrainingSet
    prompters: dict[str, Prompter]


@pytest.fixture(scope="module")
def prompts(
    tiny_model_dir: Path, world_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prompts:
    folder = tmp_path_factory.mktemp("room") / "model"
    shutil.copytree(tiny_model_dir, folder)
    encoder = ChatEncoder.load(folder)
    task = GsisrTask(
        PromptTemplate.load("amap_zh"), IntentLibrary.load(), prompt_length=10**6, response="latent"
    )
    cache = world_file.parent / "tokens"
    rows = TrainingSet.read(world_file, encoder=encoder, task=task, mode=Mode.PICD, cache=cache)
    room = int(rows.lengths(1)[..., 0].max()) + 20  # Of the rows themselves, none is cut.
    rows = dataclasses.replace(rows, task=dataclasses.replace(task, prompt_length=room))
    rows.task.save(folder)

    class Found(Exception):
        pass

    def prompter(plan: Callable[[], object]) -> Prompter:
        """The one that is made for a decoder; there planning ends."""

        def build(task: GsisrTask, encoder: ChatEncoder, config: EngineConfig) -> None:
            raise Found(build_prompter(task, encoder, config))

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Found) as found:
            patch.setattr(decoder_setup, "build_prompter", build)
            plan()
        return found.value.args[0]

    sample, serving = [rows.examples[0].context], EngineConfig(max_new_tokens=7)
    loaded = planner.Planner.load(folder, max_new_tokens=300)
    in_training = planner.Planner(loaded.model, encoder, rows.task, max_new_tokens=900)
    ways = {
        "evaluation in training": lambda: in_training.generate(sample),
        "evaluate and plan": lambda: loaded.generate(sample),
        "by the grammar": lambda: planner.Planner.load(folder, mode="drafted").generate(sample),
        "serve": lambda: engine.PlanEngine.load(folder, serving),
    }
    return Prompts(rows, {name: prompter(way) for name, way in ways.items()})


class OneRow(list[Example]):
    """A row that is in no file, tokenized as ``open_rows`` does."""

    def __init__(self, row: Example, rows: TrainingSet) -> None:
        super().__init__([row])
        [user_ids] = rows.encoder.user_ids([rows.task.prompt(row.context)])
        self.cut = cut_row(row, user_ids, rows.encoder, number=0)
        self.kinds, self.kinds_N = [(row.block_names, True, len(self.cut) > 1)], [0]

    def pieces(self, row: int) -> list[np.ndarray]:
        return self.cut


@settings(max_examples=30)
@given(data=st.data())
def test_training_evaluation_and_serving_give_the_decoder_the_same_ids(
    prompts: Prompts, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(prompts.rows) - 1))
    history = "去" * data.draw(st.integers(0, 60)) + data.draw(st.text(max_size=60))
    example = prompts.rows.examples[row]
    sample = example.context
    sample = dataclasses.replace(
        sample, short_term_behavior_seq=sample.short_term_behavior_seq + history
    )
    asked = dataclasses.replace(
        prompts.rows, examples=OneRow(dataclasses.replace(example, context=sample), prompts.rows)
    )
    prompt_ids, _ = asked.tokenize(0, stage=data.draw(st.integers(0, 9)))
    ids = prompt_ids.tolist()
    for prompter in prompts.prompters.values():
        assert list(prompter.prompted(PlanRequest(sample)).ids) == ids
    # A longer prompt loses the left of its user part, as much as it is too long.
    task, encoder = prompts.rows.task, prompts.rows.encoder
    whole = encoder.prompt_ids(task.prompt(sample), max_length=10**6).tolist()
    head = len(prompts.rows.prefix_ids)
    assert ids == whole[:head] + whole[head + max(0, len(whole) - task.prompt_length) :]
