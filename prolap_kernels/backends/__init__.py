"""Schedules that compute the same sums: `reference`, `chunked`, `triton`."""

from __future__ import annotations

import importlib.util
import logging

import torch

from ..checks import choose

BACKENDS = {
    "reference": "dense, eager, any device; N x M x D in memory",
    "chunked": "plain torch, any device and dtype, bounded scratch",
    "triton": "fused kernels for NVIDIA and AMD GPUs; float16, bfloat16, float32",
}
FUSED_OBJECTIVES = ("sigmoid", "softmax")
PRECISIONS = {"ieee": "float32 products with 24 bits", "tf32": "with 10 bits of mantissa, on GPUs"}
log = logging.getLogger("prolap_kernels")
_said: set[str] = set()


def pick_backend(name: str | None, device: torch.device, dtype: torch.dtype, unfused: str | None = None) -> str:
    """The backend asked for, or the fastest that can do this device and dtype.

    unfused: what about the call has no fused kernel (`"the objective 'new'"`), or None.
    """
    if name is not None:
        choose("backend", name, BACKENDS)
        if name == "triton" and dtype == torch.float64:
            raise ValueError("backend 'triton' takes float16, bfloat16 or float32, got float64; use 'chunked'")
        if name == "triton" and unfused:
            raise ValueError(f"backend 'triton' has no kernel for {unfused} yet; use 'chunked'")
        return name
    if device.type != "cuda":
        return "chunked"
    if dtype == torch.float64:
        return _slower("float64 has no fused kernels")
    if unfused:
        return _slower(f"{unfused} has no fused kernel yet")
    if importlib.util.find_spec("triton") is None:
        return _slower("triton is not installed")
    return "triton"


def _slower(why: str) -> str:
    say_once(f"using the chunked backend on the GPU: {why}")
    return "chunked"


def say_once(line: str) -> None:
    """One log line a process about a path that is slower than another would be."""
    if line not in _said:
        _said.add(line)
        log.warning("%s", line)
