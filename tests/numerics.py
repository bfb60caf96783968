"""The numeric tests as on another machine: `python -m tests.numerics SEED` picks vector widths, libraries' paths and threads.

A tolerance that holds on one machine only is luck. Whichever file compares numbers imports tests.tolerances, and runs here.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

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


def setting(seed: str) -> dict[str, str]:
    """Environment variables drawn by the seed."""
    draw = random.Random(seed)
    drawn = {name: draw.choice(values) for name, values in CHOICES.items()}
    return {name: value for name, value in drawn.items() if value is not None}


def numeric_files() -> list[str]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in paths if "from tests.tolerances import" in path.read_text()]


def main(seed: str, *options: str) -> int:
    drawn = setting(seed)
    words = " ".join(f"{name}={value}" for name, value in drawn.items())
    print(f"PROLAP_NUMERICS={seed} draws {words}; again: make test-numerics SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        # threads that wait give their core away; compiled loops of another vector width are not these
        fixed = {"OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_CACHE_DIR": cache}
        command = [sys.executable, "-m", "pytest", *(options or ("-n", "2", "--dist", "loadfile")), *numeric_files()]
        return subprocess.run(command, cwd=ROOT, env=os.environ | fixed | drawn, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
