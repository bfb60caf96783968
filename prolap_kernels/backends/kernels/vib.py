"""Matched rows: the variational information bottleneck term and its gradients."""

from __future__ import annotations

import triton
import triton.language as tl

from .numerics import expm1_excess


@triton.jit(do_not_specialize=["rows", "width", "grad"])
def vib(
    mean, logvar, loss, d_mean, d_logvar, stride_mean, stride_logvar, rows, width, padded, grad, share,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """loss [rows] = mean over d of 1/2 (mu^2 + (e^q - 1 - q)), q = share * logvar; gradients [rows, padded] if grad."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row_in = tl.minimum(row, rows - 1).to(tl.int64)[:, None]
    d = tl.arange(0, BLOCK_D)
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, padded, BLOCK_D):
        col = (start + d)[None, :]
        load = col < padded
        mu = tl.load(mean + row_in * stride_mean + col, mask=load, other=0.0)
        q = share * tl.load(logvar + row_in * stride_logvar + col, mask=load, other=0.0)
        excess = expm1_excess(q)
        summed += tl.where(col < width, 0.5 * (mu * mu + excess), 0.0)
        if grad:
            keep = load & inside[:, None]
            place = row_in * padded + col
            tl.store(d_mean + place, mu / width, mask=keep)
            tl.store(d_logvar + place, 0.5 * share * (excess + q) / width, mask=keep)
    tl.store(loss + row, tl.sum(summed, 1) / width, mask=inside)
