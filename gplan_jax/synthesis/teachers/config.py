"""What a teacher file says: which server, which prompt, how many examples."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gplan_jax.chat.config import ChatConfig
from gplan_jax.foundation.config import Config


class TeacherConfig(Config):
    """A language model as a teacher.

    Attributes:
        server: the chat server and the model; see ``ChatConfig``.
        examples: seeds shown before each context, where there is a seed file.
        template: a shipped prompt by its name, or a folder like it.
        repair: show the model a reply that breaks a rule, once, and take its second one.
    """

    server: ChatConfig
    examples: Annotated[int, Field(ge=0)] = 4
    template: str = "amap_zh"
    repair: bool = True
