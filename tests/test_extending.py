"""docs/extending.md does what it says: its files run as plug-ins, and inside a copy of the packages as one file and one line."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.prolap.tiny import write_data

ROOT = Path(__file__).parent.parent
SHORT = (
    "--steps 2 --batch_size 4 --eval_every 2 --data.seconds 0.3 --model.width 16 --model.dim 8 "
    "--data.overlap ignore --threads 1"
)
"""Makes the page's trainings last a moment; the page itself trains as long as its presets say."""


class Recipe(NamedTuple):
    """One section of the page."""

    title: str
    module: str
    source: str
    scripts: list[str]
    commands: list[str]
    file: str
    homes: list[str]
    """Modules beside the file that it imports public names from, where it stands in the package."""
    registry: str
    line: str


def recipes() -> list[Recipe]:
    sections = re.split(r"^## ", (ROOT / "docs" / "extending.md").read_text(), flags=re.M)[1:]
    return [_recipe(section) for section in sections]


def _recipe(section: str) -> Recipe:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", section, flags=re.M | re.S)
    code = [text for kind, text in blocks if kind == "python"]
    module = re.match(r"# (\w+)\.py\n", code[0])
    inside = re.search(r"In the package: `(\S+)`(.*), and in `(\S+)`", section)
    assert module, section
    assert inside, section
    commands = [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    (line,) = [text.strip() for kind, text in blocks if kind == "text"]
    homes = re.findall(r"`(\.\w+)`", inside[2])
    return Recipe(section.splitlines()[0], module[1], code[0], code[1:], commands, inside[1], homes, inside[3], line)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


def call(words: list[str], folder: Path, packages: Path = ROOT) -> str:
    path = os.pathsep.join([str(packages), str(folder)])
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def prolap(command: str) -> list[str]:
    words = shlex.split(command)
    assert words[0] == "prolap"
    short = shlex.split(SHORT) if words[1] == "train" else []
    return ["-m", *words, *short]


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.title)
def test_a_file_outside_the_packages_is_enough(recipe: Recipe, folder: Path) -> None:
    (folder / f"{recipe.module}.py").write_text(recipe.source)
    for script in recipe.scripts:
        call(["-c", script], folder)
    assert recipe.commands
    for command in recipe.commands:
        call(prolap(command), folder)
        if " train " in command:
            run = command.rpartition("--run ")[2]
            assert f"- {recipe.module}" in (folder / run / "config.yaml").read_text()
            call(["-m", "prolap", "train", "--resume", run], folder)


def inside(recipe: Recipe) -> str:
    """The source with public names of the package imported from the modules beside it."""
    room = recipe.file.rpartition("/")[0].replace("/", ".")

    def imports(match: re.Match[str]) -> str:
        home = {name: home for home in recipe.homes for name in vars(import_module(home, room))}
        return "\n".join(f"from {home[name]} import {name}" for name in match[1].split(", "))

    return (
        re.sub(r"^from prolap_kernels import (.+)$", imports, recipe.source, flags=re.M)
        if recipe.homes
        else recipe.source
    )


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.title)
def test_in_the_package_it_is_one_file_and_one_line(
    recipe: Recipe, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for package in ("prolap", "prolap_kernels"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert not (copy / recipe.file).exists(), f"{recipe.file} of the page is there already"
    (copy / recipe.file).write_text(inside(recipe))
    registry = (copy / recipe.registry).read_text().splitlines()
    last = max(number for number, text in enumerate(registry) if text.startswith("from "))
    start = next(
        n for n, text in enumerate(registry[last:], last) if text.rstrip().endswith(")") or "(" not in registry[last]
    )
    registry.insert(start + 1, recipe.line)
    (copy / recipe.registry).write_text("\n".join(registry) + "\n")
    for script in recipe.scripts:
        if "open(" in script:  # makes data
            call(["-c", script], folder, copy)
    for command in recipe.commands:
        call(prolap(command.replace(f"--plugins {recipe.module}", "")), folder, copy)
