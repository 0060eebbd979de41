"""What a run has asked, received and spent, and the budget that stops it in time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gplan_jax.chat.cache import Totals
from gplan_jax.chat.messages import BudgetSpent, ChatReply, ChatRequest
from gplan_jax.chat.server_config import ChatConfig
from gplan_jax.foundation import GplanError

# Room for what a chat template writes around the messages, and around each of them.
TEMPLATE_TOKENS, TOKENS_PER_MESSAGE = 64, 16


@dataclass(frozen=True, slots=True)
class Ledger:
    """The books at one moment; this run's figures unless said otherwise."""

    # the config's
    currency: str
    budget: float | None
    token_budget: int | None
    # what the cache held when it was opened: earlier runs
    tokens_before: int
    spent_before: float
    without_usage: int  # paid answers, earlier runs included, whose tokens the server didn't report
    cost: float | None  # of this run; None without prices
    requests: int = 0  # answers that the server gave (and bills)
    from_cache: int = 0  # answers that were in the cache, or joined a request under way
    retries: int = 0  # attempts beyond a request's first
    failed: int = 0  # requests that have no answer
    by_others: int = 0  # answers of another model than the one asked for
    # attempts that were sent and ended without a reply (time-outs, cut connections); a server may
    # bill them nevertheless, and no figure here holds them
    unanswered: int = 0
    # as reported
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens of this run together."""
        return self.prompt_tokens + self.completion_tokens

    def note(self) -> str:
        parts = [f"{self.requests:,} asked"]
        if self.from_cache:
            parts.append(f"{self.from_cache:,} cached")
        if self.retries:
            parts.append(f"{self.retries:,} retries")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.by_others:
            parts.append(f"{self.by_others:,} by another model")
        parts.append(f"{_short(self.tokens)} tokens")
        if self.cost is not None:
            of = "" if self.budget is None else f" of {self.budget:g}"
            spent = self.cost + (self.spent_before if self.budget is not None else 0.0)
            parts.append(f"{spent:.2f}{of} {self.currency}")
        if self.without_usage:
            parts.append(f"{self.without_usage:,} without usage")
        return ", ".join(parts)


def cost_of(config: ChatConfig, prompt: int | None, completion: int | None) -> float | None:
    """Cost in the config's currency; None where a price or a count is unknown."""
    prices = (config.prompt_price, config.completion_price)
    if None in prices or prompt is None or completion is None:
        return None
    assert config.prompt_price is not None and config.completion_price is not None
    return (prompt * config.prompt_price + completion * config.completion_price) / 1e6


def worst_size(config: ChatConfig, request: ChatRequest) -> tuple[int, int]:
    """Most tokens, of prompt and completion, that one answer to ``request`` can be billed with.

    A byte-level tokenizer makes at most one token of a UTF-8 byte; the completion ends at
    ``max_tokens``.
    """
    texts = [message.content for message in request.messages]
    if request.schema is not None:
        texts.append(json.dumps(request.schema))
    prompt = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    prompt += TEMPLATE_TOKENS + TOKENS_PER_MESSAGE * len(request.messages)
    most = config.extra.get("max_completion_tokens", config.max_tokens)
    return prompt, most if isinstance(most, int) else config.max_tokens


class Account:
    """Keeps the books, and lets a request go ahead only where its worst case fits the budget.

    ``before`` is what the cache held when it was opened.
    """

    def __init__(self, config: ChatConfig, before: Totals, cache: Path) -> None:
        self._config, self._cache = config, cache
        self.ledger = Ledger(
            currency=config.currency,
            budget=config.budget,
            token_budget=config.token_budget,
            tokens_before=before.prompt_tokens + before.completion_tokens,
            spent_before=before.cost,
            without_usage=before.without_usage,
            cost=None if config.prompt_price is None else 0.0,
        )
        self._held: list[tuple[int, int]] = []
        self._freed: list[asyncio.Future[None]] = []

    def count(self, **more: int) -> None:
        self.ledger = replace(
            self.ledger,
            **{name: getattr(self.ledger, name) + number for name, number in more.items()},
        )

    def paid(self, reply: ChatReply) -> None:
        """Books an answer of the server; GplanError where it has no usage and there is a budget."""
        without = reply.prompt_tokens is None or reply.completion_tokens is None
        self.count(
            requests=1,
            prompt_tokens=reply.prompt_tokens or 0,
            completion_tokens=reply.completion_tokens or 0,
            without_usage=int(without),
        )
        if self.ledger.cost is not None:
            self.ledger = replace(self.ledger, cost=self.ledger.cost + (reply.cost or 0.0))
        if without:
            self.check_usage()

    def check_usage(self) -> None:
        """Raises GplanError where there is a budget, and answers that don't say what they cost."""
        without = self.ledger.without_usage
        if without and (self._config.budget is not None or self._config.token_budget is not None):
            raise GplanError(
                f"{self._config.base_url} reports no token usage ({without} answers in "
                f"{self._cache} have none), so no budget can be kept: leave out budget and "
                "token_budget, or ask a server that reports usage."
            )

    @asynccontextmanager
    async def reserved(self, request: ChatRequest) -> AsyncIterator[None]:
        """Holds what ``request`` can cost at worst for the length of the block.

        Where it doesn't fit, it waits for what others hold and leave unused; BudgetSpent where they
        hold nothing.
        """
        if self._config.budget is None and self._config.token_budget is None:
            yield
            return
        self.check_usage()
        size = worst_size(self._config, request)
        while overrun := self._overrun(size):
            if not self._held:
                raise BudgetSpent(
                    f"The budget is spent {overrun}. Every answer is in {self._cache}: raise the "
                    "budget and run the same command again."
                )
            freed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._freed.append(freed)
            await freed
        self._held.append(size)
        try:
            yield
        finally:
            self._held.remove(size)
            freed_now, self._freed = self._freed, []
            for waiter in freed_now:
                if not waiter.done():
                    waiter.set_result(None)

    def _overrun(self, size: tuple[int, int]) -> str:
        """Which budget ``size`` could overrun beside what is held, in words; "" for none."""
        config, books = self._config, self.ledger
        prompt, completion = (sum(parts) for parts in zip(size, *self._held, strict=True))
        tokens = books.tokens_before + books.tokens
        spent, more = books.spent_before + (books.cost or 0.0), cost_of(config, prompt, completion)
        so_far = "so far, earlier runs included, and the next request could take"
        if config.budget is not None and more is not None and spent + more > config.budget:
            return (
                f"(budget {config.budget:g}): {config.currency} {spent:.4f} {so_far} "
                f"{cost_of(config, *size):.4f}"
            )
        if config.token_budget is not None and tokens + prompt + completion > config.token_budget:
            return (
                f"(token_budget {config.token_budget}): {tokens:,} tokens {so_far} "
                f"{sum(size):,} tokens"
            )
        return ""


@dataclass
class Spending:
    """What the answers of a result cost, whenever they were paid for; None where a server doesn't
    tell. It is the same for a run and for its repetition, as the ledger is not.

    Two rows with the same prompt share one request, which counts once.
    """

    requests: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    cost: float | None = 0.0
    models: Counter[str] = field(default_factory=Counter)  # Answers by the model that gave them.
    _seen: set[int] = field(default_factory=set, repr=False)

    def add(self, keys: Sequence[str], origin: Mapping[str, Any]) -> None:
        self.models[origin["model"]] += 1
        first = int(keys[0][:16], 16)
        if first in self._seen:
            return
        self._seen.add(first)
        self.requests += len(keys)
        for name in ("prompt_tokens", "completion_tokens", "cost"):
            total, more = getattr(self, name), origin[name]
            setattr(self, name, None if total is None or more is None else total + more)

    def to_dict(self) -> dict[str, Any]:
        """Requests, tokens and money; the money to six digits."""
        cost = None if self.cost is None else round(self.cost, 6)
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        return {"requests": self.requests, "tokens": tokens, "cost": cost}


def spent_line(spent: Mapping[str, Any]) -> str:
    """``Spending.to_dict`` in words."""
    parts = [f"{spent['requests']:,} requests"]
    parts += [f"{n:,} {kind} tokens" for kind, n in spent["tokens"].items() if n is not None]
    return ", ".join(parts + ([f"{spent['cost']:,.2f} in all"] if spent["cost"] else []))


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
