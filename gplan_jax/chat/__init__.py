"""Asks OpenAI-compatible servers: bounded concurrency, retries, a disk cache, a ledger."""

from gplan_jax.chat.client import ChatClient, Connect
from gplan_jax.chat.ledger import Ledger
from gplan_jax.chat.messages import (
    BudgetSpent,
    ChatReply,
    ChatRequest,
    Message,
    RequestFailed,
    ServerUnavailable,
    request_key,
)
from gplan_jax.chat.server_config import ChatConfig
