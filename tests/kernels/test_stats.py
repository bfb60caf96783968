"""Statistics beside the loss: the same numbers as from the matrix, and the loss and its gradients untouched."""

from __future__ import annotations

import pytest
import torch

from prolap_kernels import Gaussian, PairStats, pairwise_loss
from tests.kernels.common import ID_CASES, gaussian, ids
from tests.tolerances import assert_same, likely

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMS = [("csd", "sigmoid", "chunked"), ("csd", "softmax", "chunked"), ("csd", "sigmoid", "triton"), ("csd", "softmax", "triton"),
         ("kl", "sigmoid", None), ("kl", "softmax", None)]  # fmt: skip
X, Y = (Gaussian(*(t.detach().float().to(DEVICE) for t in gaussian(n, 16, n))) for n in (5, 4))


def loss(objective: str, x: Gaussian = X, **options: object) -> object:
    bias = -1.0 if objective == "sigmoid" else 0.0
    return pairwise_loss(x, Y, objective=objective, scale=9.0, bias=bias, **options)


def expected(score: str, objective: str, case: str, negatives_only: bool = False) -> PairStats:
    """From the dense matrix, by the definitions and nothing else."""
    x_id, y_id = (torch.arange(n) if side is None else side for side, n in zip(ids(case), (5, 4), strict=True))
    x, y = (Gaussian(*(t.double().cpu() for t in z)) for z in (X, Y))
    from prolap_kernels import pairwise_score

    logit = 9.0 * pairwise_score(x, y, score=score) - (1.0 if objective == "sigmoid" else 0.0)
    counted = (x_id >= 0)[:, None] & (y_id >= 0)[None]
    positive = (x_id[:, None] == y_id[None]) & counted
    negative = counted & ~positive
    if objective == "sigmoid":
        flat = torch.where(positive, 1 - logit.sigmoid(), logit.sigmoid()) < 1e-3
    else:
        p = logit.masked_fill(~counted, -torch.inf).exp()
        p = p / p.sum(1, keepdim=True)
        count = positive.sum(1, keepdim=True)
        flat = (torch.where(positive, count * p - 1, p).abs() < 1e-3) & (count > 0)
    sides = (positive & ~torch.tensor(negatives_only), negative)
    counts = [side.sum() for side in sides]
    return PairStats(*counts, *(logit[s].mean() for s in sides), *(flat[s].double().mean() for s in sides))


def agree(got: PairStats, want: PairStats) -> None:
    for name, a, b in zip(PairStats._fields, got, want, strict=True):
        # means of up to 20 logits of size 20 and below, which cancel; each a sum over 16 dimensions
        assert_same(a, b, terms=likely(20 + 16), scale=20.0, dtype=torch.float32, name=name)


@pytest.mark.parametrize("case", ID_CASES)
@pytest.mark.parametrize(("score", "objective", "backend"), FORMS)
def test_statistics_match_their_definition(score: str, objective: str, backend: str | None, case: str) -> None:
    x_id, y_id = (None if side is None else side.to(DEVICE) for side in ids(case))
    options = {"score": score, "backend": backend, "x_id": x_id, "y_id": y_id}
    value, stats = loss(objective, **options, stats=True)
    assert torch.equal(value, loss(objective, **options))
    assert not any(s.requires_grad for s in stats)
    agree(stats, expected(score, objective, case))


@pytest.mark.parametrize("backend", ["reference", "chunked", "triton"])
def test_negatives_only_has_no_positives(backend: str) -> None:
    stats = loss("sigmoid", negatives_only=True, stats=True, backend=backend)[1]
    assert stats.positives == 0
    assert stats.positive_logit.isnan()
    agree(stats, expected("csd", "sigmoid", "diagonal", negatives_only=True))


@pytest.mark.parametrize("backend", ["chunked", "triton"])
@pytest.mark.parametrize("reduction", ["rows", "none"])
def test_gradients_are_the_same_with_statistics(backend: str, reduction: str) -> None:
    grads = []
    for stats in (False, True):
        x = Gaussian(*(t.clone().requires_grad_() for t in X))
        value = loss("sigmoid", x, reduction=reduction, backend=backend, stats=stats)
        (value[0] if stats else value).sum().backward()
        grads.append([t.grad for t in x])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("backend", ["reference", "chunked", "triton"])
def test_saturated_pairs_are_counted(backend: str) -> None:
    mean = torch.eye(4, device=DEVICE)
    value = pairwise_loss(mean, mean, score="dot", scale=40.0, bias=-20.0, stats=True, backend=backend)[1]
    assert (value.positives, value.negatives) == (4, 12)
    assert (value.positive_saturation, value.negative_saturation) == (1, 1)
    for logit, size in ((value.positive_logit, 20.0), (value.negative_logit, -20.0)):
        assert_same(logit, torch.tensor(size, device=DEVICE), terms=4)  # 40 - 20, exact but for the mean
