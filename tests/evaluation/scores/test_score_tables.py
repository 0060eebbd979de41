"""Tables: they show the figures, fit the terminal and take a model's words for text."""

from __future__ import annotations

from typing import Any

import pytest

from gplan_jax.evaluation.scores.score_tables import comparison_table, metrics_view, plan_view
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.tables import plain_text
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.reasoning import GSISR_LATENTS

LIBRARY = IntentLibrary.load()
PLAN = (
    '[{"工具名称":"tool_6"},{"工具名称":"tool_9"},'
    '{"工具名称":"tool_5","起始位置":"当前位置","空间范围":"附近","tag":"美食"}]'
)


def metrics(*, rows: int = 140, floors: bool = True) -> dict[str, Any]:
    model = {
        "acc1": 0.612, "ndcg3": 0.7591, "nes": 0.6214,
        "latent_valid": 0.995, "exact": 0.125, "filter_pass": 0.985,
        "acc1_tool": 0.701, "ndcg3_tool": 0.8123,
    }  # fmt: skip
    static = {"acc1": 0.0, "ndcg3": 0.7461, "nes": 0.257, "exact": 0.0, "filter_pass": 1.0}
    intervals = {name: [value - 0.05, value + 0.04] for name, value in model.items()}
    return {
        "rows": rows,
        "ids": 133,
        "model": model,
        "floors": {"popularity_list": static} if floors else {},
        "floors_left_out": None if floors else "no training rows were given",
        "intervals": {"model": intervals, "floors": {}, "method": "any"},
        "latent_failures": {},
        "violations": {},
    }


def cells_of(text: str, first: str) -> list[str]:
    line = next(line for line in text.splitlines() if first in line)
    return [cell.strip() for cell in line.strip("│┃ ").split("│")][1:]


def test_the_model_stands_above_the_floors_with_its_intervals() -> None:
    text = plain_text(metrics_view(metrics(), name="picd"))
    assert cells_of(text, "picd") == ["61.2", "0.759", "0.621", "99.5", "12.5", "98.5"]
    assert cells_of(text, "95% from") == ["56.2", "0.709", "0.571", "94.5", "7.5", "93.5"]
    assert cells_of(text, "95% to")[:3] == ["65.2", "0.799", "0.661"]
    assert cells_of(text, "tools alone") == ["70.1", "0.812", *"––––"]
    assert cells_of(text, "popularity list") == ["0.0", "0.746", "0.257", "–", "0.0", "100.0"]
    assert text.index("picd") < text.index("popularity list")


def test_the_caption_says_how_many_rows_and_what_a_static_list_reaches() -> None:
    text = " ".join(plain_text(metrics_view(metrics())).split())
    assert "140 rows of 133 ids" in text
    assert "static list of four frequent intents reaches NDCG@3 0.746" in text


def test_without_floors_the_caption_gives_the_reason_and_a_caution() -> None:
    text = " ".join(plain_text(metrics_view(metrics(floors=False))).split())
    assert "No floors: no training rows were given" in text
    assert "NDCG@3 alone says little" in text


def test_the_widest_table_fits_a_plain_terminal_uncut() -> None:
    widest = metrics()
    widest["model"] = dict.fromkeys(widest["model"], 1.0)
    widest["intervals"]["model"] = {name: [1.0, 1.0] for name in widest["model"]}
    widest["floors"]["majority_first_intent"] = widest["floors"]["popularity_list"]
    text = plain_text(metrics_view(widest), width=80)
    assert "…" not in text
    assert cells_of(text, "majority first intent")[1] == "0.746"
    assert cells_of(text, "95% to")[3] == "100.0"


def test_runs_on_different_rows_do_not_stand_in_one_table() -> None:
    assert "cot_sft" in plain_text(comparison_table({"picd": metrics(), "cot_sft": metrics()}))
    with pytest.raises(GplanError, match="picd 140, cot_sft 20"):
        comparison_table({"picd": metrics(), "cot_sft": metrics(rows=20)})


def test_a_plan_shows_each_intent_with_its_meaning_and_the_verdicts() -> None:
    latents = "".join(GSISR_LATENTS.tokens[:15])
    text = plain_text(
        plan_view(f"<THOUGHT>{latents}</THOUGHT>{PLAN}", LIBRARY, latents=GSISR_LATENTS)
    )
    assert cells_of(text, " 3 ") == [
        "tool_5", LIBRARY.tools["tool_5"].meaning, "起始位置=当前位置 空间范围=附近 tag=美食",
    ]  # fmt: skip
    assert "Latent-Valid: yes" in text
    assert "Rule filter:  passed" in text
    assert "label" not in text.lower()


def test_what_is_wrong_with_a_plan_stands_below_it() -> None:
    text = plain_text(
        plan_view('[{"工具名称":"tool_77"},{"工具名称":"tool_9"}]', LIBRARY, latents=GSISR_LATENTS)
    )
    assert "not in the library" in text
    assert "Latent-Valid: no (block" in text
    assert "Rule filter:  not passed" in text
    assert "format/too_short" in text
    assert "schema/unknown_tool" in text


def test_a_labelled_row_shows_its_label_and_the_scores() -> None:
    text = plain_text(
        plan_view(PLAN, LIBRARY, label='[{"工具名称":"tool_6"},{"工具名称":"tool_8"}]')
    )
    assert "Label" in text
    assert LIBRARY.tools["tool_8"].meaning in text
    assert "Acc@1 1, NDCG@3 0.613, NES 0.333" in text


def test_a_model_cannot_style_the_terminal() -> None:
    text = plain_text(plan_view('[{"工具名称":"[red]x[/red]","tag":"[/oops]"}]', LIBRARY))
    assert "[red]x[/red]" in text
    assert "[/oops]" in text


def test_where_there_is_no_plan_the_answer_is_shown() -> None:
    sorry = plain_text(plan_view("sorry", LIBRARY))
    assert "No plan in the answer: 'sorry'" in sorry
    assert "Latent-Valid" not in sorry  # nobody asked
    assert plain_text(plan_view("x" * 5000, LIBRARY)).count("x") < 250
