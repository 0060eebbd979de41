"""Which chat server to ask, how, and for how much money."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, model_validator

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config, api_key

Structured = Literal["auto", "json_schema", "json_object", "none"]
# Fields of the body that the client writes itself; ``extra`` can't set them.
OWN_FIELDS = frozenset({"model", "messages", "stream", "n", "response_format"})


class ChatConfig(Config):
    """An OpenAI-compatible server, the model and its parameters, and what may be spent."""

    base_url: str  # up to and with the version, ``http://host:8000/v1``
    model: str
    # the name under which the server answers for ``model``, where that is another (an alias)
    answers_as: str | None = None
    api_key_env: str | None = None  # the NAME of the environment variable that holds the key
    key_over_http: bool = False  # send the key over plain http to a host that isn't this machine
    # most requests at once; where the server answers 429 or 503, fewer
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 32
    timeout_s: Annotated[float, Field(gt=0)] = 120.0  # longest wait for one whole answer
    # how often one request is sent at most, the first time included; refusals with 429 are
    # counted apart and forgiven five times as often
    attempts: Annotated[int, Field(ge=1)] = 6
    # longest wait before the second attempt; it doubles with each, up to a minute
    backoff_s: Annotated[float, Field(gt=0)] = 0.5
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    seed: int | None = None  # sent where set, mixed with the request's key: rows differ
    # how a schema is enforced; "auto" tries json_schema, json_object, none
    structured: Structured = "auto"
    # further fields of the body (``chat_template_kwargs`` ...). A null takes a field out:
    # ``{max_tokens: null, max_completion_tokens: 4096}``.
    extra: dict[str, Any] = Field(default_factory=dict)
    # per million tokens, in ``currency``
    prompt_price: Annotated[float, Field(ge=0)] | None = None
    completion_price: Annotated[float, Field(ge=0)] | None = None
    currency: str = "USD"
    # most to be spent on what is in the cache file, earlier runs included
    budget: Annotated[float, Field(ge=0)] | None = None
    # the same in tokens, prompt and completion together
    token_budget: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> ChatConfig:
        # GplanError, which pydantic lets through: its own errors repeat the values at fault, and a
        # base_url may hold a password.
        url = _split(self.base_url)
        name = self.api_key_env
        if name is not None and not (name.isascii() and name.isidentifier()):
            raise GplanError(
                "api_key_env is not the name of an environment variable (OPENAI_API_KEY). If it is "
                "the key itself: put that into a variable, and the variable's name here."
            )
        own = sorted(OWN_FIELDS & self.extra.keys())
        if own:
            raise GplanError(f"extra can't set {', '.join(own)}: the client writes it itself.")
        if (self.prompt_price is None) != (self.completion_price is None):
            raise GplanError("prompt_price and completion_price go together; give both or none.")
        if self.budget is not None and self.prompt_price is None:
            raise GplanError(
                "A budget needs prompt_price and completion_price; without prices, token_budget "
                "limits a run."
            )
        plain = url.scheme == "http" and not is_loopback(url.hostname or "")
        if self.api_key_env is not None and plain and not self.key_over_http:
            raise GplanError(
                f"The API key would travel unencrypted to {url.hostname}: use https, or say "
                "key_over_http: true where you trust the network between."
            )
        return self

    @property
    def expected_model(self) -> str:
        """The model that should answer, and under whose name answers are cached."""
        return self.answers_as or self.model


def read_api_key(config: ChatConfig) -> SecretStr | None:
    """The server's key from the environment; None where no variable is named."""
    return api_key(config.api_key_env, f" of {config.base_url} (api_key_env names it)")


def is_loopback(host: str) -> bool:
    """True where ``host`` is this machine: localhost, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(base_url: str) -> SplitResult:
    try:
        url = urlsplit(base_url)
        whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise GplanError("base_url is not a URL; write http://host:port/v1.")
    if url.username is not None or url.password is not None:
        raise GplanError(
            "base_url holds a user name or password. Put the key into an environment variable, and "
            "the variable's name into api_key_env."
        )
    if url.query or url.fragment:
        raise GplanError("base_url ends with its path, without ? or #: http://host:port/v1.")
    return url
