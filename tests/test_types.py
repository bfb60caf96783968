"""The types of the public names are complete for whoever checks code that calls them, by pyright's `--verifytypes`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import prolap
import prolap_kernels
import prolap_kernels.compat

ROOT = Path(__file__).parent.parent
PUBLIC = {
    "prolap_kernels": {f"prolap_kernels.{name}" for name in prolap_kernels.__all__}
    | {f"prolap_kernels.compat.{name}" for name in prolap_kernels.compat.__all__},
    "prolap": {f"prolap.{name}" for name in prolap.__all__ if not name.startswith("__")},
}


@cache
def symbols(package: str) -> dict[str, dict]:
    """Every symbol of a package by its name, as pyright reports it."""
    checker = [sys.executable, "-m", "pyright", "--ignoreexternal", "--outputjson", "--verifytypes", package]
    # where it looks for torch; it overlooks --pythonpath here
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(checker, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("{"), done.stderr
    return {symbol["name"]: symbol for symbol in json.loads(done.stdout)["typeCompleteness"]["symbols"]}


@pytest.mark.parametrize("package", PUBLIC)
def test_types_of_public_names_are_complete(package: str) -> None:
    reported = symbols(package)
    assert PUBLIC[package] <= set(reported), "names that pyright does not see as public"
    open_types = [
        f"{name}: {symbol['diagnostics'][0]['message'] if symbol['diagnostics'] else 'see its definition'}"
        for name, symbol in reported.items()
        if name in PUBLIC[package] and not symbol["isTypeKnown"]
    ]
    assert not open_types, "\n".join(open_types)
