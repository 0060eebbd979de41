"""What a language-model judge is: its server, its rubric and its prompt, one YAML file a judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gplan_jax.chat import ChatConfig
from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "n", "seed")


class JudgeConfig(Config):
    """A judge as its YAML file describes it.

    Attributes:
        server: the server, the model and what may be spent; its temperature is 0.
        name: how tables call the judge; the model's name where None.
        rubric: a rubric file; the shipped one where None. A path as seen from where gplan runs.
        template: a judge template, a shipped name or a folder.
    """

    server: ChatConfig
    name: str | None = None
    rubric: str | None = None
    template: str = "en"

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> JudgeConfig:
        """Reads a judge file and ``key=value`` overrides.

        Raises:
            GplanError: the file is no valid config, or asks for draws: a judge is asked at
                temperature 0 (paper, section 5.3), so that its scores can be had again.
        """
        config = load_config(cls, path, overrides)
        drawn = sorted(set(SAMPLING) & set(config.server.extra))
        if config.server.temperature != 0 or config.server.top_p is not None or drawn:
            what = "temperature" if config.server.temperature else ", ".join(drawn) or "top_p"
            raise GplanError(
                f"{path}: server sets {what}, but a judge is always asked at temperature 0 and "
                "without other draws; leave it out."
            )
        return config

    @property
    def judge_name(self) -> str:
        """The name given, else the model's."""
        return self.name or self.server.model
