"""Tile shapes of the fused kernels, by kind of chip and dtype, and the one place that launches them.

No autotuning: a choice by timing would make results depend on the run. `benchmarks.compile_check` compiles every row.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction


class Tile(NamedTuple):
    """Tile of a matrix kernel: rows, columns, depth, warps, pipeline stages. parts: parts of the columns that an epilogue takes
    one at a time; across: warps side by side along a row; tma: whether tensor descriptors load and store it; registers: limit of
    a thread, 0 for the compiler's choice."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    parts: int = 1
    across: int = 1
    tma: bool = False
    registers: int = 0

    @property
    def groups(self) -> int:
        """Number of partial sums of a tile's column: one for each warp along it, whose rows come in groups of 16."""
        return min(self.warps // self.across, self.m // 16)


class Strip(NamedTuple):
    """Shape of a row kernel: rows, columns per step, warps; registers: limit of a thread, 0 for the compiler's choice."""

    rows: int
    cols: int
    warps: int
    registers: int = 0


WORKSPACE = 1 << 28
"""Bytes of a block of G, the gradients by the logits. Large blocks fill the last wave of their products and add to sums less
often; 65,536 rows in 16 bits make 36 blocks."""
GROUP = 8
"""Row tiles per band of programs that share operands in cache."""

_HALVES = (torch.float16, torch.bfloat16)

BILINEAR_KINDS = ("hopper", "blackwell", "large", "small", "amd")
BILINEAR = {
    **{("hopper", half): Tile(128, 128, 64, 8, 3, 8, 1, True, 128) for half in _HALVES},
    **{("large", half): Tile(128, 128, 64, 8, 3, 4, 4) for half in _HALVES},
    **{("blackwell", half): Tile(128, 64, 64, 8, 3, 4, registers=255) for half in _HALVES},
    **{("small", half): Tile(128, 128, 32, 8, 3, 4, 4) for half in _HALVES},
    **{("amd", half): Tile(128, 64, 64, 8, 2, 2, 4) for half in _HALVES},
    **{(chip, torch.float32): Tile(64, 64, 16, 8, 2, 2, 4) for chip in BILINEAR_KINDS},
    ("blackwell", torch.float32): Tile(64, 64, 16, 8, 2, 2, 4, registers=255),
}
"""Tiles of `sigmoid_tile`, by `bilinear_kind`. The depth of an ACCUMULATE tile divides both their sides: zeros pad G to them.

blackwell: without a limit the compiler aims at fewer registers than some forms need, and spills two. hopper: two programs of 128
registers share a processor, so that the epilogue of one overlaps the product of the other."""
CANDIDATES = {
    ("hopper", torch.bfloat16): (
        Tile(128, 256, 64, 8, 3, 8, 1, True),
        Tile(256, 128, 64, 8, 3, 8, 1, True),
        Tile(128, 128, 64, 4, 3, 8, 1, True),
        Tile(128, 128, 64, 8, 3, 4, 1, True),
        Tile(128, 128, 64, 8, 3, 4, 4),
    ),
    ("large", torch.bfloat16): (Tile(128, 128, 32, 8, 4, 4, 4), Tile(128, 64, 64, 8, 3, 2, 4)),
}
"""Alternatives to BILINEAR that the cost model ranks lower, for `benchmarks.run --gpu` to measure. The first three move half the
operands, or overlap as the default does, but spill 13 to 17 registers where a tile has positives."""
GIVEN = Tile(64, 64, 16, 4, 1, 4, 1)
"""Tile of `sigmoid_tile` where the vendor's library computes the scores; its depth is unused."""
VENDOR_SCORES = (torch.float32,)
"""dtypes whose scores the library computes: our kernel has no matrix instructions for exact float32 products. In 16 bits the cost
model puts both within a tenth of each other; `benchmarks.run --gpu` measures them."""
ACCUMULATE = {
    **{("large", half): Tile(128, 128, 64, 8, 3) for half in _HALVES},
    **{("small", half): Tile(128, 128, 32, 8, 3) for half in _HALVES},
    **{("amd", half): Tile(128, 128, 64, 8, 2) for half in _HALVES},
    **{(chip, torch.float32): Tile(64, 64, 16, 8, 2) for chip in ("large", "small", "amd")},
}
G_SIDE = 128
"""Both sides of G's workspace are multiples of this, and every tile's rows and columns divide it."""
MATCHED, MATCHED_BACK = Strip(2, 256, 4), Strip(2, 256, 4, 128)
"""Forward and gradients. Without a limit the compiler aims at 96 registers for sm_120 and spills four in float32."""
SUMS = Strip(1, 2048, 8)
TRACE = Strip(4, 256, 4)
OFFSETS = Strip(64, 1, 2)
FINISH = Strip(32, 32, 4)
"""Entries per program, and partial sums per step, of `sigmoid_finish`."""
SCORES, LIGHT_SCORES = (Strip(16, 256, 8, 255), 2), (Strip(16, 256, 8, 128), 4)
"""Rows and columns of `elementwise_scores`, and steps that its loop is unrolled by; light: two programs share a processor."""
GRADIENTS = (Strip(16, 128, 8), 2)
"""Rows and dimensions of `elementwise_gradients`. A thread has 2 x 4, of the scores 4 x 4."""
SPAN = 32
"""Terms that a partial sum of either kernel takes."""
VENDOR = True
"""Whether gradient products go to the vendor's library where it takes them, `vendor_products`."""
VENDOR_SINCE = (2, 11)
"""First torch that is known to add a float32 product of 16-bit factors to a float32 matrix; 2.8 to 2.10 may refuse it."""


def chip_of(device: torch.device) -> str:
    """ "large" or "small" by NVIDIA's shared memory, "amd"; the interpreter runs what "small" runs."""
    if device.type != "cuda":
        return "small"
    return "amd" if torch.version.hip else _nvidia(device.index or 0)


@functools.cache
def _nvidia(index: int) -> str:
    shared = torch.cuda.get_device_properties(index).shared_memory_per_multiprocessor
    return "large" if shared >= 160 << 10 else "small"


def bilinear_kind(device: torch.device) -> str:
    """`chip_of`, or "hopper", whose copy engine we use."""
    kind = chip_of(device)
    return "hopper" if kind == "large" and generation(device) == 9 else kind


def bilinear_tile(device: torch.device, dtype: torch.dtype) -> Tile:
    """The row of BILINEAR: by `bilinear_kind`, but for both kinds of Blackwell, on which larger tiles spill."""
    kind = bilinear_kind(device)
    blackwell = kind in ("large", "small") and generation(device) in (10, 12)
    return BILINEAR["blackwell" if blackwell else kind, dtype]


def generation(device: torch.device) -> int:
    """Major compute capability, 0 without a GPU; 8 for Hopper too where the installed Triton takes no descriptors."""
    if device.type != "cuda":
        return 0
    major = torch.cuda.get_device_capability(device)[0]
    return 8 if major == 9 and importlib.util.find_spec("triton.tools.tensor_descriptor") is None else major


def descriptor(t: Tensor, block: tuple[int, int]) -> Any:
    """t [R, C] for loads and stores of `block`."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(t, list(block))


def vendor_products(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the library computes gradient products: by versions and device, never by timing, so that runs repeat."""
    if not VENDOR or device.type != "cuda" or torch.version.hip:
        return False
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return dtype == torch.float32 or release >= VENDOR_SINCE


def vendor_scores(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the library computes the scores, and the epilogue is a pass of its own."""
    return dtype in VENDOR_SCORES and vendor_products(device, dtype)


def interpreted(kernel: Any) -> bool:
    """Whether TRITON_INTERPRET was set when the kernel was defined."""
    return not isinstance(kernel, JITFunction)


def nvidia(kernel: Any, device: torch.device) -> bool:
    """Whether the kernel may hold NVIDIA's own instructions."""
    return not interpreted(kernel) and chip_of(device) != "amd"


def launch_options(form: Tile | Strip) -> dict[str, int | bool]:
    """Compiler options; fused multiply-add is named because its default changes between Triton releases."""
    stages = form.stages if isinstance(form, Tile) else 1
    options = {"num_warps": form.warps, "num_stages": stages, "enable_fp_fusion": True}
    limited = form.registers and not torch.version.hip
    return {**options, "maxnreg": form.registers} if limited else options


def launch(
    kernel: Any, programs: int, args: Sequence[object], constants: Mapping[str, object], form: Tile | Strip
) -> None:
    """Runs `programs` programs of `kernel` on the device of its first argument."""
    first = next(arg for arg in args if isinstance(arg, Tensor))
    if not first.is_cuda and not interpreted(kernel):
        raise ValueError(f"backend 'triton' needs tensors on a GPU, got {first.device}; use backend='chunked'")
    with torch.cuda.device_of(first):
        kernel[(programs,)](*args, **constants, **launch_options(form))
