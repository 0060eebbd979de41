"""Asks OpenAI-compatible servers: bounded concurrency, retries, a disk cache, a ledger."""

from gplan_jax.chat.client import ChatClient
from gplan_jax.chat.config import ChatConfig
from gplan_jax.chat.errors import BudgetSpent, RequestFailed, ServerUnavailable
from gplan_jax.chat.ledger import Ledger
from gplan_jax.chat.messages import ChatReply, ChatRequest, Message, request_key

__all__ = [
    "BudgetSpent",
    "ChatClient",
    "ChatConfig",
    "ChatReply",
    "ChatRequest",
    "Ledger",
    "Message",
    "RequestFailed",
    "ServerUnavailable",
    "request_key",
]
