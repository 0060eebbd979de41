"""What a command imports before it knows that it needs it."""

from __future__ import annotations

import subprocess
import sys


def test_no_command_imports_transformers_to_start() -> None:
    # It costs a second. Only the conversion of a tokenizer in its older form needs it, when it
    # comes to that.
    code = (
        "import importlib, pkgutil, sys, gplan_jax\n"
        "for module in pkgutil.walk_packages(gplan_jax.__path__, 'gplan_jax.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([name for name in ('transformers', 'torch') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found
