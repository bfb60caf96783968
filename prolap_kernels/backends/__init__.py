"""Schedules that compute the same sums: `reference`, `chunked`, `triton`."""

from __future__ import annotations

import importlib.util
import logging

import torch

from ..checks import choose
from ..gaussian import Gaussian
from ..objectives import Objective
from ..scores import Score
from .chunked import elementwise, pairs
from .problem import Launcher, PairOptions

BACKENDS = {
    "reference": "dense, eager, any device; N x M x D in memory",
    "chunked": "plain torch, any device and dtype, bounded workspace",
    "triton": "fused kernels for NVIDIA and AMD GPUs; float16, bfloat16, float32",
}
PRECISIONS = {"ieee": "float32 products with 24 bits", "tf32": "with 10 bits of mantissa, on GPUs"}
log = logging.getLogger("prolap_kernels")
_said: set[str] = set()


def pick_backend(
    name: str | None,
    device: torch.device,
    dtype: torch.dtype,
    score: Score | None = None,
    objective: Objective | None = None,
) -> str:
    """The backend of this name, or the fastest one for this device, dtype, score and objective.

    Errors: ValueError if the backend does not exist or cannot compute this.
    """
    if name is not None:
        choose("backend", name, BACKENDS)
        if name == "triton" and dtype == torch.float64:
            raise ValueError("backend 'triton' takes float16, bfloat16 or float32, got float64; use 'chunked'")
        reason = _no_kernel(score, objective) if name == "triton" else None
        if reason:
            raise ValueError(f"backend 'triton' has no kernel: {reason}; use 'chunked'")
        return name
    if device.type != "cuda":
        return "chunked"
    if dtype == torch.float64:
        return _slower("float64 has no fused kernels")
    if importlib.util.find_spec("triton") is None:
        return _slower("triton is not installed")
    reason = _no_kernel(score, objective)
    return _slower(reason) if reason else "triton"


def _no_kernel(score: Score | None, objective: Objective | None) -> str | None:
    """Why a call has no fused kernel, None where it has one."""
    if score is None:
        return None
    from . import triton

    if score.elementwise is not None:
        return triton.elementwise.why_not(score)
    if objective is not None and "triton" not in objective.launchers:
        return f"the objective {objective.name!r} has no fused kernel"
    return None


def launcher(options: PairOptions) -> Launcher:
    """The block primitive for these options."""
    if options.backend != "triton":
        return pairs.add_pairs
    from . import triton

    bilinear = options.score.elementwise is None
    return options.objective.launchers[options.backend] if bilinear else triton.elementwise.add_pairs


def fused_gaussian(backend: str) -> type[Gaussian] | None:
    """The backend's own form of a Gaussian, None where it has none."""
    if backend != "triton":
        return None
    from .triton.gemm import FusedGaussian

    return FusedGaussian


def sums_over_dimensions(backend: str) -> elementwise.Sums:
    """How the backend sums elementwise scores over dimensions."""
    if backend != "triton":
        return elementwise.SUMS
    from . import triton

    return triton.elementwise.SUMS


def _slower(reason: str) -> str:
    say_once(f"using the chunked backend on the GPU: {reason}")
    return "chunked"


def say_once(line: str) -> None:
    """Warns, once a process, that a slower path runs."""
    if line not in _said:
        _said.add(line)
        log.warning("%s", line)
