"""A language model as a judge, asked through a chat server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gplan_jax.chat import ChatClient, ChatConfig, ChatReply, ChatRequest, Message, RequestFailed
from gplan_jax.chat.reading import UnreadableReply
from gplan_jax.evaluation.judge.judgement import Judgement, Preference
from gplan_jax.evaluation.judge.replies import pair_schema, read_choice, read_scores, score_schema
from gplan_jax.evaluation.judge.rubric import JudgePrompt, Rubric
from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.paths import PathText
from gplan_jax.gsisr import IntentLibrary, Plan, Sample

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "n", "seed")


class JudgeConfig(Config):
    """A judge as its YAML file describes it."""

    server: ChatConfig  # its temperature is 0
    name: str | None = None  # how tables call the judge; the model's name where None
    # a file, as seen from where gplan runs; the shipped one where None
    rubric: PathText | None = None
    template: str = "en"  # a judge template, a shipped name or a folder

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> JudgeConfig:
        """Reads a judge file and overrides; only at temperature 0 can scores be had again."""
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
        return self.name or self.server.model


class ChatJudge:
    """A language model that scores by a rubric; once closed it can't be asked again.

    Paid replies are kept in ``cache`` before they are read, so a run is continued by repeating it.
    """

    caution = "a language model may reward a mere mention of the context"

    def __init__(self, config: JudgeConfig, cache: Path, library: IntentLibrary) -> None:
        """Raises GplanError where rubric, template or cache can't be used."""
        self._config, self._library = config, library
        self._rubric = Rubric.load(config.rubric)
        self._prompt = JudgePrompt.load(config.template)
        self._client = ChatClient(config.server, cache)

    @property
    def name(self) -> str:
        """The name of the config."""
        return self._config.judge_name

    @property
    def axes(self) -> tuple[str, ...]:
        """The rubric's axes."""
        return tuple(self._rubric.axes)

    @property
    def at_once(self) -> int:
        """As many requests as the server may get at once."""
        return self._config.server.concurrency

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model and parameters, and the digests of rubric and template."""
        server = self._config.server
        return {
            "judge": "chat",
            "base_url": server.base_url,
            "model": server.model,
            "answers_as": server.answers_as,
            "temperature": server.temperature,
            "max_tokens": server.max_tokens,
            "structured": server.structured,
            "extra": server.extra,
            "rubric": {"name": self._rubric.name, "sha256": self._rubric.digest},
            "template": {"name": self._prompt.name, "sha256": self._prompt.digest},
            "library": self._library.name,
        }

    async def judge(self, sample: Sample, plan: Plan) -> Judgement:
        texts = self._prompt.score(sample, plan, self._rubric, self._library)
        try:
            reply = await self._ask(texts, score_schema(self.axes), "scores")
        except RequestFailed as failed:
            return Judgement({}, f"no reply: {failed}")
        try:
            scores = read_scores(reply.text, self.axes, reply.finish_reason)
            return Judgement(scores, origin=_origin(reply))
        except UnreadableReply as fault:
            return Judgement({}, f"unusable reply: {fault}", _origin(reply))

    async def compare(self, sample: Sample, first: Plan, second: Plan) -> Preference:
        texts = self._prompt.pair(sample, first, second, self._rubric, self._library)
        try:
            reply = await self._ask(texts, pair_schema(), "preference")
        except RequestFailed as failed:
            return Preference(None, f"no reply: {failed}")
        try:
            return Preference(*read_choice(reply.text, reply.finish_reason), _origin(reply))
        except UnreadableReply as fault:
            return Preference(None, f"unusable reply: {fault}", _origin(reply))

    def note(self) -> str:
        """What the ledger says."""
        return self._client.ledger.note()

    async def close(self) -> None:
        await self._client.close()

    async def _ask(
        self, texts: tuple[str, str], schema: Mapping[str, Any], schema_name: str
    ) -> ChatReply:
        system, user = texts
        messages = (Message("system", system), Message("user", user))
        return await self._client.ask(ChatRequest(messages, schema, schema_name))


def _origin(reply: ChatReply) -> dict[str, Any]:
    return {
        "key": reply.key,
        "model": reply.model,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "cost": reply.cost,
    }
