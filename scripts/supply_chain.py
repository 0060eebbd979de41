"""What a release stands on: hashes of the pins, a bill of materials, and a check of the licences.

    ./dev python scripts/supply_chain.py hashes > dist/requirements.txt   # pip --require-hashes
    ./dev pip install cyclonedx-bom && ./dev python scripts/supply_chain.py sbom > dist/sbom.json
    ./dev python scripts/supply_chain.py licenses

All three are of the environment they run in: its platform, its Python, the extras it has. None says
where a package was fetched from.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = "gplan-jax"
# What may be used beside Apache-2.0 code; MPL asks for its own files alone.
FREE = re.compile(
    r"\b(mit(-cmu|-0)?|apache|bsd|0bsd|isc|psf|python[- ]software|unlicense|mpl|mozilla|zlib|hpnd"
    r"|cc0|cnri-python)",
    re.IGNORECASE,
)


def distributions() -> list[importlib.metadata.Distribution]:
    """What the extra dev brings along, in turn; tools that lie beside it are left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(OURS, frozenset(["dev"]))]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # For another platform, or an extra that is not here.
        found[canonicalize_name(name)] = distribution
        for text in distribution.requires or ():
            need = Requirement(text)
            marks = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if need.marker is None or any(need.marker.evaluate(mark) for mark in marks):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    del found[OURS]
    return [found[name] for name in sorted(found)]


def license_of(distribution: importlib.metadata.Distribution) -> str:
    """As its metadata says: the expression, else classifiers, else the first line of the text."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return expression
    named = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier", [])
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    text = (about.get("License") or "").strip()
    return " AND ".join(named) or (text.splitlines()[0][:80] if text else "unknown")


def licenses() -> int:
    """A line a package; 1 where one is unknown or not among those that are free to build on."""
    faults = []
    for distribution in distributions():
        name = distribution.metadata["Name"]
        said = license_of(distribution)  # Of "A AND B" both must be free, of "A OR B" one.
        parts = re.split(r"\s+AND\s+", said, flags=re.IGNORECASE)
        free = all(FREE.search(part) for part in parts)
        print(f"{name}=={distribution.version}: {said}{'' if free else '   <- look at it'}")
        faults += [] if free else [name]
    if faults:
        print(f"error: look at the licence of {', '.join(faults)}.", file=sys.stderr)
    return int(bool(faults))


def hashes() -> int:
    """name==version --hash=sha256:... of every pin that this platform takes, without hosts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
        ]
        command += ["--report", str(report), "--constraint", "constraints.txt", ".[dev]"]
        subprocess.run(command, check=True, cwd=REPOSITORY, stdout=sys.stderr)
        installed = json.loads(report.read_text("utf-8"))["install"]
    lines = [
        f"{one['metadata']['name']}=={one['metadata']['version']} "
        f"--hash=sha256:{one['download_info']['archive_info']['hashes']['sha256']}"
        for one in installed
        if one["metadata"]["name"] != OURS
    ]
    print("\n".join(sorted(lines, key=str.lower)))
    return 0


def sbom() -> int:
    """CycloneDX of the same packages, written by cyclonedx-bom and cut to them."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    made = subprocess.run(
        [*command, "--pyproject", str(REPOSITORY / "pyproject.toml"), sys.executable],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    bom = json.loads(made)
    wanted = {d.metadata["Name"].lower() for d in distributions()}
    kept = [one for one in bom["components"] if one["name"].lower() in wanted]
    for one in kept:  # Where it was fetched from is this machine's affair.
        links = one.get("externalReferences", [])
        one["externalReferences"] = [link for link in links if link["type"] != "distribution"]
    references = {one["bom-ref"] for one in kept} | {"root-component"}
    bom["components"] = kept
    bom["dependencies"] = [
        {**one, "dependsOn": sorted(references & set(one.get("dependsOn", ())))}
        for one in bom.get("dependencies", [])
        if one["ref"] in references
    ]
    print(json.dumps(bom, indent=2))
    return 0


if __name__ == "__main__":
    known = {"hashes": hashes, "sbom": sbom, "licenses": licenses}
    if sys.argv[1:] not in [[name] for name in known]:
        sys.exit(f"error: name one of {', '.join(known)}\n\n{__doc__}")
    sys.exit(known[sys.argv[1]]())
