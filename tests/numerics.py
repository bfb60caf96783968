"""The numeric tests as on another machine: other vector widths, other paths inside the libraries, other numbers of threads.

    python -m tests.numerics SEED [PYTEST OPTION ...]                # one setting, drawn by the seed: make test-numerics SEED=
    python -m tests.numerics --matrix [--json FILE] [TEST FILE ...]  # six settings that hold every pair of values

A tolerance that holds on one machine only is luck. Every test file that compares numbers imports tests.tolerances, and runs here.
With --json the results of each setting and file are kept; a later run replaces those that it repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
CHOICES = {
    # torch's own loops, and those that Inductor compiles
    "ATEN_CPU_CAPABILITY": ("default", "avx2"),
    # convolutions and 16-bit products
    "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX2", None),
    # matrix products
    "MKL_CBWR": ("COMPATIBLE", "AVX2", None),
    "OMP_NUM_THREADS": ("1", "2", "4"),
}
"""What a seed draws from; None leaves the library as the machine has it."""
MATRIX = tuple(dict(zip(CHOICES, row, strict=True)) for row in (
    ("default", "AVX2", "COMPATIBLE", "1"), ("avx2", "AVX2", None, "2"), ("avx2", None, "COMPATIBLE", "4"),
    ("avx2", None, None, "1"), ("default", None, "COMPATIBLE", "2"), ("default", "AVX2", None, "4"),
))  # fmt: skip
"""The first three settings hold every value once, all six every pair of values of two variables."""
WORKERS = ("-n", "2", "--dist", "loadfile")
Setting = dict[str, str | None]


def draw(seed: str) -> Setting:
    """The setting of a seed."""
    source = random.Random(seed)
    return {name: source.choice(values) for name, values in CHOICES.items()}


def words(setting: Setting) -> str:
    return " ".join(f"{name}={value}" for name, value in setting.items() if value is not None)


def numeric_files() -> list[str]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if "from tests.tolerances import" in path.read_text()]


def run(setting: Setting, *options: str) -> int:
    """Pytest's exit code under a setting."""
    with tempfile.TemporaryDirectory() as cache:
        # threads that wait give their core away; loops compiled for another vector width must not be found in the cache
        fixed = {"OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_CACHE_DIR": cache}
        variables = {name: value for name, value in setting.items() if value is not None}
        command = [sys.executable, "-m", "pytest", *options]
        return subprocess.run(command, cwd=ROOT, env=os.environ | fixed | variables, check=False).returncode


def outcomes(report: Path) -> dict[str, dict[str, int]]:
    """Numbers of tests by file and outcome, from a JUnit report."""
    counts: dict[str, dict[str, int]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        row = counts.setdefault(case.attrib["file"], dict.fromkeys(("passed", "failed", "skipped"), 0))
        row[outcome] += 1
    return counts


def matrix(files: Sequence[str], path: Path | None) -> int:
    """All settings; 1 if a test failed."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    content = json.loads(path.read_text()) if path and path.is_file() else {"settings": {}}
    totals = []
    for setting in MATRIX:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            run(setting, *WORKERS, "-o", "junit_family=xunit1", f"--junit-xml={report}", *files)
            counts = outcomes(report)
        total = {outcome: sum(row[outcome] for row in counts.values()) for outcome in ("passed", "failed", "skipped")}
        totals.append((words(setting), total, time.perf_counter() - started))
        print(*line(*totals[-1]), flush=True)
        by_file = content["settings"].setdefault(words(setting), {})
        by_file |= {name: row | {"commit": commit.stdout.strip()} for name, row in sorted(counts.items())}
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n")
    print(*(" ".join(line(*total)) for total in totals), sep="\n")
    return int(any(total["failed"] or not total["passed"] for _, total, _ in totals))


def line(name: str, total: dict[str, int], seconds: float) -> tuple[str, ...]:
    return f"{name:<92}", *(f"{count:>6,} {outcome}" for outcome, count in total.items()), f"{seconds:>6.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", nargs="?")
    parser.add_argument("--matrix", action="store_true", help="six settings instead of one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results of --matrix by setting and test file")
    args, rest = parser.parse_known_args()
    if args.matrix:
        files = [args.seed, *rest] if args.seed else rest
        return matrix(files or numeric_files(), args.json)
    if args.seed is None:
        parser.error("SEED or --matrix is missing")
    setting = draw(args.seed)
    print(f"PROLAP_NUMERICS={args.seed} draws {words(setting)}; again: make test-numerics SEED={args.seed}", flush=True)
    return run(setting, *(rest or WORKERS), *numeric_files())


if __name__ == "__main__":
    sys.exit(main())
