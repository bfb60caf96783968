"""Tile of the lift engine: scores by a matrix product, then the sigmoid objective on the float32 accumulator."""

from __future__ import annotations

import triton
import triton.language as tl

from .numerics import softplus_sigmoid
from .tile import scores, tile_order


@triton.jit(
    do_not_specialize=["scale", "bias", "g_scale", "rows", "cols", "negatives_only", "store_g"],
)
def sigmoid_lift_tile(
    phi_x, phi_y, alpha, beta, x_id, y_id, row_weight, scale, bias, g_scale, g, row_part, col_part,
    stride_x, stride_y, stride_g, stride_row, rows, cols, width, negatives_only, store_g,
    GRAD: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Losses, and with GRAD the gradients by the logit, of one BLOCK_M x BLOCK_N tile.

    row_part [3 (1 without GRAD), column tiles, stride_row]: sums over the tile's columns of loss, w*g, w*g*s;
    col_part [row tiles, stride_g]: sums over its rows of w*g; g [.., stride_g]: g_scale * w*g, where store_g.
    All three are padded to whole tiles, so nothing that is stored needs a mask; padding counts as ignored.
    """
    tiles_m = tl.cdiv(rows, BLOCK_M)
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tile_m, tile_n = tile_order(tl.program_id(0), tiles_m, tiles_n, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    row_in = tl.minimum(row, rows - 1)
    col_in = tl.minimum(col, cols - 1)
    s = scores(phi_x, phi_y, row_in, col_in, stride_x, stride_y, width, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K)
    s += tl.load(alpha + row_in)[:, None] + tl.load(beta + col_in)[None, :]
    logit = s * tl.load(scale) + tl.load(bias)

    xi = tl.load(x_id + row, mask=row < rows, other=-1)
    yj = tl.load(y_id + col, mask=col < cols, other=-1)
    positive = xi[:, None] == yj[None, :]
    counted = (xi >= 0)[:, None] & (yj >= 0)[None, :] & ((positive == 0) | (negatives_only == 0))
    # The logit turned so that a pair's loss is softplus(z), its slope by z a sigmoid, and both are 0 where it is ignored.
    z = tl.where(counted, tl.where(positive, -logit, logit), float("-inf"))
    loss, p = softplus_sigmoid(z)
    out = row_part + tile_n.to(tl.int64) * stride_row + row
    tl.store(out, tl.sum(loss, 1))
    if GRAD:
        w = tl.where(xi >= 0, tl.load(row_weight + row_in), 0.0)
        wg = p * tl.where(positive, -w[:, None], w[:, None])
        plane = tiles_n.to(tl.int64) * stride_row
        tl.store(out + plane, tl.sum(wg, 1))
        # An infinite score whose gradient vanished has the limit 0, not 0 * inf.
        tl.store(out + 2 * plane, tl.sum(tl.where(wg == 0.0, 0.0, wg * s), 1))
        tl.store(col_part + tile_m.to(tl.int64) * stride_g + col, tl.sum(wg, 0))
        if store_g:
            stored = (wg * tl.load(g_scale)).to(g.dtype.element_ty)
            tl.store(g + row.to(tl.int64)[:, None] * stride_g + col[None, :], stored)
