"""Matched rows: inclusion along a whole chain of Gaussians, losses and gradients of every level in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from .numerics import atanh_third, exp_reduced, one_minus_exp_neg, softplus_sigmoid


@triton.jit
def inclusion(mx, lx, my, ly, kappa, rho):
    """h(x in y) of one dimension, antisymmetric to the last bit.

    t = ly - lx, u = e^-|t|, em = 1 - u, z = (mx - my) e^(-max/2), P = (1+2u)(2+u):
    h = sign(t) * (kappa |t| - atanh(em / (3 (1+u))) + rho z^2 em / P)
    since log((1+2u)/(2+u)) = -2 atanh(em / (3(1+u))): its argument is below 1/3, so a short series needs no logarithm.
    """
    t = ly - lx
    a = tl.abs(t)
    u, em = one_minus_exp_neg(a)
    half_log = atanh_third(em / (3.0 + 3.0 * u))
    z = (mx - my) * exp_reduced(-0.5 * tl.where(t < 0.0, lx, ly))
    # em first: at equal variances the term is 0 even where z^2 overflows.
    h = kappa * a - half_log + rho * ((z * em) * z / ((1.0 + 2.0 * u) * (2.0 + u)))
    return tl.where(t < 0.0, -h, h)


@triton.jit
def inclusion_gradient(mx, lx, my, ly, kappa, rho):
    """(dh/dmx, dh/dlx, dh/dly); dh/dmy = -dh/dmx.

    With A = z^2 and P as above, the quadratic term sign(t) A (1-u)/P has the derivatives
    -sign(t) A u (7 + 4u - 2u^2) / P^2 by the smaller log-variance, sign(t) A (-2 + 4u + 7u^2) / P^2 by the larger.
    """
    t = ly - lx
    below = t < 0.0
    u, em = one_minus_exp_neg(tl.abs(t))
    inverse = 1.0 / ((1.0 + 2.0 * u) * (2.0 + u))
    root = exp_reduced(-0.5 * tl.where(below, lx, ly))
    z = (mx - my) * root
    signed = tl.where(below, -rho, rho) * inverse
    square = signed * inverse * z
    narrow = -(square * (u * (7.0 + u * (4.0 - 2.0 * u)))) * z
    wide = (square * (u * (4.0 + 7.0 * u) - 2.0)) * z
    slope = kappa - 1.5 * u * inverse
    d_mx = (2.0 * signed * em * z) * root
    d_lx = tl.where(below, wide, narrow) - slope
    d_ly = tl.where(below, narrow, wide) + slope
    return d_mx, d_lx, d_ly


@triton.jit(do_not_specialize=["rows", "width", "levels", "grad"])
def inclusion_chain(
    mean, logvar, weight, loss, d_mean, d_logvar, rows, width, padded, levels, grad, factor, kappa, rho,
    MODE: tl.constexpr, LINKS: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """loss [rows] = sum over links k of weight [k, n] * loss of link (level k in level k+1); gradients if grad.

    mean, logvar, d_mean, d_logvar: [levels, rows, padded] float32, width of the padded columns are real.
    MODE 0: -log sigmoid(factor * sum_d h_d). MODE 1: sum_d -log sigmoid(factor * h_d) / width. MODE 2: sum_d h_d.
    First pass: H and from it the coefficient of each link, kept in registers; second pass: one read of each level.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    row_in = tl.minimum(row, rows - 1).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    link_index = tl.arange(0, LINKS)
    step = rows.to(tl.int64) * padded
    line = row_in[:, None] * padded + d[None, :]
    coefficients = tl.zeros((ROWS, LINKS), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for link in range(levels - 1):
        summed = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        for start in range(0, padded, BLOCK_D):
            here = line + (link * step + start)
            load = (d < padded - start)[None, :]
            mx = tl.load(mean + here, mask=load, other=0.0)
            lx = tl.load(logvar + here, mask=load, other=0.0)
            my = tl.load(mean + here + step, mask=load, other=0.0)
            ly = tl.load(logvar + here + step, mask=load, other=0.0)
            h = inclusion(mx, lx, my, ly, kappa, rho)
            if MODE == 1:
                h, _ = softplus_sigmoid(-factor * h)
            summed += tl.where((d < width - start)[None, :], h, 0.0)
        value = tl.sum(summed, 1)
        w = tl.load(weight + link * rows + row_in)
        c = w
        if MODE == 0:
            value, slope = softplus_sigmoid(-factor * value)
            c = -w * factor * slope
        if MODE == 1:
            c = w / width
            value = value / width
        # A link of weight 0 is dropped, whatever its rows hold.
        total += tl.where(w == 0.0, 0.0, w * value)
        c = tl.where(w == 0.0, 0.0, c)
        coefficients = tl.where((link_index == link)[None, :], c[:, None], coefficients)
    tl.store(loss + row, total, mask=inside)

    for start in range(0, padded * grad, BLOCK_D):
        load = (d < padded - start)[None, :]
        keep = load & inside[:, None]
        here = line + start
        mx = tl.load(mean + here, mask=load, other=0.0)
        lx = tl.load(logvar + here, mask=load, other=0.0)
        from_mean = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        from_logvar = tl.zeros((ROWS, BLOCK_D), dtype=tl.float32)
        for link in range(levels - 1):
            my = tl.load(mean + here + step, mask=load, other=0.0)
            ly = tl.load(logvar + here + step, mask=load, other=0.0)
            d_mx, d_lx, d_ly = inclusion_gradient(mx, lx, my, ly, kappa, rho)
            c = tl.sum(tl.where((link_index == link)[None, :], coefficients, 0.0), 1)[:, None]
            c = tl.broadcast_to(c, (ROWS, BLOCK_D))
            if MODE == 1:
                _, slope = softplus_sigmoid(-factor * inclusion(mx, lx, my, ly, kappa, rho))
                c = tl.where(c == 0.0, 0.0, -c * factor * slope)
            # A vanished coefficient wins over an infinite derivative (the limit), and over a dropped link's NaN.
            dropped = c == 0.0
            tl.store(d_mean + here, from_mean + tl.where(dropped, 0.0, c * d_mx), mask=keep)
            tl.store(d_logvar + here, from_logvar + tl.where(dropped, 0.0, c * d_lx), mask=keep)
            from_mean = tl.where(dropped, 0.0, -c * d_mx)
            from_logvar = tl.where(dropped, 0.0, c * d_ly)
            mx = my
            lx = ly
            here += step
        tl.store(d_mean + here, from_mean, mask=keep)
        tl.store(d_logvar + here, from_logvar, mask=keep)
