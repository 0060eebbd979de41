"""A run as a process of its own, to be killed: asks for each number, writes all answers at the end.

python resumable.py URL CACHE OUT COUNT
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from gplan_jax.chat import ChatClient, ChatConfig, ChatRequest, Message
from gplan_jax.foundation.files import write_jsonl
from gplan_jax.foundation.streams import map_ordered


def main(url: str, cache: str, out: str, count: str) -> None:
    config = ChatConfig(
        base_url=url, model="scripted", concurrency=8, timeout_s=0.5, backoff_s=0.002
    )
    client = ChatClient(config, Path(cache))
    requests = (ChatRequest((Message("user", f"row {i}"),)) for i in range(int(count)))
    replies = map_ordered(client.ask, requests, at_once=8, close=client.close)
    with closing(replies):
        write_jsonl(out, ([reply.key, reply.text, reply.finish_reason] for reply in replies))


if __name__ == "__main__":
    main(*sys.argv[1:])
