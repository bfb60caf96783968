"""The layout is the architecture: who may import whom, how long things may be, and who knows whose name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("prolap_kernels", "prolap", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LAYERS = {
    "prolap_kernels": [
        {"gaussian"},
        {"checks"},
        {"pairs"},
        {"scores"},
        {"objectives"},
        {"reference"},
        {"backends"},
        {"ops"},
        {"ranks"},
        {"losses", "matched", "matrix", "search"},
        {"modules", "compat"},
        {"__init__"},
    ],
    "prolap": [
        {"utils"},
        {"config"},
        {"data"},
        {"models"},
        {"weights"},
        {"evaluation"},
        {"training"},
        {"use"},
        {"cli"},
        {"__init__", "__main__"},
    ],
}
"""The rooms of a package, lowest first: a room imports only itself, its neighbours in a line and what stands above it here."""
LONGER_FILES = {"prolap_kernels/matched.py": 400, "prolap_kernels/backends/triton/": 600}
"""Lines that a file may have where 300 do not do; a folder's name holds for its files."""
FLAT = ("prolap_kernels/ops/", "prolap_kernels/compat/", "prolap_kernels/backends/triton/")
"""Where functions may take more than 8 parameters: signatures that custom ops, Triton or other people's losses ask for."""
REGISTRIES = {
    "prolap_kernels/scores/": "prolap_kernels.SCORES",
    "prolap_kernels/objectives/": "prolap_kernels.OBJECTIVES",
    "prolap/models/encoders/": ("prolap.models.encoders.AUDIO", "prolap.models.encoders.TEXT"),
    "prolap/training/terms/": "prolap.training.terms.TERMS",
    "prolap/data/files/layouts/": "prolap.data.files.layouts.LAYOUTS",
    "prolap/data/features.py": "prolap.data.features.FEATURES",
    "prolap/models/heads.py": "prolap.models.heads.MEAN_HEADS",
    "prolap/models/tokenizers.py": "prolap.models.tokenizers.TOKENIZERS",
    "prolap/weights/importers/": "prolap.weights.importers.FORMATS",
}
"""The room or file of a registry -> where its entries are: outside that room nobody compares with the name of an entry."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in SOURCES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of the three packages that a file imports anywhere in it, inside functions too."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    modules = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                modules.add(inner if inner in MODULES else module)
    return frozenset(name for name in modules if name in MODULES)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("package", LAYERS)
def test_a_room_imports_only_what_stands_below_it(package: str) -> None:
    height = {name: level for level, layer in enumerate(LAYERS[package]) for name in layer}
    wrong = []
    for module, path in MODULES.items():
        if module.split(".")[0] != package:
            continue
        own = path.stem if path.parent == ROOT / package else room(module)
        assert own in height, f"{relative(path)}: a new room needs its place in LAYERS"
        for other in imports(path):
            if other.split(".")[0] == package and height[room(other)] > height[own]:
                wrong.append(f"{relative(path)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    assert not circles(graph), "\n".join(" <-> ".join(sorted(circle)) for circle in circles(graph))


def circles(graph: dict[str, frozenset[str]]) -> list[set[str]]:
    """Sets of modules each of which reaches all others (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in graph[module]:
            if other not in order:
                visit(other)
            if other in stack:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            circle = set(stack[stack.index(module) :])
            del stack[stack.index(module) :]
            if len(circle) > 1:
                result.append(circle)

    for module in graph:
        if module not in order:
            visit(module)
    return result


def test_the_trainer_knows_the_kernels_by_their_public_names_alone() -> None:
    import prolap_kernels

    public = {*prolap_kernels.__all__, "__version__"}
    for path in SOURCES:
        package = relative(path).split("/")[0]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                if package == "prolap_kernels":
                    assert node.module.split(".")[0] not in ("prolap", "benchmarks"), f"{relative(path)}: {node.module}"
                if package == "prolap" and node.module.split(".")[0] == "prolap_kernels":
                    strange = [a.name for a in node.names if a.name not in public]
                    assert node.module == "prolap_kernels", f"{relative(path)} imports {node.module}"
                    assert not strange, f"{relative(path)} imports {strange}, which are not public"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_budgets(path: Path) -> None:
    """A file 300 lines; a function 50 and a kernel 120 without its docstring; 8 parameters, public losses and kernels apart."""
    import prolap_kernels

    name = relative(path)
    most = next((lines for prefix, lines in LONGER_FILES.items() if name.startswith(prefix)), 300)
    count = len(path.read_text().splitlines())
    assert count <= most, f"{name} has {count} lines, at most {most}"
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kernel = any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list)
        doc = node.body[0] if ast.get_docstring(node) else None
        lines = (node.end_lineno or 0) - node.lineno + 1 - ((doc.end_lineno - doc.lineno + 1) if doc else 0)
        assert lines <= (120 if kernel else 50), f"{name}: {node.name} has {lines} lines"
        args = node.args
        count = len(args.args) + len(args.kwonlyargs) + len(args.posonlyargs)
        public = name.startswith("prolap_kernels/") and node.name in prolap_kernels.__all__
        flat = kernel or public or name.startswith(FLAT)
        assert flat or count <= 8, f"{name}: {node.name} takes {count} parameters"


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


def entries(room: str) -> set[str]:
    """Names of the entries of a room's registries."""
    from importlib import import_module

    where = REGISTRIES[room]
    names: set[str] = set()
    for dotted in (where,) if isinstance(where, str) else where:
        module, _, attribute = dotted.rpartition(".")
        names |= set(getattr(import_module(module), attribute))
    return names


def compared(path: Path) -> dict[str, int]:
    """Strings that a file compares with, looks up or hands to a parameter of that kind -> line."""
    constants: dict[str, int] = {}
    for node in ast.walk(tree(path)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) != "Literal":
            parts = [node.slice]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        for part in parts:
            for inner in ast.walk(part):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    constants[inner.value] = inner.lineno
    return constants


@pytest.mark.parametrize("room", REGISTRIES)
def test_nobody_compares_with_the_name_of_another_rooms_entry(room: str) -> None:
    wrong = []
    for path in SOURCES:
        name = relative(path)
        if name.startswith((room, "benchmarks/", "prolap_kernels/compat/", "prolap/config/presets/")):
            continue
        for text, line in compared(path).items():
            if text in entries(room) and text not in PACKAGES:
                wrong.append(f"{name}:{line} compares with {text!r}")
    assert not wrong, "\n".join(wrong)


FOLDERS = ("prolap_kernels", "prolap", "benchmarks", "tests", "docs", "examples")
TOYS = set(re.findall(r"In the package: `(\S+)`", (ROOT / "docs" / "extending.md").read_text()))
"""Files that the recipes would add."""
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pages_name_only_what_exists(page: Path) -> None:
    """Files, modules and commands that a page names are there."""
    text = page.read_text()
    wrong = []
    for path in set(re.findall(rf"(?<![\w/])((?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|md|json|ya?ml|png))\b", text)):
        if not (ROOT / path).exists() and path not in TOYS:
            wrong.append(path)
    for command in set(re.findall(r"python3? -m ((?:prolap|benchmarks)[\w.]*)", text)):
        module = ROOT / command.replace(".", "/")
        if not (module.is_dir() or module.with_suffix(".py").exists()):
            wrong.append(f"python -m {command}")
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        if not (page.parent / link).exists():
            wrong.append(f"link to {link}")
    assert not wrong, f"{relative(page)} names {wrong}"


def test_the_tree_of_the_architecture_page_is_that_of_the_packages() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    figure = page.partition("## Rooms\n")[2].partition("```text\n")[2].partition("```")[0]
    drawn, folders = set(), [""]
    for line in figure.splitlines():
        indent, names = (len(line) - len(line.lstrip())) // 2, re.split(r"\s{2,}", line.strip())[0].split()
        for name in names:
            path = folders[indent] + name
            assert (ROOT / path).exists(), f"the page draws {path}"
            drawn.add(path.rstrip("/"))
        folders[indent + 1 :] = [folders[indent] + names[0]]
    for package in ("prolap_kernels", "prolap"):
        rooms = {
            relative(path)
            for path in (ROOT / package).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        missing = rooms - drawn - {f"{package}/__init__.py", f"{package}/__main__.py"}
        assert not missing, f"the page leaves out {sorted(missing)}"
