"""The inclusion test: is a sample inside its masked version (direction), and inside its own rather than others'?

H(x in m) > 0 follows from a wider m alone, so `direction` says little without `control`, the same asked of other
samples' masked versions. `location` asks what inclusion should mean: among masked samples of nearly equal uncertainty,
does x fit its own best?

Protocol: direction is the published test (ProLIP, Chun et al., 2025; ProLAP reports it for captions and sounds); the
control and location are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prolap.evaluation.embeddings import NO_BASELINE, Embedded
from prolap.evaluation.statistics import Interval, bootstrap, paired_bootstrap
from prolap.utils.seeding import numpy_generator
from prolap_kernels import Gaussian, inclusion_score, score_blocks

CHANCE = 0.5
"""Of the location AUC; and what direction must exceed."""
NEIGHBOURS = 20
CONTROL_PAIRS = 2_000_000
"""Pairs of the control at each mask level: all of them up to 1,414 samples."""
_BLOCK = 1_000_000  # pairs held at a time
_ELEMENTS = 16_000_000  # elements of gathered rows held at a time

Floats = NDArray[np.float64]
Similarity = Callable[[Gaussian, Gaussian], Tensor]


def neighbours(masked: Gaussian, *, count: int = NEIGHBOURS, seed: int = 0) -> Tensor:
    """[N, min(count, N-1)] for each masked sample the others of nearest uncertainty; equal ones in seeded order."""
    n = len(masked.mean)
    if n < 2:
        raise ValueError(f"masked has {n} rows; neighbours need at least 2.")
    order = torch.from_numpy(numpy_generator(seed, "neighbours").permutation(n))
    uncertainty = masked.logvar.double().mean(-1)[order]
    block = max(1, _BLOCK // n)
    out = torch.empty(n, min(count, n - 1), dtype=torch.int64)
    for first in range(0, n, block):
        rows = torch.arange(first, min(first + block, n))
        gap = (uncertainty[rows, None] - uncertainty[None]).abs()
        gap[torch.arange(len(rows)), rows] = torch.inf
        out[order[rows]] = order[gap.sort(dim=1, stable=True).indices[:, : out.shape[1]]]
    return out


def negative_kl(x: Gaussian, y: Gaussian) -> Tensor:
    """-KL(x || y) = -1/2 sum_d [l_y - l_x + (v_x + (mu_x - mu_y)^2) / v_y - 1] of matched rows [..., D], in float64."""
    lx, ly = x.logvar.double(), y.logvar.double()
    gap = (x.mean.double() - y.mean.double()).square()
    return -0.5 * (torch.expm1(lx - ly) - (lx - ly) + gap * torch.exp(-ly)).sum(-1)


def cosine(x: Gaussian, y: Gaussian) -> Tensor:
    """Cosine of the means of matched rows [..., D], in float64."""
    return torch.nn.functional.cosine_similarity(x.mean.double(), y.mean.double(), dim=-1)


def location(x: Gaussian, masked: Gaussian, others: Tensor, similarity: Similarity = negative_kl) -> Floats:
    """[N] share of the other masked samples that fit x_i worse than its own masked version (a tie counts half).

    others [N, K] from `neighbours`. The mean over i is the location AUC A.
    """
    n, dim = x.mean.shape
    block = max(1, _ELEMENTS // max(1, others.shape[1] * dim))
    parts = []
    for first in range(0, n, block):
        rows = slice(first, first + block)
        here = Gaussian(x.mean[rows, None], x.logvar[rows, None])
        own = similarity(here, Gaussian(masked.mean[rows, None], masked.logvar[rows, None]))
        rest = similarity(here, masked.rows(others[rows]))
        parts.append(((own > rest).double() + 0.5 * (own == rest).double()).mean(1))
    return torch.cat(parts).numpy()


def control(x: Gaussian, masked: Gaussian, *, pairs: int | None = None, seed: int = 0) -> tuple[float, int]:
    """D' = mean over i != j of [H(x_i in m_j) > 0], and the number of ordered pairs it was taken over.

    Exact over all N (N-1) pairs if `pairs` is None or not smaller; else over at least `pairs` of them, seeded, every
    sample equally often on both sides (standard error below 1/2 / sqrt(pairs)).
    """
    n = len(x.mean)
    if pairs is None or pairs >= n * (n - 1):
        return _crossed_inside(x, masked) / (n * (n - 1)), n * (n - 1)
    shifts = numpy_generator(seed, "control").permutation(np.arange(1, n))[: max(1, math.ceil(pairs / n))]
    order = torch.from_numpy(numpy_generator(seed, "control order").permutation(n))
    shuffled, width = x.rows(order), max(1, _ELEMENTS // max(1, x.mean.shape[1]) // n)
    inside = 0
    for first in range(0, len(shifts), width):
        part = torch.from_numpy(shifts[first : first + width])
        j = order[(torch.arange(n)[None] + part[:, None]) % n].flatten()
        i = torch.arange(n).repeat(len(part))
        inside += int((inclusion_score(shuffled.rows(i), masked.rows(j)) > 0).sum())
    return inside / (n * len(shifts)), n * len(shifts)


def _crossed_inside(x: Gaussian, masked: Gaussian) -> int:
    """How many of all i != j have H(x_i in m_j) > 0, in blocks of bounded memory."""
    inside = 0
    for rows, columns, scores in score_blocks(x, masked, score="inclusion"):
        own = scores.diagonal(rows.start - columns.start)
        inside += int(torch.count_nonzero(scores > 0)) - int(torch.count_nonzero(own > 0))
    return inside


@dataclass(frozen=True)
class InclusionTest:
    """One modality at one mask level."""

    n: int
    direction: float
    """D, share of H(x_i in m_i) > 0."""
    control: float
    """D', the same for m_j, j != i."""
    control_pairs: int
    """How many ordered pairs D' was taken over."""
    location: Interval
    """A with its 95 % interval; chance is 1/2."""
    location_baseline: Interval | None
    """The baseline's by cosine, on the same samples, masks and neighbours."""
    advantage: Interval | None
    """A - A_baseline, paired over the samples."""

    @property
    def passed(self) -> bool:
        """The 95 % lower bounds of A - 1/2 and A - A_baseline exceed 0, and D > 1/2."""
        ahead = self.advantage is not None and self.advantage.low > 0
        return self.location.low > CHANCE and ahead and self.direction > CHANCE

    def metrics(self) -> dict[str, object]:
        """`direction`, `control`, `location`, `location_baseline`, and the intervals behind them."""
        return {
            "direction": self.direction,
            "control": self.control,
            "control_pairs": self.control_pairs,
            "location": self.location.value,
            "location_baseline": None if self.location_baseline is None else self.location_baseline.value,
            "location_interval": [self.location.low, self.location.high],
            "advantage": None if self.advantage is None else self.advantage._asdict(),
            "passed": self.passed,
            "n": self.n,
        }


def inclusion_test(
    x: Gaussian,
    masked: Gaussian,
    *,
    baseline: tuple[Gaussian, Gaussian] | None = None,
    pairs: int | None = None,
    seed: int = 0,
) -> InclusionTest:
    """Rows x_i with their masked versions m_i; `baseline` holds the baseline's x and m for the same rows and masks.

    `pairs` bounds the pairs of the control, see `control`.
    """
    if x.mean.shape != masked.mean.shape:
        raise ValueError(
            f"x is {tuple(x.mean.shape)} and masked {tuple(masked.mean.shape)}; matched rows must be alike."
        )
    others = neighbours(masked, seed=seed)
    crossed, crossed_pairs = control(x, masked, pairs=pairs, seed=seed)
    own = location(x, masked, others)
    by_cosine = None if baseline is None else location(*baseline, others, cosine)
    return InclusionTest(
        n=len(x.mean),
        direction=float((inclusion_score(x, masked) > 0).double().mean()),
        control=crossed,
        control_pairs=crossed_pairs,
        location=bootstrap(own, seed=seed),
        location_baseline=None if by_cosine is None else bootstrap(by_cosine, seed=seed),
        advantage=None if by_cosine is None else paired_bootstrap(own, by_cosine, seed=seed),
    )


def inclusion_section(model: Embedded, baseline: Embedded | None, seed: int) -> dict[str, object] | str:
    """The inclusion test at mask level 1 under the schema's names, and at all levels under `levels`."""
    levels: list[dict[str, object] | str] = []
    for index in range(len(model.masked)):
        x, masked, kept = model.level(index)
        if len(kept) < 2:
            levels.append(f"mask level {index + 1} masks {len(kept)} samples; 2 are needed")
            continue
        missing, pair = NO_BASELINE, None
        if baseline is not None:
            same = len(baseline.masked) > index and len(baseline.share[index]) == len(model.share[index])
            missing, pair = "the baseline's masks do not match", baseline.level(index)[:2] if same else None
        section = inclusion_test(x, masked, baseline=pair, pairs=CONTROL_PAIRS, seed=seed).metrics()
        if pair is None:
            section |= {"location_baseline": missing, "advantage": missing}
        levels.append(section)
    if not levels:
        return "no masked copies were asked for"
    first = levels[0]
    return first if isinstance(first, str) else {**first, "levels": levels}
