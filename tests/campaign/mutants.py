"""Mutation testing of the core: a small change of the source that no test notices is a test that is missing.

cosmic-ray makes the mutants (mutmut 3 wants to copy the repository and rewrites every function, which breaks programs that are
traced and compiled). A fresh process imports one module from the changed source and runs the tests of that module: nothing in
the working tree is written to. A mutant that computes the same is entered in EQUIVALENT with its reason.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS = 240
"""After which a mutant that hangs is found."""
TESTS: dict[str, tuple[str, ...]] = {
    "prolap_kernels/pairs.py": ("tests/kernels/test_pairs.py", "tests/kernels/test_stats.py"),
    "prolap_kernels/backends/chunked/epilogue.py": (
        "tests/kernels/test_chunked_pairs.py",
        "tests/kernels/test_stats.py",
    ),
    "prolap_kernels/objectives/sigmoid.py": ("tests/kernels/test_chunked_pairs.py", "tests/kernels/test_stats.py"),
    "prolap_kernels/backends/links.py": ("tests/kernels/test_matched.py", "tests/kernels/test_chunked_matched.py"),
    "prolap/data/masking.py": ("tests/prolap/data/test_masking.py",),
    "prolap/evaluation/retrieval.py": ("tests/prolap/evaluation/test_retrieval.py",),
    "prolap/weights/checkpoint.py": ("tests/prolap/weights/test_checkpoint.py", "tests/prolap/training/test_resume.py"),
    "prolap/utils/files.py": ("tests/prolap/weights/test_checkpoint.py", "tests/prolap/training/test_resume.py"),
}
"""The mutated files, and the tests that should notice."""
OPERATORS = (
    "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "BitAnd_BitOr", "BitOr_BitAnd", "Eq_NotEq", "NotEq_Eq",
    "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "Gt_Lt", "Is_IsNot", "IsNot_Is", "Delete_USub", "Delete_Not",
    "Delete_Invert", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop", "AddNot",
)  # fmt: skip
"""Of cosmic-ray's; what exchanges exceptions and decorators mostly makes code that cannot be imported."""
EQUIVALENT: dict[str, str] = {}
"""A changed line as `file: line` -> why the program computes the same."""


class Mutant(NamedTuple):
    file: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: `{self.before}` -> `{self.after}`"


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from another source."""

    def __init__(self, module: str, path: str, source: str) -> None:
        self.module, self.path, self.source = module, path, source

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.module else None

    def exec_module(self, module: ModuleType) -> None:
        import linecache

        # inspect and compilers look the source up here
        linecache.cache[self.path] = (len(self.source), None, self.source.splitlines(keepends=True), self.path)
        exec(compile(self.source, self.path, "exec"), module.__dict__)


def run_tests(file: str, source: Path, tests: Sequence[str]) -> int:
    """In this fresh process: the tests, with the module of the file made from another source."""
    import pytest

    module = ".".join(Path(file).with_suffix("").parts)
    sys.meta_path.insert(0, _Changed(module, str(ROOT / file), source.read_text()))
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu", *tests]))


@cache
def mutants() -> tuple[Mutant, ...]:
    """All of them, in an order that mixes the files."""
    found = [mutant for file in TESTS if (ROOT / file).is_file() for mutant in _of(file)]
    random.Random(0).shuffle(found)
    return tuple(found)


def _of(file: str) -> Iterator[Mutant]:
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    source = (ROOT / file).read_text()
    seen = {_meaning(source)}
    for name in plugins.operator_names():
        if not name.endswith(OPERATORS):
            continue
        operator = plugins.get_operator(name)()
        occurrence = 0
        while (changed := mutate_code(source, operator, occurrence)) is not None:
            occurrence += 1
            try:
                meaning = _meaning(changed)
            except SyntaxError:
                continue
            if meaning not in seen:
                seen.add(meaning)
                yield _named(file, source, changed)


def _named(file: str, source: str, changed: str) -> Mutant:
    pairs = zip(source.splitlines(), changed.splitlines(), strict=False)
    line, (before, after) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return Mutant(file, line, before.strip(), after.strip(), changed)


def _meaning(source: str) -> str:
    """The program without annotations, which nothing evaluates, and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)  # type: ignore[assignment]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    body = [n for n in tree.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return ast.dump(ast.Module(body, []))


def is_found(mutant: Mutant, tests: Sequence[str] | None = None) -> bool:
    """Whether a test fails, or does not end."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "mutant.py"
        source.write_text(mutant.source)
        command = [sys.executable, __file__, mutant.file, str(source), *(tests or TESTS[mutant.file])]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return True
    return done.returncode != 0


def prepare(folder: Path) -> None:
    """Nothing: a mutant brings all it needs."""


def case(_: None, seed: int) -> Counter[str]:
    from tests.campaign.common import Broken

    mutant = mutants()[seed % len(mutants())]
    if f"{mutant.file}: {mutant.after}" in EQUIVALENT:
        return Counter({"mutants": 1, "equivalent": 1})
    if not is_found(mutant):
        raise Broken(f"survived: {mutant}")
    return Counter({"mutants": 1, "found by a test": 1, f"found in {mutant.file}": 1})


def campaign() -> Any:
    from tests.campaign.common import Campaign

    return Campaign("mutants", "mutants", 30, prepare, case)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(run_tests(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
