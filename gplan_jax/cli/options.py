"""Options that several commands have, and how their values are read."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.paths import local_path

if TYPE_CHECKING:
    from gplan_jax import gsisr
    from gplan_jax.chat import Connect

Command = TypeVar("Command", bound=Callable[..., Any])

# Files and their rows.
OnError = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="Stop at what is faulty, a row or its answer, or leave it out."),
]
Service = Annotated[
    str | None,
    typer.Option(
        help="Service, by its name or directory; else what the data or the model records."
    ),
]

# Models and how they decode.
Model = Annotated[
    Path, typer.Option(help="Model directory, as convert or train writes it, or an id on the hub.")
]
Template = Annotated[
    str | None, typer.Option(help="A prompt of the service, or a folder; else the model's.")
]
PromptLength = Annotated[
    int | None, typer.Option(min=1, help="Tokens that prompts are cut to; else as in training.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest free answer, in tokens; else 512.")
]
Mode = Annotated[
    Literal["unconstrained", "constrained", "drafted"] | None,
    typer.Option(
        help="Plain greedy decoding; by the plan grammar; or that in fewer passes with drafts, the "
        "default for all answers but reasoning in words."
    ),
]
Response = Annotated[
    Literal["plan", "latent"] | None,
    typer.Option(help="What answers hold, for the grammar; else what training stored."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Rows decoded together.")]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option("--dtype", help="Of matrix products and the cache."),
]
Weights = Annotated[
    Literal["stored", "bf16", "int8", "fp8"],
    typer.Option(help="What weights are held in: --dtype, bfloat16, or 8 bits (matrices alone)."),
]


@dataclass(frozen=True)
class Decoding:
    """Options of ``Planner.load`` that all commands have which plan; see ``with_decoding``."""

    service: Service = None
    template: Template = None
    prompt_length: PromptLength = None
    max_new_tokens: MaxNewTokens = None
    response: Response = None
    compute_dtype: Dtype = "float32"
    weights: Weights = "stored"
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Draw from the grammar's tokens; 0 takes the likeliest.")
    ] = 0.0
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0
    best: Annotated[
        int,
        typer.Option(min=0, help="Search for so many of the likeliest whole plans; else greedily."),
    ] = 0


def with_decoding(command: Command) -> Command:
    """The command, whose ``**decoding`` the command line knows as the options of ``Decoding``."""
    signature = inspect.signature(command, eval_str=True)
    *own, _ = signature.parameters.values()
    kinds = get_type_hints(Decoding, include_extras=True)
    shared = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=kinds[option.name],
        )
        for option in dataclasses.fields(Decoding)
    ]
    command.__signature__ = signature.replace(parameters=[*own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ |= kinds
    return command


# Where the work is done.
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="ray: in shards over a cluster, or over --workers on this machine."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Of Ray; else one a node, or a GPU or TPU host to plan.")
]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster; else RAY_ADDRESS, or one started here.")
]
Processes = Annotated[
    int, typer.Option(min=1, help="Processes of one thread each; one on an accelerator.")
]


def service_of(
    named: str | None, *, data: Path | None = None, model: Path | None = None
) -> gsisr.Service:
    """The service of a command: ``--service``, or what data or model tell, which it says aloud.

    GplanError where nothing tells, or they disagree.
    """
    from gplan_jax.gsisr.service import known_service

    found, how = known_service(named, data=data, model=model)
    if how:
        typer.echo(f"service: {found.name} ({how})", err=True)
    return found


def planning_options(model: Path, data: Path | None, decoding: dict[str, Any]) -> dict[str, Any]:
    """Decoding options with the service of the rows where the model directory holds none.

    GplanError where the two are of different services, or nothing tells.
    """
    from gplan_jax.data.tasks.gsisr_task import LIBRARY_FILE, GsisrTask
    from gplan_jax.data.tasks.task import read_task_file
    from gplan_jax.gsisr import service

    named, template = decoding.get("service"), decoding.get("template")
    if read_task_file(model)[0] != GsisrTask.name:
        return decoding
    if (model / LIBRARY_FILE).is_file():
        if service.of_model(model) and (named or data):
            service.known_service(named, data=data, model=model)
        return decoding
    if named is None and template is not None and service.service_of_prompt(template):
        return decoding
    return decoding | {"service": str(service_of(named, data=data).folder)}


def connection(engine: str, workers: int | None, address: str | None) -> Connect:
    """What chat servers are asked by: a client here, or one that has actors of Ray ask."""
    from gplan_jax.chat import ChatClient

    if engine == "local":
        return ChatClient
    from gplan_jax.integrations.ray import ClientOfWorkers

    return functools.partial(ClientOfWorkers, workers=workers, address=address)


def model_directory(given: Path) -> Path:
    """A model's directory, itself or fetched from the hub; JAX is started for the latter alone."""
    if given.exists():
        return given
    from gplan_jax.models.checkpoints.hub import model_path

    return model_path(given)


def run_of(path: Path) -> str:
    """How a model is called: as its directory, or as its run where that is RUN/model."""
    if path.parent.name == "snapshots":  # Fetched from the hub.
        return path.parents[1].name.rpartition("--")[2]
    return path.parent.name if path.name == "model" else path.name


def named_paths(
    option: str,
    values: list[str],
    *,
    called: Callable[[Path], str] = run_of,
    form: str = "NAME=PATH",
) -> dict[str, Path]:
    """NAME=PATH, or PATH alone, which ``called`` gives a name by its absolute path.

    Raises:
        GplanError: two values have the same name; the message shows ``form``.
    """
    paths: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals:
            name, path = called(local_path(value).resolve()), value
        if name in paths:
            raise GplanError(f"{option}: two are called {name!r}; name them apart, {form}.")
        paths[name] = local_path(path)
    return paths
