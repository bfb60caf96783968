"""One contender, in a process of its own: median time of forward and backward, peak memory above inputs and gradients."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch

from .cases import cases, inputs


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(
    case: str, contender: str, shape: tuple[int, int, int], device: str, dtype: torch.dtype, repeat: int
) -> dict:
    """Seconds (median, least, most), bytes and the loss."""
    x, y = inputs(*shape, device, dtype)
    loss = cases()[case].contenders[contender]
    # a product of the same kind first, so that the library's own buffers are not counted as ours
    small, other = inputs(8, 8, 8, device, dtype)
    loss(small, other).backward()
    for tensor in (*x, *y):
        tensor.grad = torch.zeros_like(tensor)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _peak(device)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        value = loss(x, y)
        value.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    kept = seconds[1:] or seconds  # the first call warms up
    return {
        "case": case,
        "contender": contender,
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": {"median": statistics.median(kept), "least": min(kept), "most": max(kept), "repeat": len(kept)},
        "peak_bytes": _peak(device) - before,
        "loss": float(value),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case")
    parser.add_argument("contender")
    parser.add_argument("shape", type=int, nargs=3, metavar=("N", "M", "D"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    print(json.dumps(measure(args.case, args.contender, tuple(args.shape), args.device, dtype, args.repeat)))


if __name__ == "__main__":
    main()
