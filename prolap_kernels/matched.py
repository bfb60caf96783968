"""The public losses of matched rows: inclusion, the chain of inclusions, the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import as_gaussian, check_sides, choose
from .gaussian import Gaussian
from .scores import CONVENTIONS
from .terms import REDUCE_DIMS, Inclusion, ReduceDims, Vib, matched_losses, scores


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
    return scores(x, y, kappa_rho, backend)


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
    choose("convention", convention, CONVENTIONS)
    choose("reduce_dims", reduce_dims, REDUCE_DIMS)
    if isinstance(scale, Tensor):
        raise TypeError("scale of an inclusion loss must be a float, got a Tensor: it is a constant, not learned")
    if len(levels) < 2:
        raise ValueError(f"levels must hold at least two Gaussians, got {len(levels)}")
    chain = [as_gaussian(f"levels[{k}]", z, True) for k, z in enumerate(levels)]
    for k, z in enumerate(chain[1:], 1):
        check_sides(("levels[0]", f"levels[{k}]"), chain[0], z, matched=True)
    shape = (len(chain) - 1, len(chain[0].mean))
    if link_valid is not None and (link_valid.shape != shape or link_valid.dtype != torch.bool):
        raise ValueError(
            f"link_valid must be a bool tensor of shape {list(shape)}, got {link_valid.dtype} {list(link_valid.shape)}"
        )
    term = Inclusion(tuple(range(len(chain))), float(scale), convention, reduce_dims, link_valid)
    return matched_losses(chain, [term], backend=backend)[0]


def vib_loss(z: Gaussian, *, convention: str = "exact", backend: str | None = None) -> Tensor:
    """KL(N(m, v) || N(0, I)) = -(1 + l - m^2 - exp(l))/2, mean over rows and dimensions. 0-d.

    convention: "exact", or "prolip", the public code, which takes l/2 for l.
    """
    choose("convention", convention, CONVENTIONS)
    return matched_losses([as_gaussian("z", z, True)], [Vib(0, convention)], backend=backend)[0]
