#!/usr/bin/env bash
# All tests with the newest Python that is installed and the newest packages that the registry has for
# it, no pins: what users will have tomorrow. In an environment of its own (.venv-3.13-newest).
#   scripts/newest.sh [pytest options]     e.g. scripts/newest.sh tests/models
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

newest_python() {
    local candidate
    for candidate in python3.{12..30} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python; do
        "$candidate" -c 'import platform, sys
sys.version_info >= (3, 12) and print(platform.python_version(), sys.executable)' 2>/dev/null || true
    done | sort --version-sort | tail -n 1 | cut -d ' ' -f 2
}

PYTHON=${PYTHON:-$(newest_python)}
[ -n "$PYTHON" ] || { echo "error: no Python of 3.12 or newer is installed" >&2; exit 2; }
export PYTHON NEWEST=1
./dev python -c 'from importlib.metadata import version
import platform
names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "transformers")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in names), sep=", ")'
[ $# -gt 0 ] || set -- --numprocesses=logical --maxprocesses=4 --dist=worksteal
exec ./dev pytest "$@"
