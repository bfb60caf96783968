"""Inclusion of one dimension, and its gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from .numerics import atanh_third, exp_reduced, one_minus_exp_neg


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
    """(dh/dmx, dh/dlx); those by y are the same with x and y exchanged and the sign turned.

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
    shape = tl.where(below, u * (4.0 + 7.0 * u) - 2.0, -(u * (7.0 + u * (4.0 - 2.0 * u))))
    d_mx = (2.0 * signed * em * z) * root
    d_lx = (signed * inverse * z * shape) * z - (kappa - 1.5 * u * inverse)
    return d_mx, d_lx
