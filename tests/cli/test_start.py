"""What a command imports before it knows that it needs it."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len


def test_no_module_imports_transformers_or_opens_a_connection() -> None:
    # transformers costs a second. Only the conversion of a tokenizer in its older form needs it,
    # when it comes to that. And nothing phones home (SECURITY.md).
    code = (
        "import importlib, pkgutil, sys, gplan_jax\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.sendto', 'socket.getaddrinfo'):\n"
        "        raise SystemExit(f'{event} {arguments}')\n"
        "sys.addaudithook(watch)\n"
        "for module in pkgutil.walk_packages(gplan_jax.__path__, 'gplan_jax.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([name for name in ('transformers', 'torch') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found


@pytest.mark.parametrize("environment", [{}, {"HOME": "/", "XDG_CACHE_HOME": ""}])
def test_a_user_without_a_name_or_a_home_gets_its_answer(environment: dict[str, str]) -> None:
    """As in containers; and a terminal that knows ASCII alone."""
    code = (
        "import pwd, sys\n"
        "pwd.getpwuid = lambda uid: {}[uid]\n"
        "sys.argv = ['gplan', 'baseline', 'list']\n"
        "from gplan_jax.cli.main import main\n"
        "try: main()\n"
        "finally: print('\\u7f8e\\u98df')"
    )
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "JAX_PLATFORMS")}
    kept |= environment | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended
    assert "majority_first_intent" in ended.stdout and r"\u7f8e\u98df" in ended.stdout


def test_a_command_that_is_told_to_stop_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from gplan_jax.cli import main as command_line\n"
        "from gplan_jax.foundation.files import atomic_directory\n"
        "def app():\n"
        "    with atomic_directory(sys.argv[1]):\n"
        "        print('started', flush=True)\n"
        "        time.sleep(60)\n"
        "command_line.app = app\n"
        "command_line.main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m")]
    with subprocess.Popen(command, stdout=-1, stderr=-1) as process:
        assert process.stdout and process.stdout.readline() == b"started\n"
        process.terminate()
        said = process.communicate()[1].decode()
    assert process.returncode == 143
    assert said.startswith("error: interrupted; what was finished stays on disk")
    assert list(tmp_path.iterdir()) == []


def test_the_version_names_what_a_bug_report_needs() -> None:
    import jax
    from typer.testing import CliRunner

    import gplan_jax
    from gplan_jax.cli.main import app

    said = CliRunner().invoke(app, ["--version"])
    assert said.exit_code == 0
    for part in (gplan_jax.__version__, f"JAX {jax.__version__}", jax.devices()[0].device_kind):
        assert part in said.stdout


def test_help_wraps_paragraphs_and_shows_examples_that_can_be_copied() -> None:
    """Of every command, at 80 columns: an example's lines are the docstring's words again."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from gplan_jax.cli.main import app

    def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in getattr(group, "commands", {}).items():
            yield from commands(command, (*path, name))
        if not hasattr(group, "commands"):
            yield path, group

    found = dict(commands(get_command(app)))
    assert len(found) > 30
    for path, command in found.items():
        told = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
        text = told.output.partition("╭─")[0]
        assert told.exit_code == 0 and max(map(cell_len, told.output.splitlines())) <= 80
        examples = re.findall(r"^ Example: (.*?)\n *\n", text + "\n \n", re.DOTALL | re.MULTILINE)
        assert examples, f"{path} has no example"
        # What a shell makes of a copied example is what the docstring says.
        joined = [" ".join(re.sub(r"\\ *\n", " ", example).split()) for example in examples]
        wanted = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
        assert joined == [
            " ".join(paragraph.removeprefix("Example: ").split())
            for paragraph in wanted
            if paragraph.startswith("Example: ")
        ]
