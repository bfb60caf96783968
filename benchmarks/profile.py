"""Where the time of one loss goes, for people who write kernels:

    python -m benchmarks.profile csd-sigmoid --device cuda --dtype bfloat16 --shape 16384 16384 768
    python -m benchmarks.profile csd-sigmoid --peer eager                       # operations, on a CPU
    python -m benchmarks.profile inclusion-sigmoid                              # elementwise: no limit to compare with

A line per kernel (operation, on a CPU) and call: time, flops, bytes of its operands read or written once, and the share of what
the device reached in the same run: of the vendor's three matrix products by flops, of a large copy by bytes. Flops and bytes are
known of products of torch and of the Triton kernels of the pair engine. Elementwise scores, which are no matrix products, have
elements (N M D) per second instead.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .cases import Batch, Loss, cases, make_batch, train
from .comparison import DTYPES
from .measure import seconds, summary
from .peers import LIMIT, PEERS, refusal
from .records import ROOT, argument_parser, stamp

WARM_UP, STEPS = 3, 5
NCU_SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "MemoryWorkloadAnalysis")


@dataclass
class Work:
    """What one kernel did over all steps."""

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0


def launch_work(kernel: Any, args: Sequence[object]) -> tuple[float, float]:
    """Flops of the matrix products in one launch, and bytes of its tensors."""
    bare = (getattr(a, "base", a) for a in args)  # a descriptor stands for its tensor
    tensors = [a for a in bare if isinstance(a, Tensor)]
    first, second, third = (*tensors, *[torch.empty(0)] * 3)[:3]
    name, flops = kernel.__name__, 0.0
    if name.endswith("_tile"):  # phi_x, phi_y: the logits of a block
        flops = 2.0 * len(first) * second.numel()
    elif name.startswith("accumulate"):  # g, phi, out: a block's share of a gradient
        flops = 2.0 * len(second) * third.numel()
    return flops, float(sum(t.nbytes for t in tensors))


@contextmanager
def recorded(works: dict[str, Work]) -> Iterator[None]:
    """Notes what every Triton launch of the pair engine has to do."""
    try:
        from prolap_kernels.backends.triton import configs
    except ImportError:
        yield
        return
    start = configs.launch

    def launch(kernel: Any, programs: int, args: Sequence[object], *rest: Any) -> None:
        flops, size = launch_work(kernel, args)
        works[kernel.__name__].flops += flops
        works[kernel.__name__].bytes += size
        start(kernel, programs, args, *rest)

    with mock.patch.object(configs, "launch", launch):
        yield


def gather(loss: Loss, batch: Batch, device: str) -> dict[str, Work]:
    """Work by kernel or operation over STEPS calls."""
    works: dict[str, Work] = defaultdict(Work)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])

    def run(calls: int) -> None:
        for _ in range(calls):
            batch.clear()
            train(loss, batch)

    run(WARM_UP)
    launches = nullcontext() if batch.case.is_elementwise else recorded(works)
    with launches, profile(activities=activities, record_shapes=True, acc_events=True) as trace:
        run(STEPS)
        if device == "cuda":
            torch.cuda.synchronize()
    size = batch.x.mean.element_size()
    for event in trace.events():
        on_device = event.device_type == DeviceType.CUDA
        if on_device or device == "cpu":
            work = works[event.name]
            work.calls += 1
            work.seconds += (event.self_device_time_total if on_device else event.self_cpu_time_total) / 1e6
        product = operands(event.name, event.input_shapes)
        if product:
            m, k, n = product
            for name in {kernel.name for kernel in event.kernels} if device == "cuda" else {event.name}:
                works[name].flops += 2 * m * k * n
                works[name].bytes += size * (m * k + k * n + m * n)
    return {name: work for name, work in works.items() if work.calls or work.flops}


def operands(name: str, shapes: Sequence[Sequence[int]]) -> tuple[int, int, int] | None:
    """m, k, n of torch's product [m, k] @ [k, n]; None of other operations."""
    first = {"aten::mm": 0, "aten::addmm": 1, "aten::addmm_": 1}.get(name)
    if first is None:
        return None
    (m, k), (_, n) = shapes[first : first + 2]
    return m, k, n


def rates(batch: Batch, device: str) -> tuple[float, float]:
    """Flops per second of the three vendor products on this batch (NaN of an elementwise score), bytes per second of a copy."""
    products = PEERS[LIMIT].build()
    source = torch.randn(1 << (27 if device == "cuda" else 24), device=device)
    target = torch.empty_like(source)

    def median(work: Callable[[], object]) -> float:
        return float(summary([seconds(work, device) for _ in range(8)][3:])["seconds"])

    flops = math.nan if batch.case.is_elementwise else batch.flops() / median(lambda: products(batch))
    return flops, 2 * source.nbytes / median(lambda: target.copy_(source))


def print_table(works: dict[str, Work], best: tuple[float, float], rows: int, elements: int = 0) -> None:
    """elements: of an elementwise score, 0 of others."""
    total = sum(work.seconds for work in works.values())
    head = ("calls", "ms", "share", "Gflop", "of limit", "MB", "of copy")
    print(f"{'kernel or operation':<52}" + "".join(f"{title:>10}" for title in head))
    for name, work in sorted(works.items(), key=lambda item: -item[1].seconds)[:rows]:
        span = work.seconds or math.inf
        cells = [f"{work.calls / STEPS:.0f}", f"{1e3 * work.seconds / STEPS:.3f}", f"{work.seconds / total:.0%}"]
        share = "-" if math.isnan(best[0]) else f"{work.flops / span / best[0]:.0%}"
        cells += [f"{work.flops / STEPS / 1e9:.2f}", share] if work.flops else ["-", "-"]
        cells += [f"{work.bytes / STEPS / 1e6:.1f}", f"{work.bytes / span / best[1]:.0%}"] if work.bytes else ["-", "-"]
        print(f"{name[:50]:<52}" + "".join(f"{cell:>10}" for cell in cells))
    bound = f"{elements * STEPS / total:.3g} elements/s" if elements else f"the limit here: {best[0]:.3g} flop/s"
    print(f"total {1e3 * total / STEPS:.3f} ms a call; {bound}, a copy: {best[1]:.3g} bytes/s")


def ncu_command(args: argparse.Namespace) -> list[str]:
    """Nsight Compute over one call; clocks stay as they are."""
    sections = [word for name in NCU_SECTIONS for word in ("--section", name)]
    return ["ncu", "--clock-control", "none", *sections, sys.executable, "-m",
            "benchmarks.profile", args.case, "--bare", "--peer", args.peer, "--device", args.device, "--dtype", args.dtype,
            "--shape", *map(str, args.shape)]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argument_parser("profile", __doc__)
    parser.add_argument("case", choices=cases(), metavar="CASE", help=f"of {', '.join(cases())}")
    parser.add_argument("--peer", choices=PEERS, default="prolap_kernels")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("N", "M", "D"), default=(1024, 1024, 512))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rows", type=int, default=20, help="lines of the table (20)")
    parser.add_argument(
        "--bare", action="store_true", help="one call after a warm-up, nothing else: for other profilers"
    )
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    case, shape = cases()[args.case], (args.shape[0], args.shape[1], args.shape[2])
    if reason := refusal(PEERS[args.peer], case, shape, args.device):
        parser.error(f"--peer {args.peer}: {reason}")
    batch, loss = make_batch(case, shape, args.device, getattr(torch, args.dtype)), PEERS[args.peer].build()
    if args.bare:
        for _ in range(2):
            batch.clear()
            train(loss, batch)
        return 0
    print(f"{case.name}, {args.peer}, {args.dtype}, {' x '.join(map(str, shape))}, {stamp(args.device)['device']}")
    elements = batch.elements() if case.is_elementwise else 0
    print_table(gather(loss, batch, args.device), rates(batch, args.device), args.rows, elements)
    command = ncu_command(args)
    if args.device == "cuda" and shutil.which("ncu"):
        print(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout)
    else:
        print("hardware counters, where Nsight Compute is on PATH:\n  " + " ".join(command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
