"""The kernels' tests on other Python and torch, each in an environment: `python -m tests.versions [NAME...]`.

uv makes the environments in a temporary folder; an interpreter that is neither here nor to be had is skipped, and said to be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Versions(NamedTuple):
    """An interpreter, and what is installed beside the tests' own needs."""

    python: str
    requirements: tuple[str, ...]


# triton's interpreter cannot run loops with run-time bounds on numpy 2.4
NUMPY = "numpy<2.4"
TESTS = ("pytest>=8", "hypothesis>=6.100", NUMPY)
VERSIONS = {
    # triton needs setuptools and does not say so
    "oldest": Versions("3.12", ("torch==2.7.1", "setuptools")),
    "newest": Versions("3.13", ("torch",)),
}


def test(name: str, folder: Path) -> bool | None:
    """Whether the tests pass; None if the interpreter is absent."""
    versions, uv = VERSIONS[name], [sys.executable, "-m", "uv", "--quiet"]
    if subprocess.run([*uv, "venv", "--python", versions.python, folder], check=False).returncode:
        print(f"{name}: skipped, no Python {versions.python} here or to be had", flush=True)
        return None
    requirements = [*versions.requirements, *TESTS]
    subprocess.run([*uv, "pip", "install", "--python", folder, *requirements], check=True)
    print(f"{name}: Python {versions.python}, {', '.join(requirements)}", flush=True)
    command = [folder / "bin" / "python", "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", "tests/kernels"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main(*names: str) -> int:
    results = {}
    for name in names or VERSIONS:
        with TemporaryDirectory(prefix=f"prolap-{name}-") as folder:
            results[name] = test(name, Path(folder) / "environment")
    for name, result in results.items():
        print(f"{name}: {'skipped' if result is None else 'passed' if result else 'FAILED'}")
    return int(False in results.values())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
