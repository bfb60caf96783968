"""Losses side by side in one run: ours, what others write, and the three matrix products that nobody can beat.

    python -m benchmarks.run                                            # ProLAP's loss at 1024 x 1024 x 1024
    python -m benchmarks.run --case dot-sigmoid --sizes 256 1024 4096 --width 512 --plot out/ --json out/dot.json
    python -m benchmarks.run --case inclusion-score-forward inclusion-score --shape 512 512 512 --shape 2048 2048 256
    python -m benchmarks.run --gpu                                      # all that only a GPU can tell, in ten minutes

Everyone's loss and gradients are checked against float64 first; a wrong result has no time. Contenders take turns call by
call; times are medians, ratios medians over the rounds. Memory is the peak above inputs and gradients.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from .cases import Batch, Case, cases, make_batch
from .correctness import check, truth
from .environment import stamp
from .measure import brief, interleave, peak_bytes_apart, peak_bytes_here, ratio, summary
from .peers import LIMIT, OURS, PEERS, Loss, Peer, refusal

Row = dict[str, Any]
Shape = tuple[int, int, int]
Memory = Callable[[str, Loss, Batch], int | str]
DTYPES = ("float32", "float16", "bfloat16", "float64")


def compare(
    case: Case,
    shape: Shape,
    device: str,
    dtype: str,
    peers: Iterable[Peer],
    repeat: int,
    patience: float,
    memory: Memory,
) -> list[Row]:
    """A row per peer: its figures, why it has none ("absent"), or what went wrong ("failed")."""
    rows = {
        p.name: {"case": case.name, "passes": case.passes, "contender": p.name, "shape": list(shape), "dtype": dtype}
        for p in peers
    }
    batch = make_batch(case, shape, device, getattr(torch, dtype))
    want = truth(batch)
    losses: dict[str, Loss] = {}
    for name, row in rows.items():
        why = refusal(PEERS[name], case, shape, device)
        if why:
            row["absent"] = why
            continue
        try:
            loss = PEERS[name].build()
            verdict = check(PEERS[name], loss, batch, want)
        except Exception as error:  # a peer's failure is a row, not the end of the run
            row["failed"] = brief(error)
            continue
        row["errors"] = verdict.errors
        if verdict.why:
            row["failed"] = f"wrong, so not timed: {verdict.why}"
        else:
            losses[name] = loss
    times = interleave(losses, batch, device, repeat, patience)
    for name, found in times.items():
        if isinstance(found, str):
            rows[name]["failed"] = found
            continue
        amount = ("elements", batch.elements()) if case.is_tile else ("flops", batch.flops())
        rows[name] |= summary(found) | {f"{amount[0]}_per_second": amount[1] / summary(found)["seconds"]}
        rows[name] |= {f"times_{key}": ratio(found, times[who])
                       for key, who in (("ours", OURS), ("limit", LIMIT)) if isinstance(times.get(who), list)}  # fmt: skip
        slow = f"a call takes more than {patience:g} s, and three are needed"
        peak = slow if summary(found)["seconds"] > patience > 0 else memory(name, losses[name], batch)
        rows[name] |= {"peak_bytes": peak} if isinstance(peak, int) else {"memory_failed": peak}
    return list(rows.values())


def print_rows(rows: Sequence[Row]) -> None:
    """The table of one comparison."""
    first = rows[0]
    shape = " x ".join(map(str, first["shape"]))
    print(f"\n{first['case']}, {first['passes']}, {first['dtype']}, N x M x D = {shape}")
    tile = any("elements_per_second" in row for row in rows)  # bounded by elements, there is no limit to compare with
    head = ("contender", "ms", "quartiles", "MB", "time/ours", "Gelem/s" if tile else "time/limit", "error")
    print(f"{head[0]:<24}{head[1]:>10}{head[2]:>20}{head[3]:>10}{head[4]:>11}{head[5]:>12}{head[6]:>10}")
    for row in rows:
        reason = [f"{key}: {row[key]}" for key in ("absent", "failed") if key in row]
        if reason:
            print(f"{row['contender']:<24}{reason[0]}")
            continue
        low, high = (1e3 * q for q in row["quartiles"])
        cells = (
            _figure(row, "peak_bytes", 1e-6, ".1f"),
            _figure(row, "times_ours", 1, ".2f"),
            _figure(row, "elements_per_second", 1e-9, ".3f") if tile else _figure(row, "times_limit", 1, ".2f"),
        )
        worst = max(row["errors"].values(), default=None)
        spread = f"{low:.2f}..{high:.2f}"
        print(f"{row['contender']:<24}{1e3 * row['seconds']:>10.2f}{spread:>20}{cells[0]:>10}{cells[1]:>11}{cells[2]:>12}"
              f"{'-' if worst is None else f'{worst:.0e}':>10}", flush=True)  # fmt: skip


def _figure(row: Row, key: str, factor: float, form: str) -> str:
    return format(factor * row[key], form) if key in row else "-"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, whenever the run is stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(path.suffix + ".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")
    return number


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--case", nargs="+", choices=cases(), default=["csd-sigmoid"], metavar="CASE",
                      help=f"of {', '.join(cases())}")  # fmt: skip
    made.add_argument("--shape", type=_positive, nargs=3, action="append", metavar=("N", "M", "D"),
                      help="may be given more than once (1024 1024 1024)")  # fmt: skip
    made.add_argument("--sizes", type=_positive, nargs="+", metavar="B", help="square batches, instead of --shape")
    made.add_argument("--width", type=_positive, default=512, metavar="D", help="of --sizes (512)")
    made.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    made.add_argument("--dtype", default="float32", choices=DTYPES)
    made.add_argument(
        "--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}"
    )
    made.add_argument("--repeat", type=_positive, default=15, help="timed calls of each (15)")
    made.add_argument(
        "--patience",
        type=float,
        default=20.0,
        help="seconds after which one gets no more calls, nor a look at its memory if one took longer (20)",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="the rows, with device, versions and commit")
    made.add_argument(
        "--plot", type=Path, metavar="FOLDER", help="time and memory by size, achieved share of the limit"
    )
    made.add_argument(
        "--gpu", action="store_true", help="all that only a GPU can tell; --help with it shows its options"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if our own loss failed its check or could not run."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if "--gpu" in argv:
        from .gpu import main as gpu_main

        return gpu_main([word for word in argv if word != "--gpu"])
    args = parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser().error("--device cuda: torch sees no CUDA device here")
    given: list[Shape] = [(n, m, d) for n, m, d in args.shape or [(1024, 1024, 1024)]]
    shapes: list[Shape] = [(b, b, args.width) for b in args.sizes] if args.sizes else given
    content: dict[str, Any] = stamp(args.device) | {"rows": []}
    for name in args.case:
        for shape in shapes:
            rows = compare(cases()[name], shape, args.device, args.dtype, [PEERS[p] for p in args.peers], args.repeat,
                           args.patience, peak_bytes_here if args.device == "cuda" else peak_bytes_apart)  # fmt: skip
            print_rows(rows)
            content["rows"] += rows
            if args.json:
                write_json(args.json, content)
    if args.plot:
        from .plots import plot_rows

        print("plots:", *plot_rows(content["rows"], args.plot))
    return int(any("failed" in row for row in content["rows"] if row["contender"] == OURS))


if __name__ == "__main__":
    sys.exit(main())
