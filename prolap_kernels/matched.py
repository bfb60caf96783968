"""The losses of matched rows: inclusion, the chain of inclusions, the bottleneck, and all of a training step in one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .backends import pick_backend
from .backends.links import MEAN, NONE, SCORE, SUM, VIB, Link, count_terms, counted_rows, pack, unpack
from .checks import (
    as_flag,
    as_gaussian,
    as_number,
    as_sequence,
    as_whole,
    check_sides,
    check_tensor,
    choose,
    wrong,
)
from .gaussian import Gaussian, widen
from .ops import wants_grad
from .ops.matched import MatchedCall, MatchedRows
from .pairs import SATURATED
from .scores import CONVENTIONS
from .scores.inclusion import formula

ReduceDims = Literal["sum", "mean", "none"]
REDUCE_DIMS = {"sum": SUM, "mean": MEAN, "none": NONE}
VIB_SHARES = {"exact": 1.0, "prolip": 0.5}
"""Factor of a bottleneck's log-variance, by convention."""


class Inclusion(NamedTuple):
    """A term of `matched_losses`: the mean over rows and links of -log sigmoid(scale * H), each level inside the next.

    levels: two or more indices into the list of levels, in any order. Levels may differ in their numbers of rows: a link has the
        rows that both its levels have.
    scale, convention, reduce_dims: as in `inclusion_loss`.
    valid: bool [links, R], R the rows of the longest link; False leaves a link of a row out. By default all count.
    detach_mean: True keeps gradients from the means.
    """

    levels: Sequence[int]
    scale: float = 1.0
    convention: str = "exact"
    reduce_dims: ReduceDims = "sum"
    valid: Tensor | None = None
    detach_mean: bool = False


class Vib(NamedTuple):
    """A term of `matched_losses`: `vib_loss` of one of the levels."""

    level: int
    convention: str = "exact"


def inclusion_score(x: Gaussian, y: Gaussian, *, convention: str = "exact", backend: str | None = None) -> Tensor:
    """H(x_n in y_n) of matched rows, [N]; above 0 where y is the more general one.

        H = log int p^2 q - log int p q^2
          = sum_d kappa (ly - lx) + log((2 vx + vy)/(vx + 2 vy))/2 + rho (mx - my)^2 (vy - vx)/((vx + 2 vy)(2 vx + vy))

    x, y: Gaussians [N, D]; convention: "exact" (kappa = 1/2, rho = 1) or "prolip" (the public loss code: 1 and exp(-10)).
    Antisymmetric to the last bit: H(x in y) = -H(y in x). float32 errs by at most 1e-6 times the sum of the terms' sizes, for any
    log-variances of which the larger is at least -60 (-660 in float64). Below, the last term counts the larger one as -60, so H
    and its gradients stay finite; `backend="reference"`, the plain formula, is NaN where both variances underflow.

    H orders generality, not similarity: for a wider y it grows with the distance of the means. Never retrieve by H alone.

    Source: ProLIP (arXiv 2410.18857), section on inclusion.
    """
    kappa, rho = choose("convention", convention, CONVENTIONS)
    x, y = as_gaussian("x", x, True), as_gaussian("y", y, True)
    check_sides(("x", "y"), x, y, matched=True)
    links = [Link(SCORE, 0, 1, 0, 1.0, kappa, math.sqrt(rho), moves_mean=True, flagged=False)]
    backend = pick_backend(backend, x.mean.device, x.mean.dtype)
    if backend == "reference":
        return _reference_rows([x, y], unpack(pack(links), _rows([x, y]), x.mean.shape[1])[0])[0]
    return _fused([x, y], links, [], backend, per_row=True)[0][0]


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

    reduce_dims: reduction of H over dimensions: "sum" (the papers), "mean", or "none", which takes log sigmoid per dimension
    and averages over rows and dimensions (ProLIP's public code, with scale 1000). Under "sum" over many dimensions log sigmoid
    is flat almost everywhere: "mean" or a small scale keeps a gradient.

    Alone, this loss pushes the means of x and y apart (H grows with their distance): add a contrastive loss, detach the means, or
    use the convention "prolip".
    """
    x, y = as_gaussian("x", x, True), as_gaussian("y", y, True)
    check_sides(("x", "y"), x, y, matched=True)
    return _chain_loss([x, y], Inclusion([0, 1], scale, convention, reduce_dims), backend)


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
    chain = _check_levels(levels, 2, "a list of at least two Gaussians", matched=True)
    return _chain_loss(chain, Inclusion(range(len(chain)), scale, convention, reduce_dims, link_valid), backend)


def _chain_loss(chain: Sequence[Gaussian], term: Inclusion, backend: str | None) -> Tensor:
    """The loss of one chain of checked levels."""
    links = _inclusion_links(term, 0, chain, prefix="", flags_name="link_valid")
    return _means(chain, links, [] if term.valid is None else [term.valid], False, backend)[0][0]


def vib_loss(z: Gaussian, *, convention: str = "exact", backend: str | None = None) -> Tensor:
    """KL(N(m, v) || N(0, I)) = -(1 + l - m^2 - exp(l))/2, mean over rows and dimensions. 0-d.

    convention: "exact", or "prolip", the public code, which takes l/2 for l.
    """
    levels = [as_gaussian("z", z, True)]
    return _means(levels, [_vib_link(Vib(0, convention), 0, 1, prefix="")], [], False, backend)[0][0]


@overload
def matched_losses(
    levels: Sequence[Gaussian],
    terms: Sequence[Inclusion | Vib],
    *,
    stats: Literal[False] = False,
    backend: str | None = None,
) -> tuple[Tensor, ...]: ...
@overload
def matched_losses(
    levels: Sequence[Gaussian], terms: Sequence[Inclusion | Vib], *, stats: Literal[True], backend: str | None = None
) -> tuple[tuple[Tensor, ...], Tensor]: ...
def matched_losses(
    levels: Sequence[Gaussian],
    terms: Sequence[Inclusion | Vib],
    *,
    stats: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Tensor]:
    """Inclusion losses and bottlenecks over one set of levels, each term as `hierarchical_inclusion_loss` or `vib_loss` gives it.

        L_t = (1/n_t) sum_kn -log sigmoid(scale_t * H(level k of term t in the next, row n)),  or  L_t = KL(Z || N(0, I))

    Args:
        levels: Gaussians [N_k, D] on one device, with means of one dtype; N_k may differ, row n of one level is matched with
            row n of any other (masked copies of the first rows of a batch).
        terms: `Inclusion` and `Vib`, which name levels by their indices; the same level may be in several of them.
        stats: also return the share of saturated rows of each term.
        backend: "chunked", "triton" or "reference"; by default the fastest that can.

    Returns:
        The terms, unweighted 0-d tensors, float64 for float64 and float32 otherwise; a term without a row that counts is 0 with
        zero gradients. With `stats=True` the pair (terms, saturated [terms]), the latter detached: the share of the counted rows
        that hardly teach any more, whose gradient by scale * H, sigmoid(-scale * H) in size, is below 1e-3; under reduce_dims
        "none" the share of rows and dimensions; 0 for a bottleneck. Differentiable once; `backend="reference"` twice.

    On a GPU: three small launches that concatenate levels and flags, one for all rows, one for the means, one for all gradients.

    Errors: ValueError or TypeError naming the argument.

    Source: ProLAP (arXiv 2510.18423), all its losses but the contrastive one.
    """
    chain = _check_levels(levels, 1, "a list of at least one Gaussian", matched=False)
    terms = as_sequence("terms", terms, 1, "a list of at least one Inclusion or Vib")
    as_flag("stats", stats)
    links: list[Link] = []
    flags: list[Tensor] = []
    for number, term in enumerate(terms):
        name = f"terms[{number}]"
        if isinstance(term, Vib):
            links.append(_vib_link(term, number, len(chain), f"{name}."))
        elif isinstance(term, Inclusion):
            links += _inclusion_links(term, number, chain, f"{name}.", f"{name}.valid")
            flags += [] if term.valid is None else [term.valid]
        else:
            raise wrong(name, "an Inclusion or a Vib", term)
    losses, saturated = _means(chain, links, flags, stats, backend)
    return (losses, saturated) if stats else losses


def _check_levels(levels: Sequence[Gaussian], least: int, wanted: str, matched: bool) -> list[Gaussian]:
    levels = as_sequence("levels", levels, least, wanted)
    checked = [as_gaussian(f"levels[{k}]", z, True) for k, z in enumerate(levels)]
    for k, z in enumerate(checked[1:], 1):
        check_sides(("levels[0]", f"levels[{k}]"), checked[0], z, matched)
    return checked


def _rows(levels: Sequence[Gaussian]) -> list[int]:
    return [len(z.mean) for z in levels]


def _vib_link(term: Vib, number: int, levels: int, prefix: str) -> Link:
    """The checked link of a bottleneck; prefix: precedes its fields' names in errors."""
    share = choose(f"{prefix}convention", term.convention, VIB_SHARES)
    level = _check_level(f"{prefix}level", term.level, levels)
    return Link(VIB, level, level, number, share, 0.0, 0.0, moves_mean=True, flagged=False)


def _inclusion_links(
    term: Inclusion, number: int, levels: Sequence[Gaussian], prefix: str, flags_name: str
) -> list[Link]:
    """The checked links of a chain among the levels; prefix, flags_name: its fields' names in errors."""
    kappa, rho = choose(f"{prefix}convention", term.convention, CONVENTIONS)
    kind = choose(f"{prefix}reduce_dims", term.reduce_dims, REDUCE_DIMS)
    scale = as_number(f"{prefix}scale", term.scale, 0.0, "a constant number of at least 0")
    moves_mean = not as_flag(f"{prefix}detach_mean", term.detach_mean)
    numbers = as_sequence(f"{prefix}levels", term.levels, 2, "a list of at least two indices of levels")
    chain = [_check_level(f"{prefix}levels[{k}]", level, len(levels)) for k, level in enumerate(numbers)]
    ends = list(zip(chain, chain[1:], strict=False))
    if any(inner == outer for inner, outer in ends):
        raise ValueError(f"{prefix}levels must be indices, each unlike the next, got {chain}")
    if term.valid is not None:
        rows = _rows(levels)
        shape = [len(ends), max(min(rows[x], rows[y]) for x, y in ends)]
        _check_flags(flags_name, term.valid, shape)
    coefficients = scale, kappa, math.sqrt(rho), moves_mean, term.valid is not None
    return [Link(kind, inner, outer, number, *coefficients) for inner, outer in ends]


def _check_level(name: str, level: int, levels: int) -> int:
    return as_whole(name, level, 0, levels - 1, f"the index of a level, 0 to {levels - 1}")


def _check_flags(name: str, valid: Tensor, shape: list[int]) -> None:
    wanted = f"a bool tensor of shape {shape}"
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise wrong(name, wanted, valid)
    check_tensor(name, valid)
    if list(valid.shape) != shape:
        raise wrong(name, wanted, valid, ValueError)


def _means(
    levels: Sequence[Gaussian], links: Sequence[Link], flags: Sequence[Tensor], stats: bool, backend: str | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The terms' means over the rows that count, and the shares of those that are saturated if stats."""
    first = levels[0].mean
    backend = pick_backend(backend, first.device, first.dtype)
    if backend == "reference":
        return _reference(levels, links, _flat(flags, first.device))
    losses, _, shares = _fused(levels, links, flags, backend, per_row=False)
    return losses.unbind(), shares[1]


def _fused(
    levels: Sequence[Gaussian], links: Sequence[Link], flags: Sequence[Tensor], backend: str, per_row: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`MatchedRows` of the levels laid one after another."""
    moved = {level for link in links if link.moves_mean for level in (link.inner, link.outer)}
    mean = _stacked([z.mean if k in moved else z.mean.detach() for k, z in enumerate(levels)])
    logvar = _stacked([z.logvar for z in levels])
    call = MatchedCall(_rows(levels), pack(links), backend, per_row)
    need = wants_grad(mean), wants_grad(logvar)
    results: tuple[Tensor, Tensor, Tensor] = MatchedRows.apply(mean, logvar, _flat(flags, mean.device), call, need)
    return results


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


def _flat(flags: Sequence[Tensor], device: torch.device) -> Tensor:
    """The flags of all terms one after another, [0] where no term has any."""
    if not flags:
        return torch.empty(0, dtype=torch.bool, device=device)
    return _stacked([valid.to(device).reshape(-1) for valid in flags])


def _reference(levels: Sequence[Gaussian], links: Sequence[Link], valid: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The terms and their saturated shares by the plain formulas, differentiable twice."""
    dtype = widen(levels[0].mean).dtype
    losses, shares = [], []
    unpacked = unpack(pack(links), _rows(levels), levels[0].mean.shape[1])
    for term in range(count_terms(links)):
        sums, flat, count = [], [], valid.new_zeros((), dtype=torch.int64)
        for link in (link for link in unpacked if link.term == term):
            counted = counted_rows(valid, link)
            value, saturated = _reference_rows(levels, link)
            sums.append(torch.where(counted, value, 0.0).sum())
            flat.append(torch.where(counted, saturated, 0.0).sum())
            count = count + counted.sum()
        losses.append(torch.stack(sums).sum() / count.clamp(min=1))
        shares.append(torch.stack(flat).sum() / count.clamp(min=1))
    return tuple(losses), torch.stack(shares).detach().to(dtype)


def _reference_rows(levels: Sequence[Gaussian], link: Link) -> tuple[Tensor, Tensor]:
    """Values of a link's rows and their saturated shares, [rows] each."""
    x, y = (levels[level].rows(slice(link.rows)) for level in (link.inner, link.outer))
    if not link.moves_mean:
        x, y = (Gaussian(z.mean.detach(), z.logvar) for z in (x, y))
    if link.kind == VIB:
        q = link.factor * widen(x.logvar)
        kl = 0.5 * (q.expm1() - q + widen(x.mean).square())
        return kl.mean(1), torch.zeros_like(kl[:, 0])
    h = formula(x, y, link.kappa, link.mean_scale**2)
    if link.kind == SCORE:
        return h.sum(1), torch.zeros_like(h[:, 0])
    logit = link.factor * (h if link.kind == NONE else h.sum(1, keepdim=True))
    return -F.logsigmoid(logit).mean(1), ((-logit).sigmoid() < SATURATED).to(h).mean(1)
