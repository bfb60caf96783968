"""Shared by the kernels of bilinear scores: products, totals of partial sums, the form of operands; and half the trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...gaussian import Gaussian
from ..blocks import cdiv, up
from ..problem import PairSums, float32_products
from . import configs
from .numerics import exp_reduced

ALIGN = 16
"""Starts and lengths of rows are multiples of this many elements: one compiled form, vectorised loads."""


@triton.jit
def tile_order(pid, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Row and column tile of a program, in bands of GROUP row tiles, so that neighbours share operands in cache."""
    band = GROUP * tiles_n
    first = (pid // band) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    return first + (pid % band) % height, (pid % band) // height


@triton.jit
def scores(
    phi_x, phi_y, tile_m, tile_n, rows, cols, stride_x, stride_y, width, TMA: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """phi_x phi_y^T of one tile in float32. Pairs past the end hold what the last row or column does; the caller drops them.

    TMA: phi_x and phi_y are tensor descriptors: the copy engine addresses, bounds and fills with zeros.
    """
    if not TMA:
        row = tl.minimum(tile_m * BLOCK_M + tl.arange(0, BLOCK_M), rows - 1).to(tl.int64)
        col = tl.minimum(tile_n * BLOCK_N + tl.arange(0, BLOCK_N), cols - 1).to(tl.int64)
        k = tl.arange(0, BLOCK_K)
        x_ptr = phi_x + row[:, None] * stride_x + k[None, :]
        y_ptr = phi_y + col[None, :] * stride_y + k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        if TMA:
            x = phi_x.load([tile_m * BLOCK_M, start])
            y = tl.trans(phi_y.load([tile_n * BLOCK_N, start]))
        else:
            x = tl.load(x_ptr + start, mask=k[None, :] < width - start, other=0.0)
            y = tl.load(y_ptr + start, mask=k[:, None] < width - start, other=0.0)
        if UPCAST:
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        acc = tl.dot(x, y, acc, input_precision=PRECISION)
    return acc


@triton.jit
def column_halves(acc):
    """The left and the right half of acc's columns. Both stay in the registers of the threads that hold them."""
    rows: tl.constexpr = acc.shape[0]
    half: tl.constexpr = acc.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(acc, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def column_part(acc, PART: tl.constexpr, PARTS: tl.constexpr):
    """Part number PART of the columns of acc, PARTS a power of 2 up to 16. An epilogue that takes one part after another in a
    `tl.static_range` holds the temporaries of one alone, so it does not spill."""
    tl.static_assert(PARTS <= 16)
    part = acc
    if PARTS >= 2:
        left, right = column_halves(part)
        part = left if PART < PARTS // 2 else right
    if PARTS >= 4:
        left, right = column_halves(part)
        part = left if PART % (PARTS // 2) < PARTS // 4 else right
    if PARTS >= 8:
        left, right = column_halves(part)
        part = left if PART % (PARTS // 4) < PARTS // 8 else right
    if PARTS >= 16:
        left, right = column_halves(part)
        part = left if PART % (PARTS // 8) < PARTS // 16 else right
    return part


@triton.jit
def total(part, count, stride, entry, inside, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of part [count, stride] over its first axis, of the columns `entry` [BLOCK], CHUNK rows at a time."""
    chunk = tl.arange(0, CHUNK)
    acc = tl.zeros((CHUNK, BLOCK), tl.float32)
    for start in range(0, count, CHUNK):
        at = start + chunk
        here = part + at.to(tl.int64)[:, None] * stride + entry[None, :]
        acc += tl.load(here, mask=(at < count)[:, None] & inside[None, :], other=0.0)
    return tl.sum(acc, 0)


@triton.jit
def put(to, value, inside, fresh):
    """Adds value to what `to` holds; fresh: overwrites it unread."""
    tl.store(to, tl.load(to, mask=inside & (fresh == 0), other=0.0) + value, mask=inside)


@triton.jit(do_not_specialize=["alpha", "rows", "depth", "fresh"])
def accumulate(
    g, phi, out, factor, alpha, stride_g, stride_phi, stride_out, rows, depth, width, fresh,
    TRANSPOSED: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """out [rows, width] (+)= alpha factor op(g) [rows, depth] @ phi [depth, width]; op transposes if TRANSPOSED.

    factor: a pointer, or None for 1. fresh: out is overwritten unread. g is padded with zeros to whole tiles of its depth: phi's
    clamped rows past the end meet these. g's rows past the end only reach rows of out that are not written.
    Every output tile belongs to one program: no atomics, one fixed order of summation.
    """
    tile_m, tile_n = tile_order(tl.program_id(0), tl.cdiv(rows, BLOCK_M), tl.cdiv(width, BLOCK_N), GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, depth, BLOCK_K):
        inner = start + k
        if TRANSPOSED:
            a = tl.trans(tl.load(g + inner.to(tl.int64)[:, None] * stride_g + row[None, :]))
        else:
            a = tl.load(g + row.to(tl.int64)[:, None] * stride_g + inner[None, :])
        source = tl.minimum(inner, depth - 1).to(tl.int64)
        b = tl.load(phi + source[:, None] * stride_phi + col[None, :], mask=col[None, :] < width, other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    acc = acc * alpha
    if factor is not None:
        acc = acc * tl.load(factor)
    put(
        out + row.to(tl.int64)[:, None] * stride_out + col[None, :], acc,
        (row < rows)[:, None] & (col < width)[None, :], fresh,
    )  # fmt: skip


def operand(t: Tensor) -> Tensor:
    """t [R, K] or a copy with columns of zeros: contiguous, aligned rows whose length is a multiple of ALIGN."""
    width = up(t.shape[1], ALIGN)
    if width == t.shape[1] and t.stride(1) == 1 and t.stride(0) % ALIGN == 0 and t.data_ptr() % 16 == 0:
        return t
    out = t.new_zeros(t.shape[0], width)
    out[:, : t.shape[1]] = t
    return out


def vector(t: Tensor, size: int, absent: float) -> Tensor:
    return aligned(t.float()) if t.numel() else torch.full((size,), absent, dtype=torch.float32, device=t.device)


@contextmanager
def widened(sums: PairSums, width: int, fresh: bool) -> Iterator[PairSums]:
    """`sums` with gradients by the factors that are as wide as padded operands; on leaving, the true ones get their columns."""
    if sums.dphi_x.shape[-1] in (0, width) and sums.dphi_y.shape[-1] in (0, width):
        yield sums
        return
    wide = [t.new_empty(len(t), width) if t.numel() else t for t in (sums.dphi_x, sums.dphi_y)]
    for t, true in zip(wide, (sums.dphi_x, sums.dphi_y), strict=True):
        if true.numel() and not fresh:
            t[:, : true.shape[1]] = true
    yield sums._replace(dphi_x=wide[0], dphi_y=wide[1])
    for t, true in zip(wide, (sums.dphi_x, sums.dphi_y), strict=True):
        if true.numel():
            true.copy_(t[:, : true.shape[1]])


def aligned(t: Tensor) -> Tensor:
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


def constants(kernel: object, tile: configs.Tile) -> dict[str, object]:
    """Constants that every matrix kernel takes."""
    upcast = configs.interpreted(kernel)  # the interpreter's bfloat16 product is garbage
    return {"UPCAST": upcast, "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": configs.GROUP}


def add_product(
    g: Tensor, phi: Tensor, out: Tensor, transposed: bool, alpha: float = 1.0, factor: Tensor | None = None,
    fresh: bool = False, precision: str = "ieee",
) -> None:  # fmt: skip
    """out (+)= alpha factor op(g) phi, with op(g) [len(out), len(phi)] the corner of the workspace g [.., ..].

    out [R, K] float32; phi [S, K]; factor 0-d float32 on the device or None for 1; fresh: out is overwritten unread.
    """
    if factor is None and configs.vendor_products(phi.device, phi.dtype):
        corner = g[: len(phi), : len(out)].T if transposed else g[: len(out), : len(phi)]
        vendor(out, corner, phi, 0.0 if fresh else 1.0, alpha, precision)
        return
    (rows, width), depth = out.shape, len(phi)
    tile = configs.ACCUMULATE[configs.chip_of(phi.device), phi.dtype]
    programs = cdiv(rows, tile.m) * cdiv(width, tile.n)
    sizes = (g.stride(0), phi.stride(0), out.stride(0), rows, depth, width, int(fresh))
    form = {"TRANSPOSED": transposed, "PRECISION": precision, **constants(accumulate, tile)}
    configs.launch(accumulate, programs, (g, phi, out, factor, alpha, *sizes), form, tile)


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


@triton.jit(do_not_specialize=["rows", "width", "grad"])
def half_trace_kernel(logvar, g, out, d_logvar, stride, rows, width, grad, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """out [rows] = -1/2 sum_d exp(logvar); or where grad, d_logvar [rows, width] = -1/2 g exp(logvar)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row_in = tl.minimum(row, rows - 1).to(tl.int64)[:, None]
    weight = tl.load(g + row_in)
    summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        col = start + tl.arange(0, BLOCK_D)[None, :]
        q = tl.load(logvar + row_in * stride + col, mask=col < width, other=float("-inf")).to(tl.float32)
        half = -0.5 * exp_any(q)
        summed += half
        if grad:
            tl.store(d_logvar + row_in * width + col, weight * half, mask=(col < width) & inside[:, None])
    tl.store(out + row, tl.sum(summed, 1), mask=inside & (grad == 0))


@triton.jit
def exp_any(x):
    """exp over the whole range: `exp_reduced` stops at +-120, where float32 ends at 88.7 and -103."""
    return tl.where(x > 89.0, float("inf"), tl.where(x < -104.0, 0.0, exp_reduced(tl.where(x > 89.0, 0.0, x))))


class FusedGaussian(Gaussian):
    """A Gaussian whose trace, and its gradient, take one launch: at small batches launches are the cost."""

    @property
    def half_trace(self) -> Tensor:
        """As of any Gaussian, in float32."""
        rows = torch.empty(len(self.logvar), dtype=torch.float32, device=self.logvar.device)
        _half_trace(self.logvar, rows, rows, rows, False)
        return rows

    def half_trace_gradient(self, g: Tensor) -> Tensor:
        """As of any Gaussian, in float32."""
        grad = torch.empty(self.logvar.shape, dtype=torch.float32, device=self.logvar.device)
        _half_trace(self.logvar, g.contiguous(), g, grad, True)
        return grad


def _half_trace(logvar: Tensor, g: Tensor, out: Tensor, d_logvar: Tensor, grad: bool) -> None:
    n, width = logvar.shape
    if n:
        q, form = logvar if logvar.stride(1) == 1 else logvar.contiguous(), configs.TRACE
        args = (q, g, out, d_logvar, q.stride(0), n, width, int(grad))
        configs.launch(half_trace_kernel, cdiv(n, form.rows), args, {"ROWS": form.rows, "BLOCK_D": form.cols}, form)
