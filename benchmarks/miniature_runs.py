"""The trainer end to end on recorded sound in the public layouts: train, evaluate, and keep what came out.

    python -m benchmarks.miniature /tmp/miniature --package tuxpaint-stamps-default_*.deb --clips 400 50 100
    python -m benchmarks.miniature_runs /tmp/miniature --json benchmarks/results/cpu/miniature.json

Models start from random weights and train for minutes. The figures say that the commands work and that something is learned
where it could be; they say nothing about the paper's models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from .records import ROOT, stamp, write_json


class Run(NamedTuple):
    """One training and its evaluation on the test split of the same data."""

    preset: str
    data: str
    options: tuple[str, ...]


TINY = (
    "--batch_size",
    "64",
    "--steps",
    "600",
    "--data.cache_features",
    "--eval_every",
    "200",
    "--checkpoint_every",
    "200",
)
PAPER = ("--batch_size", "16", "--steps", "8", "--optim.chunk", "4", "--eval_every", "8", "--optim.lr", "1e-4")
RUNS = {
    "tiny, AudioCaps layout": Run("prolap+tiny", "audiocaps", TINY),
    "baseline, AudioCaps layout": Run("siglip+tiny", "audiocaps", TINY),
    "tiny, Clotho layout": Run("prolap+tiny", "clotho", TINY),
    "published size, AudioCaps layout": Run("prolap", "audiocaps", PAPER),
    "published size, Clotho layout": Run("prolap", "clotho", PAPER),
}


def prolap(*words: str) -> float:
    """Seconds of a command that must succeed; it prints on."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "prolap", *words], cwd=ROOT, check=True)
    return time.perf_counter() - started


def measure(run: Run, data: Path, folder: Path) -> dict[str, Any]:
    """Train and evaluate one run; its options, seconds and retrieval."""
    source = f"{run.data}:{data / run.data}"
    cache = ["--data.cache", str(folder / "cache")]
    words = [
        "--preset",
        run.preset,
        "--data.train",
        source,
        *cache,
        "--run",
        str(folder / "run"),
        *run.options,
        "--quiet",
    ]
    training = prolap("train", *words)
    evaluating = prolap("evaluate", str(folder / "run"))
    found = json.loads((folder / "run" / "metrics.json").read_text())
    rows = [json.loads(line) for line in (folder / "run" / "train.jsonl").read_text().splitlines()]
    return {
        **run._asdict(),
        "seconds": {"train": training, "evaluate": evaluating},
        "retrieval": found["retrieval"],
        "loss": [rows[0]["loss"], rows[-1]["loss"]],
    }


def keep(path: Path, name: str, run: dict[str, Any]) -> None:
    """Put one run, with what it was run on, into the file beside the others; they take too long to repeat for one."""
    runs = json.loads(path.read_text())["runs"] if path.is_file() else {}
    runs[name] = run | {"stamp": stamp("cpu")}  # its seconds are for the curious: other work may have run beside
    write_json(path, {"runs": {known: runs[known] for known in RUNS if known in runs}})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature_runs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", type=Path, help="what benchmarks.miniature wrote")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for name in args.only:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            run = measure(RUNS[name], args.data.resolve(), Path(folder))
        if args.json:
            keep(args.json, name, run)


if __name__ == "__main__":
    main()
