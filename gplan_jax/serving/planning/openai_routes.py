"""OpenAI's routes, so that its clients, gateways and load generators can ask for plans.

A chat's last user turn is a context as JSON, a completion's prompt is a whole rendered prompt, as
text or as tokens; both are answered with the model's text. What an option asks for is done, or the
option is refused by its name. Errors have OpenAI's form (``http.errors``).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from fastapi import Request
from pydantic import Field, StringConstraints
from starlette.responses import JSONResponse, Response

from gplan_jax.gsisr import Sample
from gplan_jax.inference.engine.requests import PlanAnswer, PlanRequest
from gplan_jax.serving.http.bodies import ApiError, StrictBody, parse_json, validate
from gplan_jax.serving.planning.endpoints import PlanEndpoints, together, watch_hang_up
from gplan_jax.serving.planning.models import LoadedModel, ModelSet
from gplan_jax.serving.planning.schemas import MAX_BEST, MAX_SEED

# Options that are not for plans, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_k": (-1, 0),
    "top_logprobs": (0,),
    "top_p": (1,),
}
MAX_MESSAGES = 256
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class StreamOptions(StrictBody):
    """What a stream has beside the text."""

    include_usage: bool = False


class _Options(StrictBody):
    model: str
    n: int = Field(default=1, ge=1, le=MAX_BEST)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] = Field(default=[])
    max_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str = ""  # nothing hangs on it


class TextPart(StrictBody):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(StrictBody):
    """A turn of a chat. Only the last one is read: a plan hangs on its context alone."""

    role: Literal["user", "assistant"]
    content: str | list[TextPart]


class ChatBody(_Options):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False


class CompletionBody(_Options):
    """Body of POST /v1/completions; ``logprobs`` 0 are those of the tokens alone."""

    prompt: str | list[int] = Field(min_length=1)
    logprobs: Literal[0] | None = None


Body = TypeVar("Body", ChatBody, CompletionBody)


class Choice(NamedTuple):
    """One plan of an answer, as far as it was wanted."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: tuple[tuple[str, float], ...]  # what each wrote, and its log-probability


@dataclass(frozen=True)
class OpenAiEndpoints:
    """`POST /v1/chat/completions` and `POST /v1/completions`."""

    planning: PlanEndpoints

    async def chat(self, request: Request, models: ModelSet) -> Response:
        """Plans for the context that the last message is."""
        body, model = await self._body(request, models, ChatBody)
        number, last = len(body.messages) - 1, body.messages[-1]
        where = f"messages.{number}.content"
        if last.role != "user":
            message = "The last message must be the user's, with a context as JSON."
            raise ApiError(422, "bad_request", message, column=f"messages.{number}.role")
        texts = [last.content] if isinstance(last.content, str) else [p.text for p in last.content]
        try:
            context = validate(self.planning.bodies.context, parse_json("".join(texts).encode()))
        except ApiError as error:
            message = f"{where} must be a context, columns as a JSON object: {error.message}"
            raise ApiError(422, "bad_context", message, column=where) from None
        if self.planning.settings.log_contexts:
            request.state.log["columns"] = {request.state.request_id: context.columns()}
        limits = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit]
        plans, usage = await self._plans(request, model, body, context.sample(), limits)

        choices, chunks = list[dict[str, Any]](), list[dict[str, Any]]()
        for index, plan in enumerate(plans):
            logs = None
            if body.logprobs:
                tokens = [
                    {"token": text, "logprob": log, "bytes": [*text.encode()], "top_logprobs": []}
                    for text, log in plan.tokens
                ]
                logs = {"content": tokens, "refusal": None}
            said: dict[str, Any] = {"role": "assistant", "content": plan.text}
            end = {"index": index, "finish_reason": plan.finish_reason}
            choices.append({"message": said | {"refusal": None}, "logprobs": logs} | end)
            chunks.append({"delta": said, "logprobs": logs} | end | {"finish_reason": None})
            chunks.append({"delta": {}, "logprobs": None} | end)
        return _response(request, body, "chat.completion", choices, chunks, usage)

    async def completions(self, request: Request, models: ModelSet) -> Response:
        """Plans that a whole prompt is followed by."""
        body, model = await self._body(request, models, CompletionBody)
        prompt = body.prompt if isinstance(body.prompt, str) else tuple(body.prompt)
        limits = [body.max_tokens] if body.max_tokens else []
        plans, usage = await self._plans(request, model, body, prompt, limits)
        choices = list[dict[str, Any]]()
        for index, plan in enumerate(plans):
            logs = None
            if body.logprobs is not None:
                starts = accumulate((len(text) for text, _ in plan.tokens), initial=0)
                logs = {
                    "tokens": [text for text, _ in plan.tokens],
                    "token_logprobs": [log for _, log in plan.tokens],
                    "top_logprobs": None,
                    "text_offset": [*starts][:-1],
                }
            end = {"index": index, "finish_reason": plan.finish_reason}
            choices.append({"text": plan.text, "logprobs": logs} | end)
        return _response(request, body, "text_completion", choices, choices, usage)

    async def _body(
        self, request: Request, models: ModelSet, kind: type[Body]
    ) -> tuple[Body, LoadedModel]:
        """A body without options that ask for nothing, and the model that it names; ApiError names
        an option that can't be done.
        """
        value = await self.planning.read(request)
        if isinstance(value, dict):
            value = {key: wanted for key, wanted in value.items() if wanted is not None}
            for key, nothing in NEUTRAL.items():
                if key in value and value.pop(key) not in nothing:
                    message = f"{key} is not for plans; leave it out."
                    raise ApiError(422, "unsupported_parameter", message, column=key)
        body = validate(kind, value)
        model = model_called(models, body.model)
        free = self.planning.settings.mode == "unconstrained"
        wants_logs = body.logprobs if isinstance(body, ChatBody) else body.logprobs is not None
        if wants_logs and free:
            message = "logprobs are known under the grammar alone; see --mode."
            raise ApiError(422, "unsupported_parameter", message, column="logprobs")
        if body.n > 1 and body.temperature == 0:
            message = "n plans are drawn: name a temperature, or ask POST /v1/plan for the best."
            raise ApiError(422, "bad_request", message, column="n")
        return body, model

    async def _plans(
        self,
        request: Request,
        model: LoadedModel,
        body: ChatBody | CompletionBody,
        sample: Sample | str | tuple[int, ...],
        limits: Sequence[int],
    ) -> tuple[list[Choice], dict[str, Any]]:
        """The n plans, cut as the body says, and what they cost."""
        seed = secrets.randbelow(MAX_SEED) if body.seed is None else body.seed
        wanted = PlanRequest(
            sample,
            deadline_s=self.planning.settings.deadline_ms / 1000,
            temperature=body.temperature,
        )
        async with watch_hang_up(request) as hung_up:
            one = partial(self.planning.decode, request, model, hung_up=hung_up)
            seeds = [seed + number & MAX_SEED for number in range(body.n)]
            calls = [partial(one, replace(wanted, seed=seed)) for seed in seeds]
            answers = [answer for answer, _, _ in await together(model.engine, calls)]
        stops = [body.stop] if isinstance(body.stop, str) else body.stop
        choices = [_cut(answer, stops, min(limits, default=None)) for answer in answers]
        prompt, written = answers[0].prompt_tokens, sum(len(choice.tokens) for choice in choices)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": answers[0].cached_tokens},
        }
        request.state.log["usage"] = usage
        return choices, usage


def model_called(models: ModelSet, name: str) -> LoadedModel:
    """The model of this name; ApiError (404) names those that are served where it is none."""
    for model in models.by_arm.values():
        if model.name == name:
            return model
    names = ", ".join(model.name for model in models.by_arm.values())
    message = f"Only {names} {'is' if len(models.by_arm) == 1 else 'are'} served here."
    raise ApiError(404, "model_not_found", message, column="model")


def describe_model(model: LoadedModel) -> dict[str, Any]:
    """A model in the form of `GET /v1/models`."""
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "gplan"}


def _cut(answer: PlanAnswer, stops: Sequence[str], limit: int | None) -> Choice:
    """A response up to so many tokens, and up to the first of the texts ``stops``."""
    every = answer.by_token()
    tokens = every[:limit]
    text = "".join(piece for piece, _ in tokens)
    ended = answer.cut or len(tokens) < len(every)
    if found := [text.index(stop) for stop in stops if stop in text]:
        text, ended = text[: min(found)], False
        starts = accumulate((len(piece) for piece, _ in tokens), initial=0)
        pairs = zip(tokens, starts, strict=False)
        tokens = tuple(token for token, start in pairs if start < len(text))
    return Choice(text, "length" if ended else "stop", tokens)


def _response(
    request: Request,
    body: ChatBody | CompletionBody,
    kind: Literal["chat.completion", "text_completion"],
    choices: list[dict[str, Any]],
    chunks: list[dict[str, Any]],
    usage: dict[str, Any],
) -> Response:
    """The answer, or its chunks as server-sent events: a plan is there all at once."""
    prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
    head: dict[str, Any] = {"id": f"{prefix}-{request.state.request_id}", "object": kind}
    head |= {"created": int(time.time()), "model": body.model}
    if not body.stream:
        return JSONResponse(head | {"choices": choices, "usage": usage})
    if kind == "chat.completion":
        head["object"] = "chat.completion.chunk"
    events = [head | {"choices": [chunk]} for chunk in chunks]
    if body.stream_options.include_usage:
        events = [event | {"usage": None} for event in events]
        events.append(head | {"choices": [], "usage": usage})
    lines = [*(json.dumps(event, separators=(",", ":")) for event in events), "[DONE]"]
    stream = "".join(f"data: {line}\n\n" for line in lines)
    return Response(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
