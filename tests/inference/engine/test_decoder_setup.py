"""What a user's next prompt shares with this one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, PromptTemplate, Sample
from gplan_jax.gsisr.context_pairs import SPATIOTEMPORAL_COLUMNS
from gplan_jax.inference.engine.decoder_setup import Prompter, elsewhere
from gplan_jax.inference.engine.requests import PlanRequest

CONTEXT = (*SPATIOTEMPORAL_COLUMNS, *(f"trigger_{number}" for number in range(1, 8)))


@pytest.fixture(scope="module")
def prompter(tiny_model_dir: Path) -> Prompter:
    encoder = ChatEncoder.load(tiny_model_dir)
    return Prompter(encoder, PromptTemplate.load("amap_zh"), IntentLibrary.load(), 4000)


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
    short = dataclasses.replace(prompter, max_length=system + 400)
    prompted = short.prompted(PlanRequest(row))
    assert len(prompted.ids) == system + 400
    assert list(prompted.ids[:system]) == prompter.system_ids(row)


def test_a_template_that_reads_a_column_as_a_number_shares_nothing(
    prompter: Prompter, world_rows: list[Sample]
) -> None:
    template = PromptTemplate("picky", "system", "{{ 1 / (sample.current_tag | length - 2) }}")
    picky = dataclasses.replace(prompter, template=template)
    row = dataclasses.replace(world_rows[0], current_tag="a")  # "#a" would divide by zero
    prompted = picky.prompted(PlanRequest(row, temperature=0.7, seed=5))
    assert prompted.shared == 0
    assert (prompted.temperature, prompted.seed) == (0.7, 5)
    with pytest.raises(GplanError, match="can't be filled in"):
        picky.prompted(PlanRequest(dataclasses.replace(row, current_tag="#a")))
