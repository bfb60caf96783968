"""Time and memory of any call.

Time: calls take turns, so that whatever else the machine does hits all of them; ratios are medians over the rounds. Memory: on a
GPU the peak of torch's allocator; on a CPU the peak of the resident set, which is read in a process of its own (`child`).
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .records import ROOT, Row

WARM_UP = 2
Work = Callable[[], object]


def seconds(work: Work, device: str) -> float:
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
    works: Mapping[str, Work], device: str, repeat: int, patience: float = float("inf"), before: Work = lambda: None
) -> dict[str, list[float] | str]:
    """Seconds of each call by name, or what it raised. `before` runs ahead of every call, off the clock. A name that has used
    `patience` seconds stops, after two calls at the least."""
    times: dict[str, list[float] | str] = {}

    def call(name: str) -> float:
        before()
        return seconds(works[name], device)

    for name in works:
        try:
            warm = call(name)
            for _ in range(WARM_UP - 1):
                warm = warm if warm > patience else call(name)
            times[name] = [warm] if warm > patience else []
        except Exception as error:  # a contender's failure is a row, not the end of the run
            times[name] = brief(error)
        if device == "cuda":
            torch.cuda.empty_cache()
    order = deque(name for name, calls in times.items() if isinstance(calls, list))
    for _ in range(repeat):
        order.rotate()  # nobody always comes after the same one
        for name in order:
            calls = times[name]
            assert isinstance(calls, list)
            if len(calls) < 2 or sum(calls) < patience:
                calls.append(call(name))
    before()
    return times


def brief(error: BaseException) -> str:
    """The kind of an exception and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def summary(times: list[float]) -> Row:
    """Median, quartiles and number of calls."""
    quartiles = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"seconds": statistics.median(times), "quartiles": [quartiles[0], quartiles[2]], "calls": len(times)}


def ratio(times: list[float], others: list[float]) -> float:
    """Median over the rounds of times / others."""
    return statistics.median(a / b for a, b in zip(times, others, strict=False))


def device_work(work: Work, device: str) -> list[str]:
    """Names of all kernels, copies and fills that `work` starts (of all operations, on a CPU)."""
    for _ in range(3):
        work()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, acc_events=True) as trace:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    return [event.name for event in trace.events() if event.device_type == kind]


def used_bytes(device: str) -> int:
    """What is taken now."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)
    return _kilobytes("/proc/self/status", "VmRSS")


def free_bytes(device: str = "cpu") -> int:
    """What could still be taken."""
    if device == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return _kilobytes("/proc/meminfo", "MemAvailable")


def reset_peak(device: str) -> None:
    """Lets `peak_used` start anew."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_used(device: str) -> int:
    """Most that was taken since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _kilobytes("/proc/self/status", "VmHWM")


def _kilobytes(path: str, field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", Path(path).read_text(), re.M)
    return int(match[1]) * 1024 if match else 0


def peak_bytes(work: Callable[[], Tensor], clear: Work, leaves: Mapping[str, Tensor], device: str) -> int:
    """Most memory during a call above the inputs, less the value and the gradients that it leaves; what it keeps between calls
    counts. `clear` forgets the gradients of the leaves."""
    clear()
    gc.collect()
    before, alive = used_bytes(device), _tensor_bytes()
    for _ in range(WARM_UP):  # compilers work here, and their memory is not the loss's
        clear()
        work()
    clear()
    gc.collect()
    if device == "cpu":
        before = used_bytes(device) - (_tensor_bytes() - alive)
    reset_peak(device)
    value = work()
    gradients = value.nbytes + sum(leaf.grad.nbytes for leaf in leaves.values() if leaf.grad is not None)
    peak = peak_used(device)
    clear()
    return max(peak - before - gradients, 0)


def _tensor_bytes() -> int:
    """Of all tensors alive."""
    tensors = [t for t in gc.get_objects() if type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def child(module: str, *words: object, timeout: float | None = None) -> Row:
    """What `python -m module words` prints last, a JSON object; or "failed" with what it died of, or "absent" if it takes longer
    than `timeout` seconds."""
    command = [sys.executable, "-m", module, *map(str, words)]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"absent": f"took more than {timeout:.0f} s"}
    if run.returncode:
        lines = run.stderr.strip().splitlines()
        return {"failed": lines[-1][:160] if lines else f"exit {run.returncode}"}
    row: Row = json.loads(run.stdout.splitlines()[-1])  # packages talk when they are imported
    return row
