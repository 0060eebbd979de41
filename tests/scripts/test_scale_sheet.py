"""docs/scale.md holds the tables that the script prints; a plan costs what a hand count says."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))


def test_the_page_shows_what_the_script_prints() -> None:
    from scale_sheet import Assumptions, sheets

    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    for table in sheets(Assumptions()):
        assert table in page


def test_a_plan_is_its_own_prompt_and_the_tokens_of_its_passes() -> None:
    from scale_sheet import NODES, PASSES, PROMPT, SHARED, plan_flops

    own, verified = PROMPT - SHARED, PASSES * NODES
    # Qwen3-1.7B: 28 layers of query, key, value, output (2048 x 128 x 48) and three of 2048 x 6144.
    weights = 28 * (2048 * 128 * 48 + 3 * 2048 * 6144)
    pairs = sum(SHARED + 1 + at for at in range(own)) + verified * PROMPT
    attention = pairs * 28 * 16 * 128 * 4
    head = verified * 2048 * 151_936 * 2
    by_hand = 2 * weights * (own + verified) + attention + head
    assert plan_flops("qwen3-1.7b") == pytest.approx(by_hand, rel=1e-9)


def test_half_the_share_takes_twice_the_time_and_twice_the_price_costs_twice() -> None:
    from scale_sheet import Assumptions, plans

    at_40 = next(iter(plans(Assumptions(used=0.4, prices=(2.0, 1.2, 0.05)))))
    at_20 = next(iter(plans(Assumptions(used=0.2, prices=(1.0, 1.2, 0.05)))))
    assert float(at_40[2]) == pytest.approx(2 * float(at_20[2]), abs=1.5)
    assert at_40[3].split("$")[1] == at_20[3].split("$")[1]
