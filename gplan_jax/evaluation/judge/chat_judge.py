"""A language model as a judge, asked through a chat server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gplan_jax.chat import ChatClient, ChatConfig, ChatReply, ChatRequest, Message, RequestFailed
from gplan_jax.chat.client import Connect
from gplan_jax.chat.reading import UnreadableReply, check_shape, object_schema, read_object
from gplan_jax.evaluation.judge.judgement import (
    HIGHEST,
    LOWEST,
    AxisScore,
    Choice,
    Judgement,
    Preference,
)
from gplan_jax.evaluation.judge.rubric import JudgePrompt, Rubric
from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.paths import PathText
from gplan_jax.gsisr import IntentLibrary, Plan, Sample
from gplan_jax.gsisr.service import RUBRIC as OWN_RUBRIC

CHOICES: Mapping[str, Choice] = {"A": "first", "B": "second", "tie": "tie"}


def score_schema(axes: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply with scores: for each axis first the reason, then the score."""
    score = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    axis = object_schema({"reason": {"type": "string"}, "score": score})
    return object_schema(dict.fromkeys(axes, axis))


def pair_schema() -> dict[str, Any]:
    """The JSON schema of a reply that prefers one of two plans."""
    return object_schema({"reason": {"type": "string"}, "winner": {"enum": list(CHOICES)}})


def read_scores(
    text: str, axes: Sequence[str], finish_reason: str = "stop"
) -> dict[str, AxisScore]:
    """Axis -> score of a reply, in the order of ``axes``.

    A reply is one JSON object (see ``chat.read_object``) with exactly these axes, each
    {"reason": text, "score": 1..5} in this order; UnreadableReply for anything else.
    """
    reply = read_object(text, finish_reason)
    check_shape("the reply", reply, dict.fromkeys(axes, dict))
    scores = {}
    for axis in axes:
        judged = reply[axis]
        check_shape(axis, judged, {"reason": str, "score": int})
        if list(judged) != ["reason", "score"]:
            raise UnreadableReply(f"{axis} gives its score before its reason")
        score = judged["score"]
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise UnreadableReply(f"the score of {axis} is not a whole number from 1 to 5")
        scores[axis] = AxisScore(score, _reason(axis, judged["reason"]))
    return scores


def read_choice(text: str, finish_reason: str = "stop") -> tuple[Choice, str]:
    """The preferred plan and the reason of a reply to a pair; errors as ``read_scores``."""
    reply = read_object(text, finish_reason)
    check_shape("the reply", reply, {"reason": str, "winner": str})
    if list(reply) != ["reason", "winner"]:
        raise UnreadableReply("the reply gives its winner before its reason")
    winner = reply["winner"]
    if winner not in CHOICES:
        raise UnreadableReply(f"the winner is none of {', '.join(CHOICES)}")
    return CHOICES[winner], _reason("the reply", reply["reason"])


def _reason(where: str, reason: str) -> str:
    if not reason.strip():
        raise UnreadableReply(f"{where} gives no reason")
    return reason.strip()


SAMPLING = ("temperature", "top_p", "top_k", "min_p", "n", "seed")


class JudgeConfig(Config):
    """A judge as its YAML file describes it."""

    server: ChatConfig  # its temperature is 0
    name: str | None = None  # how tables call the judge; the model's name where None
    # a file, as seen from where gplan runs; the service's where None, else the shipped one
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

    def __init__(
        self,
        config: JudgeConfig,
        cache: Path,
        library: IntentLibrary,
        connect: Connect = ChatClient,
    ) -> None:
        """Raises GplanError where rubric, template or cache can't be used."""
        server, self._library = config.server, library
        own = library.folder and library.folder / OWN_RUBRIC
        self._rubric = Rubric.load(config.rubric or (own if own and own.is_file() else None))
        self._prompt = JudgePrompt.load(config.template)
        self._client = connect(server, cache)
        self.name, self.axes = config.judge_name, tuple(self._rubric.axes)
        self.settings: Mapping[str, Any] = {
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
            "library": library.name,
        }

    @property
    def at_once(self) -> int:
        return self._client.at_once

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
        """Asks which of two plans is better, in this order; see ``Judge.compare``."""
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
