"""Launches of the kernels of matched rows: inclusion chains, VIB, traces. No autograd here."""

from __future__ import annotations

import torch
from torch import Tensor

from . import tiles
from .blocks import ALIGN, aligned, operand, up
from .kernels.half_trace import half_trace as half_trace_kernel
from .kernels.inclusion import inclusion_chain as inclusion_chain_kernel
from .kernels.vib import vib as vib_kernel

CHAIN_MODES = {("sum", "loss"): 0, ("mean", "loss"): 0, ("none", "loss"): 1, ("sum", "score"): 2}


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
            mean, logvar, aligned(weight), rows, d_mean, d_logvar, n, width, mean.shape[2], levels, int(need_grad),
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
    mu, q = operand(mean.float()), operand(logvar.float())
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


def half_trace(logvar: Tensor, need_grad: bool) -> tuple[Tensor, Tensor]:
    """-1/2 sum_d exp(logvar), half the trace of the covariance with the sign that `csd` gives it.

    logvar [N, D] floating point. Returns rows [N] and the gradient of rows.sum(), -1/2 exp(logvar) [N, D] or size 0, float32.
    """
    n, width = logvar.shape
    q = logvar if logvar.stride(1) == 1 else logvar.contiguous()
    rows = torch.empty(n, dtype=torch.float32, device=q.device)
    grad = rows.new_empty((n, width) if need_grad else 0)
    if n:
        form = tiles.TRACE
        args = (q, rows, grad, q.stride(0), n, width, int(need_grad))
        tiles.launch(half_trace_kernel, -(-n // form.rows), args, {"ROWS": form.rows, "BLOCK_D": form.cols}, form)
    return rows, grad


def _stacked(levels: list[Tensor]) -> Tensor:
    """[P, N, D padded] float32, the padding zero."""
    n, width = levels[0].shape
    out = levels[0].new_zeros(len(levels), n, up(width, ALIGN), dtype=torch.float32)
    for level, source in zip(out, levels, strict=True):
        level[:, :width] = source
    return out
