"""The layout is the architecture: who may import whom, and how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for package in ("prolap_kernels", "prolap") for p in (ROOT / package).rglob("*.py"))
TESTED = SOURCES + sorted((ROOT / "benchmarks").glob("*.py"))
KERNEL_LAYERS = [
    {"gaussian"},
    {"checks", "pairs", "stats"},
    {"scores"},
    {"objectives"},
    {"reference"},
    {"backends"},
    {"ops"},
    {"autograd"},
    {"row_ops", "score_ops"},
    {"matrix"},
    {"functional", "matched", "topk"},
    {"modules", "compat"},
    {"__init__"},
]
"""A room imports only what stands above it in this list; rooms of one line know nothing of each other."""
PUBLIC_LOSSES = {"functional.py", "matched.py"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """Absolute names of modules that a file imports, relative imports resolved."""
    package = list(path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_kernel_rooms_import_only_what_stands_above_them() -> None:
    height = {name: i for i, layer in enumerate(KERNEL_LAYERS) for name in layer}
    for path in SOURCES:
        if path.is_relative_to(ROOT / "prolap_kernels"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            mine = room(module)
            assert mine in height, f"{path.name}: a new room needs its place in KERNEL_LAYERS"
            for other in imports(path):
                if other.startswith("prolap_kernels.") and room(other) in height and room(other) != mine:
                    assert height[room(other)] < height[mine], (
                        f"{module} imports {other}, which does not stand above it"
                    )


def test_the_packages_know_each_other_only_by_public_names() -> None:
    import prolap_kernels

    public = {"prolap_kernels", *(f"prolap_kernels.{name}" for name in prolap_kernels.__all__)}
    public.add("prolap_kernels.__version__")
    for path in SOURCES:
        for other in imports(path):
            if path.is_relative_to(ROOT / "prolap_kernels"):
                assert other.split(".")[0] != "prolap", f"{path} imports the trainer"
            elif other.split(".")[0] == "prolap_kernels":
                assert other in public, f"{path} imports {other}, which is not public"


@pytest.mark.parametrize("path", TESTED, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path: Path) -> None:
    """A file 300 lines; a function 50 and a kernel 120 without its docstring; 8 parameters, public losses and kernels apart."""
    assert len(path.read_text().splitlines()) <= 300
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kernel = any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
        doc = node.body[0] if ast.get_docstring(node) else None
        lines = (node.end_lineno or 0) - node.lineno + 1 - ((doc.end_lineno - doc.lineno + 1) if doc else 0)
        assert lines <= (120 if kernel else 50), f"{node.name} has {lines} lines"
        args = node.args
        count = len(args.args) + len(args.kwonlyargs) + len(args.posonlyargs)
        # the raw ops and their bodies carry the flat signature that custom ops and Triton ask for, compat that of others
        flat = (
            kernel
            or path.name in PUBLIC_LOSSES | {"ops.py", "row_ops.py", "score_ops.py", "autograd.py", "fused.py"}
            or {"kernels", "compat"} & set(path.parts)
        )
        assert flat or count <= 8, f"{node.name} takes {count} parameters"


FORBIDDEN = ("transformers", "torchaudio", "soundfile", "matplotlib", "huggingface_hub", "requests")


def test_importing_the_losses_brings_no_trainer_needs_and_no_package_opens_a_socket() -> None:
    program = (
        "import sys, socket\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened at import')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "import prolap_kernels\n"
        f"print([m for m in {FORBIDDEN} if m in sys.modules])\n"
        "import prolap\n"
        f"print([m for m in {FORBIDDEN} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "[]"], done.stderr
