"""The losses beside a literal N x M x D formulation, eager torch and the bare matrix products, in one run.

    python -m benchmarks.run [--case csd-sigmoid] [--shape 1024 1024 1024] [--json FILE]

Each contender runs in a process of its own, in turn, `--rounds` times; the table shows medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from .cases import cases
from .environment import ROOT, stamp


def _measure(case: str, contender: str, args: argparse.Namespace) -> dict:
    repeat = 2 if contender == "literal" else args.repeat
    command = [sys.executable, "-m", "benchmarks.measure", case, contender, *map(str, args.shape)]
    command += ["--device", args.device, "--dtype", args.dtype, "--repeat", str(repeat)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        return {"case": case, "contender": contender, "failed": reason[-1] if reason else f"exit {done.returncode}"}
    return json.loads(done.stdout)


def compare(case: str, args: argparse.Namespace) -> list[dict]:
    """A row per contender: medians over the rounds, and ratios to ours."""
    names = list(cases()[case].contenders)
    rounds: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            rounds[name].append(_measure(case, name, args))
    rows = []
    for found in rounds.values():
        good = [r for r in found if "failed" not in r]
        if not good:
            rows.append(found[-1])
            continue
        median = statistics.median(r["seconds"]["median"] for r in good)
        rows.append(good[0] | {"seconds": median, "spread": [min(r["seconds"]["least"] for r in good),
                    max(r["seconds"]["most"] for r in good)], "peak_bytes": max(r["peak_bytes"] for r in good)})  # fmt: skip
    ours = rows[0]
    for row in rows[1:]:
        if "failed" not in row and "failed" not in ours:
            row["times_ours"] = row["seconds"] / ours["seconds"]
            row["memory_times_ours"] = row["peak_bytes"] / max(ours["peak_bytes"], 1)
            if row["contender"] != "products alone":
                row["loss_difference"] = abs(row["loss"] - ours["loss"])
    return rows


def _print(rows: list[dict]) -> None:
    print(f"{'contender':<16}{'ms':>10}{'MB':>10}{'time/ours':>11}{'memory/ours':>13}{'loss':>12}")
    for row in rows:
        if "failed" in row:
            print(f"{row['contender']:<16}failed: {row['failed']}")
            continue
        time, memory = row.get("times_ours", 1.0), row.get("memory_times_ours", 1.0)
        print(
            f"{row['contender']:<16}{1e3 * row['seconds']:>10.1f}{row['peak_bytes'] / 1e6:>10.1f}"
            f"{time:>11.2f}{memory:>13.2f}{row['loss']:>12.5f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(cases()), default="csd-sigmoid")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("N", "M", "D"), default=(1024, 1024, 1024))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--repeat", type=int, default=9, help="calls per round; the first one warms up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here, with device, versions and commit")
    args = parser.parse_args()
    rows = compare(args.case, args)
    print(f"{args.case}, forward and backward, {args.dtype}, N x M x D = {' x '.join(map(str, args.shape))}")
    _print(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(stamp(args.device) | {"rows": rows}, indent=1) + "\n")
    if any("failed" in row for row in rows):
        sys.exit("some contenders failed")


if __name__ == "__main__":
    main()
