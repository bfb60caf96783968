"""Launches of the fused kernels: the lift engine with the sigmoid objective, inclusion chains, VIB. No autograd here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import tiles
from .kernels.accumulate import accumulate
from .kernels.inclusion import inclusion_chain as inclusion_chain_kernel
from .kernels.lift import sigmoid_lift_tile
from .kernels.vib import vib as vib_kernel
from .problem import PairOptions, PairProblem, PairSums

SCRATCH = 100_000_000
"""Bytes of a block of G, the gradients by the logits."""
ALIGN = 16
"""Rows start at, and are as long as, multiples of this many elements: one compiled form, vectorised loads."""
HALF_UP = 2.0**15
"""float16 stores 2^15 g: sigmoid(-18) would flush to zero, and |g| <= 1 stays finite."""
CHAIN_MODES = {("sum", "loss"): 0, ("mean", "loss"): 0, ("none", "loss"): 1, ("sum", "score"): 2}


class _Pairs(NamedTuple):
    """Operands of the lift engine, in the one form that the kernels are compiled for."""

    phi_x: Tensor
    phi_y: Tensor
    alpha: Tensor
    beta: Tensor
    x_id: Tensor
    y_id: Tensor
    row_weight: Tensor
    scale: Tensor
    bias: Tensor
    g_scale: Tensor
    g_alpha: Tensor
    negatives_only: int


class _Out(NamedTuple):
    """rows [3 or 1, N]: loss, sum of g, sum of g s; cols [M]: sum of g; dphi_x, dphi_y: None where not asked for."""

    rows: Tensor
    cols: Tensor
    dphi_x: Tensor | None
    dphi_y: Tensor | None
    grad: bool


def pair_sums(problem: PairProblem, options: PairOptions) -> PairSums:
    """The sigmoid objective over all pairs by fused kernels."""
    needs = options.need_x, options.need_y, options.need_sums
    return PairSums(*sigmoid_lift(*problem, options.negatives_only, *needs), problem.alpha.new_zeros(0))


def sigmoid_lift(
    phi_x: Tensor, phi_y: Tensor, alpha: Tensor, beta: Tensor, scale: Tensor, bias: Tensor,
    x_id: Tensor, y_id: Tensor, row_weight: Tensor,
    negatives_only: bool, need_x: bool, need_y: bool, need_sums: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """s_ij = phi_x_i . phi_y_j + alpha_i + beta_j, logit = scale s + bias; loss softplus(-logit) of a positive pair,
    softplus(logit) of a negative one, g its derivative by the logit.

    phi_x [N, K], phi_y [M, K] float16, bfloat16 or float32; alpha [N], beta [M], row_weight [N] float32 or size 0 (0, 0, 1);
    scale, bias 0-d; x_id [N], y_id [M] int64: equal is positive, different negative, below 0 ignored, and with
    negatives_only positives are ignored too. Returns, in float32 and of size 0 where not needed: loss [N] = sum_j loss_ij
    (unweighted), dphi_x = sum_j w_i g_ij phi_y_j, dphi_y = sum_i w_i g_ij phi_x_i, and the sums of w_i g_ij over
    j [N], over i [M], and of w_i g_ij s_ij over j [N]. The sums of products run on 16-bit g where phi has 16 bits; row_weight
    enters g in float32 before that rounding (float16: divided by the largest |weight|).
    """
    n, m, width = phi_x.shape[0], phi_y.shape[0], phi_x.shape[1]
    grad = need_x or need_y or need_sums
    scale, bias = scale.float(), bias.float()
    g_scale, g_alpha = _g_scales(phi_x.dtype, row_weight, torch.ones_like(scale))
    pairs = _Pairs(
        _operand(phi_x), _operand(phi_y), _vector(alpha, n, 0.0), _vector(beta, m, 0.0), _aligned(x_id), _aligned(y_id),
        _vector(row_weight, n, 1.0), scale, bias, g_scale, g_alpha, int(negatives_only),
    )  # fmt: skip
    zeros = partial(torch.zeros, dtype=torch.float32, device=phi_x.device)
    dphi = (zeros(pairs.phi_x.shape) if need_x else None, zeros(pairs.phi_y.shape) if need_y else None)
    out = _Out(zeros((3 if grad else 1, n)), zeros(m if grad else 0), dphi[0], dphi[1], grad)
    _all_blocks(pairs, out)
    dphi_x, dphi_y = (zeros(0) if d is None else d[:, :width].contiguous() for d in dphi)
    # clones: outputs of a custom op must not share storage
    sums = (out.rows[1].clone(), out.cols, out.rows[2].clone()) if need_sums else (zeros(0), zeros(0), zeros(0))
    return out.rows[0].clone(), dphi_x, dphi_y, *sums


def _all_blocks(pairs: _Pairs, out: _Out) -> None:
    n, m = len(pairs.phi_x), len(pairs.phi_y)
    if not n or not m:
        return
    dtype, chip = pairs.phi_x.dtype, tiles.chip_of(pairs.phi_x.device)
    tile = tiles.LIFT[chip, dtype]
    height, breadth = block_sides(n, m, dtype.itemsize, tile)
    stored = out.dphi_x is not None or out.dphi_y is not None
    side = tiles.G_SIDE
    g = pairs.phi_x.new_empty((_up(height, side), _up(breadth, side)) if stored else 0)
    g[..., breadth:].zero_()  # columns that no lift tile writes, but the products read, into rows that they drop
    for rows, cols in _blocks(n, m, height, breadth):
        _lift_block(pairs, out, g, (rows, cols), tile)
        if out.dphi_x is not None:
            _accumulate(g, pairs.phi_y[cols], out.dphi_x[rows], pairs.g_alpha, False)
        if out.dphi_y is not None:
            _accumulate(g, pairs.phi_x[rows], out.dphi_y[cols], pairs.g_alpha, True)


def _blocks(n: int, m: int, height: int, breadth: int) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges of an n x m rectangle in blocks."""
    for i in range(0, n, height):
        for j in range(0, m, breadth):
            yield slice(i, min(i + height, n)), slice(j, min(j + breadth, m))


def block_sides(n: int, m: int, itemsize: int, tile: tiles.Tile) -> tuple[int, int]:
    """Rows and columns of a block of G: whole tiles, about square, of nearly equal blocks, at most SCRATCH bytes."""
    cells = SCRATCH // itemsize
    height = min(_up(n, tile.m), max(int(cells**0.5), cells // _up(m, tile.n)))
    height = _even(n, height, tile.m)
    return height, _even(m, cells // height, tile.n)


def _even(total: int, most: int, tile: int) -> int:
    """The side, in whole tiles, of the fewest equal parts of `total` that are no longer than `most`."""
    most = max(most // tile * tile, tile)
    parts = -(-total // most)
    return _up(-(-total // parts), tile)


def _lift_block(pairs: _Pairs, out: _Out, g: Tensor, block: tuple[slice, slice], tile: tiles.Tile) -> None:
    """One block: its losses and sums added to `out`, its g (times g_scale) written into the scratch."""
    rows, cols = block
    height, breadth = rows.stop - rows.start, cols.stop - cols.start
    tall, wide = -(-height // tile.m), -(-breadth // tile.n)
    stride_g = g.shape[1] if g.numel() else wide * tile.n
    row_part = out.rows.new_empty(len(out.rows), wide, tall * tile.m)
    col_part = out.rows.new_empty(tall if out.grad else 0, stride_g)
    args = (
        pairs.phi_x[rows], pairs.phi_y[cols], pairs.alpha[rows], pairs.beta[cols], pairs.x_id[rows], pairs.y_id[cols],
        pairs.row_weight[rows], pairs.scale, pairs.bias, pairs.g_scale, g, row_part, col_part,
        pairs.phi_x.stride(0), pairs.phi_y.stride(0), stride_g, tall * tile.m,
        height, breadth, pairs.phi_x.shape[1], pairs.negatives_only, int(g.numel() > 0),
    )  # fmt: skip
    tiles.launch(sigmoid_lift_tile, tall * wide, args, {"GRAD": out.grad, **_constants(sigmoid_lift_tile, tile)}, tile)
    out.rows[:, rows] += row_part.sum(1)[:, :height]
    if out.grad:
        out.cols[cols] += col_part.sum(0)[:breadth]


def _accumulate(g: Tensor, phi: Tensor, out: Tensor, alpha: Tensor, transposed: bool) -> None:
    """out += alpha op(g) phi for the block of G that the scratch holds."""
    (rows, width), depth = out.shape, len(phi)
    tile = tiles.ACCUMULATE[tiles.chip_of(phi.device), phi.dtype]
    programs = -(-rows // tile.m) * -(-width // tile.n)
    args = (g, phi, out, alpha, g.stride(0), phi.stride(0), out.stride(0), rows, depth, width)
    tiles.launch(accumulate, programs, args, {"TRANSPOSED": transposed, **_constants(accumulate, tile)}, tile)


def inclusion_chain(
    means: list[Tensor], logvars: list[Tensor], weight: Tensor, scale: float, kappa: float, rho: float,
    reduce: str, kind: str, need_grad: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
    """rows_n = sum_k weight_kn loss(H_kn), H_kn = sum_d h(level k in level k+1), and the gradients of rows.sum().

    means, logvars: P >= 2 levels [N, D]; weight [P-1, N]; loss -log sigmoid of scale H (reduce "sum"), of scale H / D
    ("mean"), or its mean over d per dimension ("none"); kind "score" is H itself. Returns rows [N], dmeans and dlogvars
    (P each, [N, D] or size 0), all float32. A link of weight 0 adds exact zeros, whatever its rows hold.
    """
    if len(means) - 1 > tiles.CHAIN_LINKS:
        return _long_chain(means, logvars, weight, (scale, kappa, rho), reduce, kind, need_grad)
    (n, width), levels = means[0].shape, len(means)
    weight = weight.float().contiguous()
    mode = CHAIN_MODES[reduce, kind]
    factor = scale / max(width, 1) if reduce == "mean" else scale
    mean, logvar = _stacked(means), _stacked(logvars)
    d_mean, d_logvar = (torch.empty_like(mean) if need_grad else mean.new_empty(0) for _ in range(2))
    rows = mean.new_zeros(n)
    if n:
        form = tiles.CHAIN
        args = (
            mean, logvar, _aligned(weight), rows, d_mean, d_logvar, n, width, mean.shape[2], levels, int(need_grad),
            float(factor), float(kappa), float(rho),
        )  # fmt: skip
        constants = {"MODE": mode, "LINKS": tiles.CHAIN_LINKS, "ROWS": form.rows, "BLOCK_D": form.cols}
        tiles.launch(inclusion_chain_kernel, -(-n // form.rows), args, constants, form)
    if not need_grad:
        return rows, [mean.new_zeros(0) for _ in means], [mean.new_zeros(0) for _ in means]
    # clones: outputs of a custom op must not share storage
    return rows, [d[:, :width].clone() for d in d_mean], [d[:, :width].clone() for d in d_logvar]


def _long_chain(
    means: list[Tensor], logvars: list[Tensor], weight: Tensor, form: tuple[float, float, float],
    reduce: str, kind: str, need_grad: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:  # fmt: skip
    """Two chains that share the level between them; that level's gradients add up."""
    cut = tiles.CHAIN_LINKS
    head = inclusion_chain(means[: cut + 1], logvars[: cut + 1], weight[:cut], *form, reduce, kind, need_grad)
    tail = inclusion_chain(means[cut:], logvars[cut:], weight[cut:], *form, reduce, kind, need_grad)
    d_means, d_logvars = ([*head[i][:cut], head[i][cut] + tail[i][0], *tail[i][1:]] for i in (1, 2))
    return head[0] + tail[0], d_means, d_logvars


def vib(mean: Tensor, logvar: Tensor, halved: bool, need_grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """-1/2 (1 + q - mean^2 - e^q), mean over D, with q = logvar, or logvar / 2 if halved (ProLIP's convention).

    mean, logvar [N, D]. Returns rows [N] and the gradients of rows.sum() by mean and logvar, [N, D] or size 0, float32.
    """
    n, width = mean.shape
    mu, q = _operand(mean.float()), _operand(logvar.float())
    d_mean, d_logvar = (mu.new_empty(mu.shape if need_grad else 0) for _ in range(2))
    rows = mu.new_zeros(n)
    if n:
        form = tiles.VIB
        args = (
            mu, q, rows, d_mean, d_logvar, mu.stride(0), q.stride(0), n, width, mu.shape[1], int(need_grad),
            0.5 if halved else 1.0,
        )  # fmt: skip
        tiles.launch(vib_kernel, -(-n // form.rows), args, {"ROWS": form.rows, "BLOCK_D": form.cols}, form)
    if need_grad:
        d_mean, d_logvar = d_mean[:, :width].contiguous(), d_logvar[:, :width].contiguous()
    return rows, d_mean, d_logvar


def _g_scales(dtype: torch.dtype, row_weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """What G is stored times, and the factor of the products with G that undoes it and applies `scale`."""
    if dtype != torch.float16:
        return torch.ones_like(scale), scale
    if not row_weight.numel():
        return torch.full_like(scale, HALF_UP), scale / HALF_UP
    top = row_weight.abs().amax().float().clamp_min(1e-30)
    return HALF_UP / top, scale * (top / HALF_UP)


def _constants(kernel: object, tile: tiles.Tile) -> dict[str, object]:
    upcast = tiles.interpreted(kernel)  # the interpreter's bfloat16 product is garbage
    return {"UPCAST": upcast, "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k, "GROUP": tiles.GROUP}


def _up(size: int, unit: int) -> int:
    return max(-(-size // unit), 1) * unit


def _operand(t: Tensor) -> Tensor:
    """t [R, K], or a copy padded with zero columns: rows contiguous, aligned and a multiple of ALIGN long."""
    width = _up(t.shape[1], ALIGN)
    if width == t.shape[1] and t.stride(1) == 1 and t.stride(0) % ALIGN == 0 and t.data_ptr() % 16 == 0:
        return t
    out = t.new_zeros(t.shape[0], width)
    out[:, : t.shape[1]] = t
    return out


def _stacked(levels: list[Tensor]) -> Tensor:
    """[P, N, D padded] float32, the padding zero."""
    n, width = levels[0].shape
    out = levels[0].new_zeros(len(levels), n, _up(width, ALIGN), dtype=torch.float32)
    for level, source in zip(out, levels, strict=True):
        level[:, :width] = source
    return out


def _vector(t: Tensor, size: int, absent: float) -> Tensor:
    return _aligned(t.float()) if t.numel() else torch.full((size,), absent, dtype=torch.float32, device=t.device)


def _aligned(t: Tensor) -> Tensor:
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()
