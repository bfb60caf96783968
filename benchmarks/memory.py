"""Memory of what looks at all scores without a matrix: the best k of every row, and the ranks of retrieval.

    python -m benchmarks.memory --json benchmarks/results/cpu/memory.json     # a few minutes
    python -m benchmarks.memory --large                                       # 100,000 x 100,000 besides, longer

Every figure comes from a process of its own: the peak above inputs and results during the first call, after a smaller one has
brought the libraries' buffers and compiled what is compiled, and the median time of the calls. Beside it stands the same by way
of the N x M matrix; where that does not fit it is not run, and its size is computed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prolap.evaluation.retrieval import ranks
from prolap_kernels import Gaussian, pairwise_score, pairwise_topk

from .cases import Shape
from .measure import child, free_bytes, peak_used, reset_peak, seconds, used_bytes
from .records import Row, argument_parser, mb_text, origin, shape_text, shows, stamp, table, write_json

K = 10
LARGE = 100_000
LIVE = 3
"""Matrices that their makers hold at once."""
WARM = 2048
Work = Callable[[Gaussian, Gaussian], Sequence[Tensor]]


class Case(NamedTuple):
    """The same answer in blocks and by the matrix."""

    blocks: Work
    matrix: Work
    shape: Shape
    itemsize: int
    """Bytes of a score while the matrix is made."""


def _topk(score: str) -> tuple[Work, Work]:
    def blocks(x: Gaussian, y: Gaussian) -> Sequence[Tensor]:
        return pairwise_topk(x, y, K, score=score)

    def matrix(x: Gaussian, y: Gaussian) -> Sequence[Tensor]:
        return pairwise_score(x, y, score=score).topk(K, dim=1)

    return blocks, matrix


def _ranks(x: Gaussian, y: Gaussian) -> Sequence[Tensor]:
    return [torch.from_numpy(ranks(x, y, np.arange(len(x.mean))).ranks)]


def _dense_ranks(x: Gaussian, y: Gaussian) -> Sequence[Tensor]:
    x, y = (Gaussian(z.mean.double(), z.logvar.double()) for z in (x, y))
    scores = pairwise_score(x, y).float()
    return [(scores >= scores.diagonal()[:, None]).sum(1)]


CASES = {
    "topk-csd": Case(*_topk("csd"), (20_000, 20_000, 256), 4),
    "topk-inclusion": Case(*_topk("inclusion"), (4_000, 4_000, 256), 4),
    "ranks-csd": Case(_ranks, _dense_ranks, (20_000, 20_000, 256), 8),
}
LARGE_CASES = ("topk-csd", "ranks-csd")


def _inputs(n: int, m: int, d: int) -> tuple[Gaussian, Gaussian]:
    generator = torch.Generator().manual_seed(0)

    def side(rows: int) -> Gaussian:
        mean = torch.nn.functional.normalize(torch.randn(rows, d, generator=generator), dim=1)
        return Gaussian(mean, torch.randn(rows, d, generator=generator) - 6)

    return side(n), side(m)


def measure(work: Work, shape: Shape, repeat: int) -> Row:
    """Peak bytes above inputs and results, and seconds, in this process."""
    n, m, d = shape
    work(*_inputs(min(n, WARM), min(m, WARM), d))
    x, y = _inputs(n, m, d)
    gc.collect()
    before = used_bytes("cpu")
    reset_peak("cpu")
    times, peak = [], 0
    for _ in range(repeat):
        results: list[Tensor] = []
        times.append(seconds(lambda results=results: results.extend(work(x, y)), "cpu"))
        peak = peak or peak_used("cpu") - before - sum(t.nbytes for t in results)
        del results
    return {"peak_bytes": max(peak, 0), "seconds": statistics.median(times), "calls": repeat}


def compare(name: str, shape: Shape, repeat: int) -> list[Row]:
    """In blocks, and by the matrix or what that would take; each in a process of its own."""
    case, (n, m, _) = CASES[name], shape
    size = n * m * case.itemsize
    rows = []
    for way in ("blocks", "matrix"):
        row: Row = {"case": name, "shape": list(shape), "matrix_bytes": size, "way": way}
        if way == "matrix" and LIVE * size > free_bytes():
            row["absent"] = "the matrix does not fit"
        else:
            row |= child("benchmarks.memory", "--one", name, way, "--shape", *shape, "--repeat", repeat)
        rows.append(row)
    return rows


def print_row(row: Row) -> None:
    shape = " x ".join(f"{size:,}" for size in row["shape"])
    figures = row.get("failed") or row.get("absent") or f"{row['peak_bytes'] / 1e6:,.0f} MB, {row['seconds']:.2f} s"
    matrix = f"N x M: {row['matrix_bytes'] / 1e6:,.0f} MB"
    print(f"{row['case']:<16}{shape:<26}{row['way']:<8}{figures} ({matrix})", flush=True)


@shows("cpu/memory.json")
def report(record: Row) -> str:
    """Peaks of what looks at all scores, in blocks and by the matrix."""
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in record["rows"]:
        cells.setdefault((row["case"], shape_text(row)), {})[row["way"]] = row
    rows = []
    for (case, shape), ways in cells.items():
        size = f"{ways['blocks']['matrix_bytes'] / 1e6:,.0f}"
        rows.append([f"`{case}`", shape, *_peak(ways["blocks"]), *_peak(ways["matrix"], f"{size} alone")])
    head = ["case", "N × M × D", "blocks, MB", "s", "by the matrix, MB", "s"]
    return f"Peak above inputs and results, float32, {origin(record)}:\n\n{table(head, rows)}"


def _peak(row: Row, absent: str = "-") -> list[str]:
    """MB and seconds; `absent` where there was no room."""
    if "absent" in row:
        return [absent, "-"]
    return ["failed", "-"] if "failed" in row else [mb_text(row), f"{row['seconds']:.2f}"]


def parser() -> argparse.ArgumentParser:
    result = argument_parser("memory", __doc__)
    add = result.add_argument
    add("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    add("--shape", type=int, nargs=3, metavar=("N", "M", "D"), help="instead of each case's own")
    add("--large", action="store_true", help=f"{LARGE:,} x {LARGE:,} besides, each once")
    add("--repeat", type=int, default=3, help="timed calls of each (3)")
    add("--json", type=Path, metavar="FILE", help="the rows, with device, versions and commit")
    add("--one", nargs=2, metavar=("CASE", "WAY"), help="this alone, in this process; needs --shape")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if a measurement in blocks failed."""
    args = parser().parse_args(argv)
    if args.one:
        work: Work = getattr(CASES[args.one[0]], args.one[1])
        print(json.dumps(measure(work, tuple(args.shape), args.repeat)))
        return 0
    planned = [(name, tuple(args.shape or CASES[name].shape), args.repeat) for name in args.case]
    if args.large:
        planned += [(name, (LARGE, LARGE, 256), 1) for name in args.case if name in LARGE_CASES]
    content: Row = stamp("cpu") | {"rows": []}
    for name, shape, repeat in planned:
        rows = compare(name, shape, repeat)
        for row in rows:
            print_row(row)
        content["rows"] += rows
        if args.json:
            write_json(args.json, content)
    return int(any("failed" in row for row in content["rows"] if row["way"] == "blocks"))


if __name__ == "__main__":
    sys.exit(main())
