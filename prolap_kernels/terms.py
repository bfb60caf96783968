"""All losses of matched rows that a training step has, in one call: one launch forward for the rows of all terms, one back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from .backends import pick_backend
from .backends.chunked import matched as chunked
from .checks import as_gaussian, check_sides, choose
from .gaussian import Gaussian
from .ops import wants_grad
from .ops.matched import MatchedRows, RowForm
from .pointwise.matched import formula_rows
from .pointwise.plan import MEAN, NONE, SCORE, SUM, VIB, Part, places
from .scores import CONVENTIONS

ReduceDims = Literal["sum", "mean", "none"]
REDUCE_DIMS = {"sum": SUM, "mean": MEAN, "none": NONE}


class Inclusion(NamedTuple):
    """A term of `matched_losses`: the mean over rows and links of -log sigmoid(scale * H), each level inside the next.

    levels: two or more places in the list of levels, in any order and of any numbers of rows; a link holds for the rows that both
        its levels have.
    scale, convention, reduce_dims: as in `inclusion_loss`.
    valid: bool [links, R], R the rows of the longest link; False leaves a link of a row out. By default all count.
    detach_mean: whether the term moves variances only.
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
        terms: `Inclusion` and `Vib`, which name the levels by their places; the same level may be in several of them.
        stats: also return the share of saturated rows of each term.
        backend: None picks, "chunked", "triton" or "reference" ask for one.

    Returns:
        The terms, unweighted 0-d tensors, float64 for float64 and float32 otherwise; a term without a row that counts is 0 with
        zero gradients. With `stats=True` the pair (terms, saturated [terms]), the latter detached: the share of the rows that
        count whose slope by scale * H, sigmoid(-scale * H), is below 1e-3, so that they hardly teach any more; under
        reduce_dims "none" of the rows and dimensions; 0 for a bottleneck. Differentiable once; `backend="reference"` twice.

    On a GPU: three small launches to lay levels and flags one after another, one for all rows, one for the means, and one for all
    gradients.

    Errors: ValueError or TypeError naming the argument.

    Source: ProLAP (arXiv 2510.18423), all its losses but the contrastive one.
    """
    checked = [as_gaussian(f"levels[{k}]", z, True) for k, z in enumerate(levels)]
    if not checked or not terms:
        raise ValueError(f"levels and terms must not be empty, got {len(checked)} levels and {len(terms)} terms")
    for k, z in enumerate(checked[1:], 1):
        check_sides(("levels[0]", f"levels[{k}]"), checked[0], z)
    plan = _Plan(checked)
    for number, term in enumerate(terms):
        plan.add(f"terms[{number}]", number, term)
    losses, saturated = run(checked, plan, stats, backend)
    return (losses, saturated) if stats else losses


class _Plan:
    """Parts and flags of the terms, gathered."""

    def __init__(self, levels: Sequence[Gaussian]) -> None:
        self.rows = [len(z.mean) for z in levels]
        self.parts: list[Part] = []
        self.valid: list[Tensor] = []
        self.valid_at: list[int] = []

    def add(self, name: str, number: int, term: Inclusion | Vib) -> None:
        if isinstance(term, Vib):
            choose(f"{name}.convention", term.convention, CONVENTIONS)
            at = self._level(f"{name}.level", term.level)
            share = 1.0 if term.convention == "exact" else 0.5
            self.parts.append(Part(VIB, at, at, number, share, 0.0, 0.0, True))
            self.valid_at.append(-1)
        elif isinstance(term, Inclusion):
            self._links(name, number, term)
        else:
            raise TypeError(f"{name} must be an Inclusion or a Vib, got {type(term).__name__}")

    def _links(self, name: str, number: int, term: Inclusion) -> None:
        kappa_rho = choose(f"{name}.convention", term.convention, CONVENTIONS)
        kind = choose(f"{name}.reduce_dims", term.reduce_dims, REDUCE_DIMS)
        if not isinstance(term.scale, (int, float)):
            raise TypeError(
                f"{name}.scale must be a float, got {type(term.scale).__name__}: it is a constant, not learned"
            )
        chain = [self._level(f"{name}.levels[{k}]", at) for k, at in enumerate(term.levels)]
        links = list(zip(chain, chain[1:], strict=False))
        if not links or any(x == y for x, y in links):
            raise ValueError(f"{name}.levels must be two or more places, each unlike the next, got {term.levels}")
        flags = self._flags(name, links, term.valid)
        for x, y in links:
            self.parts.append(Part(kind, x, y, number, float(term.scale), *kappa_rho, not term.detach_mean))
        self.valid_at += flags

    def _level(self, name: str, at: int) -> int:
        if not isinstance(at, int) or not 0 <= at < len(self.rows):
            raise ValueError(f"{name} must be the place of a level, 0 to {len(self.rows) - 1}, got {at!r}")
        return at

    def _flags(self, name: str, links: Sequence[tuple[int, int]], valid: Tensor | None) -> list[int]:
        """Where the flags of each link start."""
        if valid is None:
            return [-1] * len(links)
        shape = [len(links), max(min(self.rows[x], self.rows[y]) for x, y in links)]
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool or list(valid.shape) != shape:
            got = f"{valid.dtype} {list(valid.shape)}" if isinstance(valid, Tensor) else type(valid).__name__
            raise ValueError(f"{name}.valid must be a bool tensor of shape {shape}, got {got}")
        before = sum(flags.numel() for flags in self.valid)
        self.valid.append(valid)
        return [before + k * shape[1] for k in range(shape[0])]

    def flags(self, device: torch.device) -> Tensor:
        """All flags, flat."""
        if not self.valid:
            return torch.empty(0, dtype=torch.bool, device=device)
        flat = [flags.to(device).reshape(-1) for flags in self.valid]
        return torch.cat(flat) if len(flat) > 1 else flat[0]


def run(levels: Sequence[Gaussian], plan: _Plan, stats: bool, backend: str | None) -> tuple[tuple[Tensor, ...], Tensor]:
    """The terms, and their saturated shares where wanted."""
    first = levels[0].mean
    how = pick_backend(backend, first.device, first.dtype)
    if how == "reference":
        return _reference(levels, plan, stats)
    losses, _, shares = _apply(levels, plan, how, False)
    return losses.unbind(), shares[1]


def scores(x: Gaussian, y: Gaussian, kappa_rho: tuple[float, float], backend: str | None) -> Tensor:
    """H of matched rows, [N]."""
    plan = _Plan([x, y])
    plan.parts.append(Part(SCORE, 0, 1, 0, 1.0, *kappa_rho, True))
    plan.valid_at.append(-1)
    how = pick_backend(backend, x.mean.device, x.mean.dtype)
    if how == "reference":
        return formula_rows([x, y], places(plan.parts[0], plan.rows, plan.valid_at)[0])
    return _apply([x, y], plan, how, True)[0][0]


def _apply(levels: Sequence[Gaussian], plan: _Plan, how: str, per_row: bool) -> tuple[Tensor, Tensor, Tensor]:
    moved = {level for part in plan.parts if part.moves_mean for level in (part.inner, part.outer)}
    mean = _stacked([z.mean if k in moved else z.mean.detach() for k, z in enumerate(levels)])
    logvar = _stacked([z.logvar for z in levels])
    form = RowForm(plan.rows, plan.valid_at, [number for part in plan.parts for number in part], how, per_row)
    out: tuple[Tensor, Tensor, Tensor] = MatchedRows.apply(
        mean, logvar, plan.flags(mean.device), form, (wants_grad(mean), wants_grad(logvar))
    )
    return out


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _reference(levels: Sequence[Gaussian], plan: _Plan, stats: bool) -> tuple[tuple[Tensor, ...], Tensor]:
    where = places([number for part in plan.parts for number in part], plan.rows, plan.valid_at)
    flags = plan.flags(levels[0].mean.device)
    sums: dict[int, list[Tensor]] = {}
    counts: dict[int, Tensor] = {}
    for place in where:
        counted = chunked.counted(flags, place)
        rows = formula_rows(levels, place)
        sums.setdefault(place.term, []).append(torch.where(counted, rows, torch.zeros_like(rows)).sum())
        counts[place.term] = counts.get(place.term, 0) + counted.sum()
    losses = tuple(torch.stack(found).sum() / counts[term].clamp(min=1) for term, found in sums.items())
    if not stats:
        return losses, losses[0].detach()
    mean, logvar = (torch.cat([z[i] for z in levels]).detach() for i in (0, 1))
    found = chunked.matched_rows(mean, logvar, flags, plan.rows, where)
    return losses, chunked.matched_sums(found, flags, where)[1][1]
