"""Peak memory of a training step by phase.

On a GPU it is what torch's allocator reports, which costs nothing and is always logged. On a CPU it is what the profiler counts
at torch's allocator: bytes of tensors, the same on every machine. The resident set would show more, what the C library keeps
of freed blocks and the libraries themselves, and less of what belongs to which phase.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile, record_function

PHASES = ("data", "encode", "losses", "backward", "optimizer")
"""Of a step. Gradients of chunks (optim.chunk) are made in `backward`."""
_MARK = "prolap.training.memory."


class Peaks(Protocol):
    """What measures phases."""

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """Measure this block as one of PHASES."""
        ...


_measuring: ContextVar[Peaks | None] = ContextVar("measuring", default=None)


def phase(name: str) -> AbstractContextManager[Any]:
    """Around one of PHASES, wherever it is; does nothing unless something is `measuring`."""
    peaks = _measuring.get()
    return nullcontext() if peaks is None else peaks.phase(name)


@contextmanager
def measuring(peaks: Peaks | None) -> Iterator[None]:
    """Phases inside this block are measured by `peaks`."""
    token = _measuring.set(peaks)
    try:
        yield
    finally:
        _measuring.reset(token)


class CudaPeaks:
    """Most bytes that tensors on the device held at once, by phase, since the last reading. Starts torch's own peak anew."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._bytes: dict[str, int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self._bytes[name] = max(self._bytes.get(name, 0), torch.cuda.max_memory_allocated(self.device))

    def read(self) -> dict[str, float]:
        """`memory/<phase>` in GB (1e9 bytes)."""
        values = {f"memory/{name}": self._bytes[name] / 1e9 for name in PHASES if name in self._bytes}
        self._bytes = {}
        return values


class TracedPeaks:
    """Most bytes of CPU tensors alive at once, by phase, of those allocated inside its `with` block.

    The profiler slows the block down and keeps an event for every operator: for a few steps, not for training.
    """

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        """By phase, and `all` of the whole block; there after it."""

    def __enter__(self) -> TracedPeaks:
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else the profiler says that there is no GPU, as an error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the profiler's own, about its cycles
            self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profiler.__enter__()
        return self

    def phase(self, name: str) -> AbstractContextManager[Any]:
        return record_function(_MARK + name)

    def __exit__(self, *failure: Any) -> None:
        self._profiler.__exit__(*failure)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profiler.export_chrome_trace(str(path))
            self.bytes = _by_phase(json.loads(path.read_text())["traceEvents"])


def _by_phase(events: list[dict[str, Any]]) -> dict[str, int]:
    """Peaks of the running sum of allocations and releases, over all of it and inside the marked stretches of time."""
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    marks = sorted(
        (event["ts"], event["ts"] + event["dur"], event["name"].removeprefix(_MARK))
        for event in events
        if event.get("ph") == "X" and event["name"].startswith(_MARK)
    )
    peaks, alive, position = {"all": 0}, 0, 0
    for start, end, name in marks:
        for after, limit in ((None, start), (name, end)):
            if after:
                peaks[after] = max(peaks.get(after, 0), alive)
            while position < len(changes) and changes[position][0] <= limit:
                alive += changes[position][1]
                position += 1
                for key in ("all", after) if after else ("all",):
                    peaks[key] = max(peaks[key], alive)
    for _, change in changes[position:]:
        alive += change
        peaks["all"] = max(peaks["all"], alive)
    return peaks
