"""The `gplan` command: its sub-commands, and how a problem reaches the user."""

from __future__ import annotations

import errno
import logging
import sys

import typer

from gplan_jax.cli import convert, evaluation, synthesis, train
from gplan_jax.cli import quickstart as quickstart_command
from gplan_jax.foundation import GplanError

app = typer.Typer(
    help="GPlan: from a Qwen3 checkpoint and user-context rows to a planner, in JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    quickstart_command.quickstart,
    convert.convert,
    convert.export,
    synthesis.synthesize,
    synthesis.explain,
    train.train,
    evaluation.evaluate,
    evaluation.score,
    evaluation.plan,
):
    app.command()(command)

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main() -> None:
    """Runs the command line; a known problem ends in one message and a non-zero exit code."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        app()
    except GplanError as error:
        _stop(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        _stop("interrupted; what was finished stays on disk", INTERRUPTED)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _stop("the disk is full; free some space and run the command again", FAILED)
        _stop(str(error), FAILED)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
