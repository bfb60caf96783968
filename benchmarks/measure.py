"""Time and memory of losses.

Time: contenders take turns call by call, so that whatever else the machine does hits all of them; ratios are medians over
the rounds. Memory: the peak above inputs and gradients; on a CPU in a process of its own, since it is read from the resident
set:

    python -m benchmarks.measure CASE PEER N M D [--dtype ...]     # peak bytes
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from .cases import Batch, cases, make_batch
from .correctness import train
from .environment import ROOT
from .peers import PEERS, Loss

WARM_UP = 2


def seconds(work: Callable[[], object], device: str) -> float:
    """One call, from an empty queue: on a GPU by events, so that the host's launches count but not its synchronisation."""
    if device != "cuda":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def interleave(
    losses: Mapping[str, Loss], batch: Batch, device: str, repeat: int, patience: float
) -> dict[str, list[float] | str]:
    """Seconds of each call by contender, or what it raised. One that has used `patience` seconds stops, after two calls at
    the least."""
    found: dict[str, list[float] | str] = {}

    def call(name: str) -> float:
        batch.clear()
        return seconds(lambda: train(losses[name], batch), device)

    for name in losses:
        try:
            warm = call(name)
            for _ in range(WARM_UP - 1):
                warm = warm if warm > patience else call(name)
            found[name] = [warm] if warm > patience else []
        except Exception as error:  # a peer's failure is a row, not the end of the run
            found[name] = brief(error)
        _release(device)
    order = deque(name for name, times in found.items() if isinstance(times, list))
    for _ in range(repeat):
        order.rotate()  # nobody always comes after the same one
        for name in order:
            times = found[name]
            assert isinstance(times, list)
            if len(times) < 2 or sum(times) < patience:
                times.append(call(name))
    batch.clear()
    return found


def brief(error: BaseException) -> str:
    """The kind of an exception and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _release(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def summary(times: list[float]) -> dict[str, object]:
    """Median, quartiles and number of calls."""
    quartiles = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"seconds": statistics.median(times), "quartiles": [quartiles[0], quartiles[2]], "calls": len(times)}


def ratio(times: list[float], others: list[float]) -> float:
    """Median over the rounds of times / others."""
    return statistics.median(a / b for a, b in zip(times, others, strict=False))


def peak_bytes(loss: Loss, batch: Batch, device: str) -> int:
    """Most memory during a call above the inputs, less the value and the gradients that it leaves; what a loss keeps counts."""
    batch.clear()
    gc.collect()
    before, kept = _used(device), _tensor_bytes()
    for _ in range(WARM_UP):  # compilers work here, and their memory is not the loss's
        batch.clear()
        train(loss, batch)
    batch.clear()
    gc.collect()
    cached = _tensor_bytes() - kept
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        before = _used(device) - cached
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    value = train(loss, batch)
    gradients = value.nbytes + sum(leaf.grad.nbytes for leaf in batch.leaves.values() if leaf.grad is not None)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")
    batch.clear()
    return max(peak - before - gradients, 0)


def _used(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def _tensor_bytes() -> int:
    """Of all tensors alive."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors()}
    return sum(storages.values())


def _tensors() -> list[torch.Tensor]:
    return [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter) and t.layout == torch.strided]


def peak_bytes_here(name: str, loss: Loss, batch: Batch) -> int:
    """`peak_bytes` in this process, which is exact where an allocator counts."""
    return peak_bytes(loss, batch, batch.x.mean.device.type)


def peak_bytes_apart(name: str, loss: Loss, batch: Batch) -> int | str:
    """`peak_bytes` of the peer `name` on the CPU in a process of its own, or what it died of."""
    shape = (len(batch.x.mean), *batch.y.mean.shape)
    dtype = str(batch.x.mean.dtype).removeprefix("torch.")
    command = [sys.executable, "-m", "benchmarks.measure", batch.case.name, name, *map(str, shape), "--dtype", dtype]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1][:160] if lines else f"exit {done.returncode}"
    return int(done.stdout.split()[-1])  # packages talk when they are imported


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("case", choices=cases())
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("shape", type=int, nargs=3, metavar="N M D")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    batch = make_batch(cases()[args.case], tuple(args.shape), "cpu", getattr(torch, args.dtype))
    print(peak_bytes(PEERS[args.peer].build(), batch, "cpu"))


if __name__ == "__main__":
    main()
