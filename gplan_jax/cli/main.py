"""The `gplan` command: its sub-commands, and how a problem reaches the user."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import os
import platform
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

import gplan_jax
from gplan_jax.cli import baseline as baseline_command
from gplan_jax.cli import convert, evaluation, serve, synthesis, train
from gplan_jax.cli import doctor as doctor_command
from gplan_jax.cli import judge as judge_command
from gplan_jax.cli import quickstart as quickstart_command
from gplan_jax.cli import reproduce as reproduce_command
from gplan_jax.cli import tasks as tasks_command
from gplan_jax.cli.abtest import abtest
from gplan_jax.cli.config import config
from gplan_jax.cli.options import model_directory
from gplan_jax.cli.seeds import seeds
from gplan_jax.cli.service import service
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.compilation_cache import keep_compiled_programs
from gplan_jax.foundation.errors import NothingKept
from gplan_jax.foundation.paths import alone_in, is_cloud, local_path

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    quickstart_command.quickstart,
    doctor_command.doctor,
    convert.convert,
    convert.export,
    synthesis.triggers,
    synthesis.synthesize,
    synthesis.explain,
    synthesis.counterfactuals,
    tasks_command.tasks,
    train.train,
    train.plan_memory,
    evaluation.evaluate,
    evaluation.score,
    evaluation.compare,
    evaluation.plan,
    evaluation.predict,
    evaluation.sensitivity,
    judge_command.judge,
    baseline_command.report,
    baseline_command.baseline,
    reproduce_command.reproduce,
    serve.serve,
):
    app.command()(command)
app.command("filter")(synthesis.filter_rows)
app.add_typer(abtest, name="abtest")
app.add_typer(serve.bench, name="bench")
app.add_typer(config, name="config")
app.add_typer(seeds, name="seeds")
app.add_typer(service, name="service")


def _show_version(wanted: bool) -> None:
    """Without starting JAX, which takes seconds where there are accelerators."""
    if not wanted:
        return
    found = [plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")]
    if importlib.util.find_spec("libtpu"):
        found.append("tpu")
    if not found or os.environ.get("JAX_PLATFORMS") == "cpu":
        device = f"cpu ({os.cpu_count()} cores)"
    else:
        device = f"{', '.join(found)} (`gplan doctor` starts and names the devices)"
    print(
        f"gplan {gplan_jax.__version__}, JAX {importlib.metadata.version('jax')}, Python "
        f"{platform.python_version()}, {device}"
    )
    raise typer.Exit


@app.callback()
def gplan(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the versions of GPlan, JAX and Python, and the kind of device.",
        ),
    ] = False,
) -> None:
    """GPlan: from a Qwen3 checkpoint and user-context rows to a planner, in JAX."""


BAD_INPUT, FAILED, NOTHING_KEPT, INTERRUPTED, TERMINATED = 2, 1, 3, 130, 143
STOPPED = (
    "interrupted; what was finished stays on disk, answers of chat servers in their cache: run the "
    "command again (train goes on with --resume)"
)
HELP_WIDTH = 74
# Command -> what usually comes next, where its own last lines don't say.
TRAIN = "gplan train picd_qwen3_1_7b data.train={out} output=DIR"
NEXT = {
    "convert": "gplan train CONFIG model={out} data.train=FILE output=DIR (gplan config list)",
    "triggers": "gplan synthesize --data {out} --teacher FILE --out rows.csv",
    "import_": "gplan synthesize --data FILE --seeds {out} --teacher FILE --out rows.csv",
    "explain": TRAIN,
    "filter_rows": TRAIN,
    "counterfactuals": "gplan train scdpo_qwen3_1_7b model=MODEL data.train={out} output=DIR",
    "evaluate": "gplan compare {out} OTHER; with plans also gplan serve --model {model}",
    "predict": "gplan compare {out} OTHER --data {data}",
    "judge": "gplan judge --against OTHER, for wins and losses on the same rows",
    "analyse": "gplan abtest power, for how many users a smaller lift takes",
    "assign": "gplan abtest analyse --log FILE --config {config} --out DIR",
}
OUTPUTS = ("out", "log_out", "example_log")
MODELS = ("model", "model_dir")  # directories, or ids on the hub


def prepared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its paths read as people write them, and alone in what it writes."""

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        for name, value in options.items():
            if isinstance(value, Path) or (value and name in OUTPUTS and not is_cloud(value)):
                options[name] = local_path(value)
                if name in MODELS:
                    options[name] = model_directory(options[name])
            elif isinstance(value, list):
                options[name] = [local_path(v) if isinstance(v, Path) else v for v in value]
        with contextlib.ExitStack() as locks:
            for path in filter(None, map(options.get, OUTPUTS)):
                if not is_cloud(path):  # What Spark writes to a bucket, it guards itself.
                    locks.enter_context(alone_in(path))
            result = command(**options)
        given = {name: value for name, value in options.items() if value is not None}
        with contextlib.suppress(KeyError):  # of a command that is not here, or an option
            print(f"  next: {NEXT[command.__name__].format_map(given)}")
        return result

    return run


def help_text(docstring: str) -> str:
    """Help of a docstring: paragraphs for the terminal to wrap, examples that can be copied.

    Where an example is too long for a line of 80 characters, a backslash continues it.
    """
    paragraphs = []
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        lines = [""]
        for word in re.findall(r"(?:-[\w-]+ (?=[^-\s]))?(?:'[^']*'|\S)+", paragraph):
            if paragraph.startswith("Example:") and len(f"{lines[-1]} {word}") > HELP_WIDTH:
                lines[-1] += " \\"
                lines.append("   ")
            lines[-1] += f" {word}" if lines[-1] else word
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


for group in (app, abtest, serve.bench, config, seeds, service):
    for info in group.registered_commands:
        info.help = help_text(info.callback.__doc__ or "") if info.callback else None
        info.callback = prepared(cast("Callable[..., Any]", info.callback))


def main() -> None:
    """Runs the command line; a known problem ends in one message and a non-zero exit code."""
    # Orbax's threads log a traceback at ERROR for what is then raised and reported here, once.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    keep_compiled_programs()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # No character ends a command in a traceback.
            stream.reconfigure(errors="backslashreplace")
    # Told to stop, a command tidies up as on Ctrl-C; train and serve have ways of their own.
    signal.signal(signal.SIGTERM, lambda *_: _stop(STOPPED, TERMINATED))
    try:
        app()
    except GplanError as error:
        _stop(str(error), NOTHING_KEPT if isinstance(error, NothingKept) else BAD_INPUT)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # How typer ends on Ctrl-C, without a word.
            _stop(STOPPED, INTERRUPTED)
        raise
    except OSError as error:
        _stop(describe_os_error(error), FAILED)


def describe_os_error(error: OSError) -> str:
    """What the operating system refused, the path it refused it for, and the mend."""
    path = error.filename2 or error.filename
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            if error.strerror and ";" in error.strerror:  # Says it all already.
                return error.strerror
            return "the disk is full; free some space and run the command again"
        case errno.EISDIR:
            return f"{path} is a directory; name a file"
        case errno.ENOTDIR | errno.EEXIST:
            return f"{path}: a file stands where a directory is needed; name another path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{path} may not be written or read here; name another path, or get permission"
        case _:
            return str(error)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
