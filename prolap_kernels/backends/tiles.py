"""Tile shapes of the fused kernels, by kind of chip and dtype, and the one place that launches them.

No autotuning: a choice by timing would make results depend on the run. `benchmarks.compile_check` compiles every row.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction


class Tile(NamedTuple):
    """Block of a matrix kernel (rows, columns, depth), warps and pipeline stages."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


class Strip(NamedTuple):
    """Block of a row kernel: rows, columns per step, warps."""

    rows: int
    cols: int
    warps: int


GROUP = 8
"""Row tiles per band of programs that share operands in cache."""
CHAIN_LINKS = 16
"""Most links that one launch of the inclusion chain holds."""

_HALVES = (torch.float16, torch.bfloat16)

LIFT = {
    **{("large", half): Tile(128, 64, 64, 8, 3) for half in _HALVES},
    **{("small", half): Tile(128, 64, 64, 8, 3) for half in _HALVES},
    **{("amd", half): Tile(128, 64, 64, 8, 2) for half in _HALVES},
    **{(chip, torch.float32): Tile(128, 64, 16, 8, 2) for chip in ("large", "small", "amd")},
}
"""Tiles of `kernels.lift`. The depth of an ACCUMULATE tile divides both sides of the LIFT tile: G is zero that far."""
ACCUMULATE = {
    **{("large", half): Tile(128, 128, 64, 8, 3) for half in _HALVES},
    **{("small", half): Tile(128, 128, 32, 8, 3) for half in _HALVES},
    **{("amd", half): Tile(128, 128, 64, 8, 2) for half in _HALVES},
    **{(chip, torch.float32): Tile(64, 64, 16, 8, 2) for chip in ("large", "small", "amd")},
}
G_SIDE = 128
"""Both sides of G's scratch are multiples of this, and every tile's rows and columns divide it."""
CHAIN = Strip(2, 128, 4)
VIB = Strip(4, 256, 4)


def chip_of(device: torch.device) -> str:
    """ "large" or "small" by NVIDIA's shared memory, "amd"; the interpreter runs what "small" runs."""
    if device.type != "cuda":
        return "small"
    return "amd" if torch.version.hip else _nvidia(device.index or 0)


@functools.cache
def _nvidia(index: int) -> str:
    shared = torch.cuda.get_device_properties(index).shared_memory_per_multiprocessor
    return "large" if shared >= 160 << 10 else "small"


def interpreted(kernel: Any) -> bool:
    """Whether TRITON_INTERPRET was set when the kernel was defined."""
    return not isinstance(kernel, JITFunction)


def launch_options(form: Tile | Strip) -> dict[str, int | bool]:
    """Compiler options; fused multiply-add is named because its default changes between Triton releases."""
    stages = form.stages if isinstance(form, Tile) else 1
    return {"num_warps": form.warps, "num_stages": stages, "enable_fp_fusion": True}


def launch(
    kernel: Any, programs: int, args: Sequence[object], constants: Mapping[str, object], form: Tile | Strip
) -> None:
    """Runs `programs` programs of `kernel` on the device of its first argument."""
    first = args[0]
    assert isinstance(first, Tensor)
    if not first.is_cuda and not interpreted(kernel):
        raise ValueError(f"backend 'triton' needs tensors on a GPU, got {first.device}; use backend='chunked'")
    with torch.cuda.device_of(first):
        kernel[(programs,)](*args, **constants, **launch_options(form))
