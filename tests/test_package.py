"""What users install: sdist and wheel in empty environments, the hub's layout, the pages that come along.

Environments are made by uv, with a cache of their own that is deleted afterwards: nothing depends on what the machine has
installed before.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from prolap_kernels import __version__

ROOT = Path(__file__).parent.parent
PACKAGES = ("prolap", "prolap_kernels")
BESIDE = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
}
"""What a source distribution holds besides the packages."""


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """The output of a command that knows nothing of this tree."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked() -> list[str]:
    return [path for path in run("git", "ls-files").splitlines() if (ROOT / path).exists()]


def uv(*words: str | Path, cache: Path) -> str:
    return run(sys.executable, "-m", "uv", "--quiet", *words, UV_CACHE_DIR=str(cache / "uv"), UV_NO_CONFIG="1")


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    with TemporaryDirectory(prefix="prolap-package-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def tree(work: Path) -> Path:
    """The tracked files alone: what a fresh clone holds."""
    for path in tracked():
        target = work / "tree" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / path).read_bytes())
    return work / "tree"


@pytest.fixture(scope="module")
def sdist(work: Path, tree: Path) -> Path:
    uv("build", "--sdist", "--out-dir", work / "sdist", tree, cache=work)
    return next((work / "sdist").glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(work: Path, sdist: Path) -> Path:
    """Built from the source distribution."""
    uv("build", "--wheel", "--out-dir", work / "wheel", sdist, cache=work)
    return next((work / "wheel").glob("*.whl"))


def environment(work: Path, name: str, *requirements: str | Path) -> Path:
    """The interpreter of a new virtual environment that holds these requirements and nothing else."""
    uv("venv", "--python", sys.executable, work / name, cache=work)
    uv("pip", "install", "--python", work / name, *requirements, cache=work)
    return work / name / "bin" / "python"


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if not name.endswith("RECORD")}


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_packages_and_nothing_else(wheel: Path, sdist: Path) -> None:
    package_files = {path for path in tracked() if path.startswith(tuple(f"{name}/" for name in PACKAGES))}
    with tarfile.open(sdist) as file:
        names = {member.name.split("/", 1)[1] for member in file if member.isfile()}
    assert {name for name in names if not name.startswith("prolap.egg-info/")} == package_files | BESIDE
    inside = contents(wheel)
    information = f"prolap-{__version__}.dist-info/"
    assert {name for name in inside if not name.startswith(information)} == package_files
    assert {f"{name}/py.typed" for name in PACKAGES} <= package_files
    assert inside[f"{information}licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    metadata = inside[f"{information}METADATA"].decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert [re.findall(r"[a-z]+", line.split()[1])[0] for line in needs] == ["torch", "numpy", "triton"]


@pytest.mark.slow
def test_a_wheel_from_the_tree_is_the_wheel_from_the_sdist(work: Path, tree: Path, wheel: Path) -> None:
    uv("build", "--wheel", "--out-dir", work / "direct", tree, cache=work)
    assert contents(next((work / "direct").glob("*.whl"))) == contents(wheel)


@pytest.mark.slow
def test_losses_alone(work: Path, wheel: Path) -> None:
    """`pip install prolap` on the newest torch: the ten lines of the README, and none of the trainer's packages."""
    python = environment(work, "losses", wheel)
    example = re.search(r"## The losses in ten lines\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert example is not None
    check = "\nassert scale.grad.isfinite() and audio.mean.grad is not None and audio.mean.grad.isfinite().all()"
    run(python, "-W", "error::UserWarning:prolap_kernels", "-c", example[1] + check, folder=work)
    trainer = (
        "torchaudio",
        "soundfile",
        "soxr",
        "transformers",
        "safetensors",
        "tyro",
        "yaml",
        "rich",
        "scipy",
        "matplotlib",
    )
    absent = f"import importlib.util as u; print([n for n in {trainer!r} if u.find_spec(n)])"
    assert run(python, "-c", absent, folder=work) == "[]\n"


@pytest.mark.slow
def test_the_trainer_is_an_extra(work: Path, wheel: Path) -> None:
    python = environment(work, "trainer", f"{wheel}[train]")
    (work / "empty").mkdir()
    command = python.parent / "prolap"
    assert run(command, "--version", folder=work / "empty") == f"prolap {__version__}\n"
    printed = run(
        command, "quickstart", "--dry-run", folder=work / "empty", XDG_CACHE_HOME=str(work / "empty" / "cache")
    )
    assert printed.endswith("Dry run: nothing was rendered, trained or written.\n")
    assert not list((work / "empty").iterdir())


HUB = """
import importlib.util, sys
from pathlib import Path
import torch
from kernels import get_local_kernel
from kernels._rust import Build

assert importlib.util.find_spec("prolap_kernels") is None
folder = Path(sys.argv[1])
Build.open(folder)
losses = get_local_kernel(folder)
x, y = (losses.Gaussian(torch.eye(4, 8).requires_grad_(), torch.full((4, 8), -3.0)) for _ in range(2))
value = losses.ppcl_loss(x, y, 10.0, -10.0)
value.backward()
assert x.mean.grad.isfinite().all() and x.mean.grad.any()
print(value.item())
"""


@pytest.mark.slow
def test_the_layout_of_the_hub_loads_without_the_package(work: Path) -> None:
    run(sys.executable, "scripts/hub.py", work / "hub")
    python = environment(work, "hub-user", "kernels", "torch", "numpy")
    printed = float(run(python, "-c", HUB, work / "hub", folder=work, HF_HUB_OFFLINE="1"))
    here = """
import torch
from prolap_kernels import Gaussian, ppcl_loss
x = Gaussian(torch.eye(4, 8), torch.full((4, 8), -3.0))
print(ppcl_loss(x, x, 10.0, -10.0).item())
"""
    installed = float(run(sys.executable, "-c", here, PYTHONPATH=str(ROOT)))
    assert printed == pytest.approx(installed, rel=1e-5)


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert re.search(rf"^## {re.escape(__version__)}$", (ROOT / "CHANGELOG.md").read_text(), re.M)
