"""The gradient products G phi and G^T phi in float32: by the vendor's library where it can, else by our kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import tiles
from .blocks import constants
from .kernels.accumulate import accumulate


def add_product(
    g: Tensor, phi: Tensor, out: Tensor, transposed: bool, alpha: float = 1.0, factor: Tensor | None = None,
    fresh: bool = False, precision: str = "ieee",
) -> None:  # fmt: skip
    """out (+)= alpha factor op(g) phi, with op(g) [len(out), len(phi)] the corner of the scratch g [.., ..].

    out [R, K] float32; phi [S, K]; factor 0-d float32 on the device or None for 1; fresh: out is written, not read.
    """
    if factor is None and tiles.vendor_products(phi.device, phi.dtype):
        corner = g[: len(phi), : len(out)].T if transposed else g[: len(out), : len(phi)]
        vendor(out, corner, phi, 0.0 if fresh else 1.0, alpha, precision)
        return
    (rows, width), depth = out.shape, len(phi)
    tile = tiles.ACCUMULATE[tiles.chip_of(phi.device), phi.dtype]
    programs = -(-rows // tile.m) * -(-width // tile.n)
    sizes = (g.stride(0), phi.stride(0), out.stride(0), rows, depth, width, int(fresh))
    form = {"TRANSPOSED": transposed, "PRECISION": precision, **constants(accumulate, tile)}
    tiles.launch(accumulate, programs, (g, phi, out, factor, alpha, *sizes), form, tile)


def put_scores(out: Tensor, phi_x: Tensor, phi_y: Tensor, precision: str) -> None:
    """phi_x phi_y^T in float32 into the corner of out [.., ..], by the vendor's library."""
    vendor(out[: len(phi_x), : len(phi_y)], phi_x, phi_y.T, 0.0, 1.0, precision)


def vendor(out: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, precision: str) -> None:
    """out = beta out + alpha a b, summed in float32; beta 0 ignores what out holds."""
    if a.dtype == torch.float32:
        with float32_products(precision):
            torch.addmm(out, a, b, beta=beta, alpha=alpha, out=out)
    else:
        torch.ops.aten.addmm.dtype_out(out, a, b, torch.float32, beta=beta, alpha=alpha, out=out)


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """What the library does with float32, whatever torch is set to outside."""
    matmul: Any = torch.backends.cuda.matmul
    name, value = (
        ("fp32_precision", precision) if hasattr(matmul, "fp32_precision") else ("allow_tf32", precision == "tf32")
    )
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)
