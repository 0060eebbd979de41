from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat import BudgetSpent, ChatConfig, ChatReply, ChatRequest, Message
from gplan_jax.chat.cache import Totals
from gplan_jax.chat.ledger import Account, cost_of, worst_size

NOTHING = Totals(0, 0, 0, 0.0, 0)


def config(**fields: Any) -> ChatConfig:
    return ChatConfig(base_url="http://localhost/v1", model="m", **fields)


def account(before: Totals = NOTHING, **fields: Any) -> Account:
    return Account(config(**fields), before, Path("cache.sqlite"))


def reply(prompt: int | None, completion: int | None, cost: float | None = None) -> ChatReply:
    return ChatReply("", "stop", "k", "m", prompt, completion, False, 1, "none", cost)


def test_prices_are_per_million_tokens() -> None:
    priced = config(prompt_price=3.0, completion_price=15.0)
    assert cost_of(priced, 1_000_000, 200_000) == 6.0
    assert cost_of(priced, None, 5) is None and cost_of(config(), 5, 5) is None


@given(st.lists(st.text(max_size=50), max_size=4))
def test_the_worst_case_holds_every_byte_of_the_prompt(texts: list[str]) -> None:
    request = ChatRequest(tuple(Message("user", text) for text in texts), {"type": "object"})
    size = worst_size(config(max_tokens=77), request)
    assert size[0] >= sum(len(text.encode()) for text in texts) and size[1] == 77
    other = config(extra={"max_tokens": None, "max_completion_tokens": 5000})
    assert worst_size(other, request)[1] == 5000


@given(
    st.integers(0, 3000),
    st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1), st.integers(0, 3)), max_size=25),
)
def test_no_order_of_requests_overruns_the_budget(
    budget: int, requests: list[tuple[int, float, int]]
) -> None:
    """Each request uses a share of its worst case; some wait for others, some are refused."""

    async def main() -> None:
        books = account(token_budget=budget, max_tokens=100)

        async def ask(length: int, share: float, turns: int) -> None:
            request = ChatRequest((Message("user", "x" * length),))
            async with books.reserved(request):
                for _ in range(turns):
                    await asyncio.sleep(0)
                worst = worst_size(config(max_tokens=100), request)
                books.paid(reply(int(worst[0] * share), int(worst[1] * share)))

        async def ask_or_stop(item: tuple[int, float, int]) -> None:
            with suppress(BudgetSpent):
                await ask(*item)

        await asyncio.gather(*(ask_or_stop(item) for item in requests))
        assert books.ledger.tokens <= budget

    asyncio.run(main())


def test_what_a_request_leaves_unused_is_free_for_the_next() -> None:
    async def main() -> None:
        request = ChatRequest((Message("user", "x" * 20),))  # 20 + 64 + 16 + 100 at worst
        books = account(token_budget=220, max_tokens=100)
        order: list[str] = []

        async def ask(name: str, tokens: int) -> None:
            async with books.reserved(request):
                order.append(f"{name} starts")
                await asyncio.sleep(0)
                books.paid(reply(tokens, 0))
                order.append(f"{name} ends")

        await asyncio.gather(ask("a", 10), ask("b", 10))
        assert order == ["a starts", "a ends", "b starts", "b ends"]
        with pytest.raises(BudgetSpent, match=r"21 tokens so far.*could take 200 tokens"):
            for name in ("c", "d"):
                await ask(name, 1)

    asyncio.run(main())


def test_earlier_runs_count() -> None:
    async def main() -> None:
        request = ChatRequest((Message("user", "x"),))
        before = Totals(10, 900, 100, 4.5, 0)
        with pytest.raises(BudgetSpent):
            async with account(before, token_budget=1100).reserved(request):
                pass
        prices = {"prompt_price": 1.0, "completion_price": 1.0}
        with pytest.raises(BudgetSpent, match=r"budget 4\.5.*USD 4.5000 so far"):
            async with account(before, budget=4.5, **prices).reserved(request):
                pass
        async with account(before, budget=5.0, **prices).reserved(request):
            pass

    asyncio.run(main())


def test_the_note_says_what_there_is_to_say() -> None:
    books = account(prompt_price=1.0, completion_price=1.0)
    assert books.ledger.note() == "0 asked, 0 tokens, 0.00 USD"
    books.paid(reply(1500, 500, 0.002))
    books.count(from_cache=1200, retries=3)
    assert books.ledger.note() == "1 asked, 1,200 cached, 3 retries, 2.0k tokens, 0.00 USD"
    budgeted = account(
        Totals(1, 10, 10, 2.25, 0), budget=10.0, prompt_price=1.0, completion_price=1.0
    )
    budgeted.paid(reply(1, 1, 0.5))
    assert budgeted.ledger.note().endswith("2.75 of 10 USD")
    assert "USD" not in account().ledger.note()
