"""Losses side by side in one run: ours, what others write, and the three matrix products that nobody can beat.

    python -m benchmarks.run                                            # ProLAP's loss at 1024 x 1024 x 1024
    python -m benchmarks.run --case dot-sigmoid --sizes 256 1024 4096 --width 512 --plot out/ --json out/dot.json
    python -m benchmarks.run --case inclusion-score-forward inclusion-score --shape 512 512 512 --shape 2048 2048 256

Contenders take turns call by call; times are medians, ratios medians over the rounds.

Everything that only a GPU can tell, in one command that keeps a time budget:

    python -m benchmarks.run --gpu [--budget 540] [--only correctness sweep] [--json FILE]
    python -m benchmarks.run --gpu --dry-run        # the same script on the CPU: tiny sizes, no figure means anything

Sections run in order of importance; one for which no time is left says so. The JSON file is whole after every step; with --only
the sections that an earlier session measured of the same sources on the same device stay in it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .cases import Shape, cases
from .comparison import DTYPES, compare, plot_rows, print_rows
from .correctness import correctness, sanitizer
from .gpu import candidates, ceilings, elementwise, extent, key_cells, launches, step
from .peers import OURS, PEERS
from .records import RESULTS, Row, argument_parser, stamp, write_json
from .session import DRY, REAL, Session, targets

SECTIONS = {
    "correctness": correctness,
    "ceilings": ceilings,
    "key": key_cells,
    "launches": launches,
    "elementwise": elementwise,
    "step": step,
    "candidates": candidates,
    "sanitizer": sanitizer,
    "sweep": extent,
    "targets": targets,
}
"""Of a session on a GPU, in order of importance."""
NO_DEVICE = (
    "benchmarks: --gpu needs a CUDA or ROCm device and torch sees none here (--dry-run runs the script on the CPU)"
)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")
    return number


def parser() -> argparse.ArgumentParser:
    result = argument_parser("run", __doc__)
    add = result.add_argument
    add("--case", nargs="+", choices=cases(), default=["csd-sigmoid"], metavar="CASE", help=f"of {', '.join(cases())}")
    add("--shape", type=_positive, nargs=3, action="append", metavar=("N", "M", "D"),
        help="may be given more than once (1024 1024 1024)")  # fmt: skip
    add("--sizes", type=_positive, nargs="+", metavar="B", help="square batches, instead of --shape")
    add("--width", type=_positive, default=512, metavar="D", help="of --sizes (512)")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--dtype", default="float32", choices=DTYPES)
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}")
    add("--repeat", type=_positive, default=15, help="timed calls of each (15)")
    add("--patience", type=float, default=20.0,
        help="seconds after which one gets no more calls, nor a look at its memory if one took longer (20)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="the rows, with device, versions and commit")
    add("--plot", type=Path, metavar="FOLDER", help="time and memory by size, achieved share of the limit")
    gpu = result.add_argument_group(
        "--gpu", "all that only a GPU can tell; of the options above it takes --json and --plot"
    )
    add = gpu.add_argument
    add("--gpu", action="store_true", help="writes benchmarks/results/gpu/<device>.json unless --json says otherwise")
    add("--budget", type=float, default=540.0, help="seconds (540)")
    add("--only", nargs="+", choices=SECTIONS, default=[], metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    add("--dry-run", action="store_true", help="on the CPU, tiny; writes a file only where --json names one")
    return result


def measure_gpu(args: argparse.Namespace) -> int:
    """2 without a device, 1 if a result was wrong, else 0; a missed target is a figure and no failure."""
    if not args.dry_run and not torch.cuda.is_available():
        print(NO_DEVICE, file=sys.stderr)
        return 2
    path = args.json
    if path is None and not args.dry_run:
        device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
        path = RESULTS / "gpu" / f"{device}.json"
    session = Session(DRY if args.dry_run else REAL, args.budget, path)
    session.resume(args.only)
    session.run(
        {name: work for name, work in SECTIONS.items() if name in (args.only or SECTIONS)}, whatever=("targets",)
    )
    if args.plot:
        print("plots:", *plot_rows(session.rows("key") + session.rows("sweep"), args.plot))
    if path:
        print(f"written: {path}")
    return int(any("failed" in row or "broken" in row for row in session.rows("correctness")))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if our own loss failed its check or could not run."""
    args = parser().parse_args(argv)
    if args.gpu:
        return measure_gpu(args)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser().error("--device cuda: torch sees no CUDA device here")
    shapes: list[Shape] = [(b, b, args.width) for b in args.sizes or ()]
    shapes = shapes or [(n, m, d) for n, m, d in args.shape or [(1024, 1024, 1024)]]
    peers = [PEERS[name] for name in args.peers]
    content: Row = stamp(args.device) | {"rows": []}
    for name in args.case:
        for shape in shapes:
            rows = compare(cases()[name], shape, args.device, args.dtype, peers, args.repeat, args.patience)
            print_rows(rows)
            content["rows"] += rows
            if args.json:
                write_json(args.json, content)
    if args.plot:
        print("plots:", *plot_rows(content["rows"], args.plot))
    return int(any("failed" in row for row in content["rows"] if row["contender"] == OURS))


if __name__ == "__main__":
    sys.exit(main())
