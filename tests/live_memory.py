"""Peak of what tensors hold during a call, counted at the allocator.

The resident set also shows what the C library keeps of freed blocks, huge pages and a vendor library's buffers, which differ
from machine to machine; these bytes are the same everywhere.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object], folder: Path) -> int:
    """Most bytes of CPU tensors alive at once that `work` allocated; `folder` takes the profiler's trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler's own, about its cycles
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            kept = work()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    del kept
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    # "Total Allocated" itself would go on from what an earlier profile left alive.
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    return max(accumulate(change for _, change in changes))
