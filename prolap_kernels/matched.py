"""The public losses of matched rows: inclusion, the chain of inclusions, the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .autograd import wants_grad
from .backends import pick_backend
from .checks import as_gaussian, check_sides, choose
from .gaussian import Gaussian
from .pointwise import inclusion, vib
from .row_ops import RowLoss
from .scores import CONVENTIONS

ReduceDims = Literal["sum", "mean", "none"]
REDUCE_DIMS = dict.fromkeys(("sum", "mean", "none"))


def _rows(
    levels: Sequence[Gaussian], weight: Tensor, kind: str, form: tuple[float, float, float], backend: str | None
) -> Tensor:
    first = levels[0].mean
    how = pick_backend(backend, first.device, first.dtype)
    if how == "reference":
        if kind.startswith("vib"):
            return vib.formula(levels[0], kind == "vib/prolip")
        return inclusion.formula_chain(list(levels), weight, form[0], form[1:], kind)
    tensors = [part for level in levels for part in level]
    rows: Tensor = RowLoss.apply((kind, *form, how, wants_grad(*tensors)), weight, *tensors)[0]
    return rows


def _sum_dtype(z: Gaussian) -> torch.dtype:
    return torch.float64 if z.mean.dtype == torch.float64 else torch.float32


def inclusion_score(x: Gaussian, y: Gaussian, *, convention: str = "exact", backend: str | None = None) -> Tensor:
    """H(x_n in y_n) of matched rows, [N]; above 0 where y is the more general one.

        H = log int p^2 q - log int p q^2
          = sum_d kappa (ly - lx) + log((2 vx + vy)/(vx + 2 vy))/2 + rho (mx - my)^2 (vy - vx)/((vx + 2 vy)(2 vx + vy))

    x, y: Gaussians [N, D]; convention: "exact" (kappa = 1/2, rho = 1) or "prolip" (the public loss code: 1 and exp(-10)).
    Antisymmetric to the last bit: H(x in y) = -H(y in x). float32 errs by at most 1e-6 times the sum of the terms' sizes.

    H orders generality, not similarity: for a wider y it grows with the distance of the means. Never retrieve by H alone.

    Source: ProLIP (arXiv 2410.18857), section on inclusion.
    """
    kappa_rho = choose("convention", convention, CONVENTIONS)
    x, y = as_gaussian("x", x, True), as_gaussian("y", y, True)
    check_sides(("x", "y"), x, y, matched=True)
    weight = torch.ones(1, len(x.mean), dtype=_sum_dtype(x), device=x.mean.device)
    return _rows([x, y], weight, "score", (1.0, *kappa_rho), backend)


def inclusion_loss(
    x: Gaussian,
    y: Gaussian,
    *,
    scale: float = 1.0,
    convention: str = "exact",
    reduce_dims: ReduceDims = "sum",
    backend: str | None = None,
) -> Tensor:
    """Mean over matched rows of -log sigmoid(scale * H(x_n in y_n)); H as in `inclusion_score`. 0-d.

    reduce_dims: how H is taken over dimensions: "sum" (the papers), "mean", or "none", which takes log sigmoid per dimension
    and averages over rows and dimensions (ProLIP's public code, with scale 1000). Summed over many dimensions, log sigmoid is
    flat almost everywhere: "mean" or a small scale keeps a gradient.

    On its own this loss pushes the means of x and y apart (H grows with their distance): keep a contrastive loss beside it,
    detach the means, or use the convention "prolip".
    """
    return hierarchical_inclusion_loss(
        [x, y], scale=scale, convention=convention, reduce_dims=reduce_dims, backend=backend
    )


def hierarchical_inclusion_loss(
    levels: Sequence[Gaussian],
    *,
    scale: float = 1.0,
    convention: str = "exact",
    reduce_dims: ReduceDims = "sum",
    link_valid: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Mean over rows and links of the inclusion loss of Z^k in Z^(k+1), one pass over the whole chain. 0-d.

    levels: [Z^0, ..., Z^L], at least two Gaussians [N, D], each the more heavily masked version of the one before;
    link_valid: bool [L, N], False leaves a link of a row out (a mask that masked nothing new); by default all count.
    scale, convention, reduce_dims: as in `inclusion_loss`. Without any valid link: 0 with zero gradients.

    Source: ProLAP (arXiv 2510.18423), hierarchical inclusion loss.
    """
    kappa_rho = choose("convention", convention, CONVENTIONS)
    choose("reduce_dims", reduce_dims, REDUCE_DIMS)
    if isinstance(scale, Tensor):
        raise TypeError("scale of an inclusion loss must be a float, got a Tensor: it is a constant, not learned")
    if len(levels) < 2:
        raise ValueError(f"levels must hold at least two Gaussians, got {len(levels)}")
    chain = [as_gaussian(f"levels[{k}]", z, True) for k, z in enumerate(levels)]
    for k, z in enumerate(chain[1:], 1):
        check_sides(("levels[0]", f"levels[{k}]"), chain[0], z, matched=True)
    links, n = len(chain) - 1, len(chain[0].mean)
    shape = (links, n)
    if link_valid is not None and (link_valid.shape != shape or link_valid.dtype != torch.bool):
        raise ValueError(
            f"link_valid must be a bool tensor of shape {list(shape)}, got {link_valid.dtype} {list(link_valid.shape)}"
        )
    dtype, device = _sum_dtype(chain[0]), chain[0].mean.device
    if link_valid is None:
        weight = torch.full(shape, 1 / max(links * n, 1), dtype=dtype, device=device)
    else:
        valid = link_valid.to(device=device, dtype=dtype)
        weight = valid / valid.sum().clamp(min=1)
    return _rows(chain, weight, reduce_dims, (float(scale), *kappa_rho), backend).sum()


def vib_loss(z: Gaussian, *, convention: str = "exact", backend: str | None = None) -> Tensor:
    """KL(N(m, v) || N(0, I)) = -(1 + l - m^2 - exp(l))/2, mean over rows and dimensions. 0-d.

    convention: "exact", or "prolip", the public code, which takes l/2 for l.
    """
    choose("convention", convention, CONVENTIONS)
    z = as_gaussian("z", z, True)
    weight = torch.ones((), dtype=_sum_dtype(z), device=z.mean.device)
    rows = _rows([z], weight, "vib" if convention == "exact" else "vib/prolip", (1.0, 0.0, 0.0), backend)
    return rows.sum() / max(len(z.mean), 1)
