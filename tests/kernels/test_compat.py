"""The imitated losses against the public formulas, restated in eager torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels.compat import ClosedFormSampledDistanceLoss, ProLIPLoss
from tests.kernels.common import gaussian
from tests.tolerances import assert_as_exact_as, assert_same, likely

Restated = Callable[[list[Tensor]], Tensor]
DTYPES = [torch.float64, torch.float32]


def leaves(dtype: torch.dtype) -> list[Tensor]:
    return [part for seed in (1, 2, 3, 4) for part in gaussian(6, 5, seed, dtype)]


def features(mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
    return {"mean": mean, "std": logvar}


def results(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True, retain_graph=True)
    return [value.detach(), *grads]


def same(ours: Restated, public: Restated, tensors: list[Tensor], size: float = 1.0) -> None:
    """Ours against the public formula in float64: at most twice what the formula errs in our dtype, and the roundings of sums
    over 6 rows, 6 columns and 5 dimensions of terms of this size."""
    dtype = tensors[0].dtype
    exact = [t.detach().double().requires_grad_() for t in tensors]
    truth = results(public(exact), exact)
    got, plain = results(ours(tensors), tensors), results(public(tensors), tensors)
    assert_as_exact_as(plain, got, truth, terms=likely(6 + 6 + 5) * size, inner=dtype)


def inclusion(mx: Tensor, lx: Tensor, my: Tensor, ly: Tensor, eps: float, scale: float) -> Tensor:
    def side(m1: Tensor, l1: Tensor, m2: Tensor, l2: Tensor) -> Tensor:
        p, q = (eps - l1).exp(), (eps - l2).exp()
        a, b = p + q / 2, 2 * m1 * p + m2 * q
        return -2 * l1 - l2 - a.log() / 2 + b**2 / (4 * a) - m1**2 * p - m2**2 * q / 2

    return -F.logsigmoid(scale * (side(mx, lx, my, ly) - side(my, ly, mx, lx))).mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("eps", "c"), [(-10.0, 2.0), (-2.0, 2.0), (-10.0, 1000.0)])
def test_prolip(dtype: torch.dtype, eps: float, c: float) -> None:
    loss = ProLIPLoss(inclusion_alpha=0.1, inclusion_alpha_occ=0.2, inclusion_loss_eps=eps, inclusion_loss_scale=c,
                      siglip_lambda=0.5, vib_beta=0.3)  # fmt: skip

    def ours(t: list[Tensor]) -> Tensor:
        x, y, mx, my = (features(*t[i : i + 2]) for i in (0, 2, 4, 6))
        scale, bias = t[8:]
        parts = loss(x, y, scale, bias, bias, scale, mx, my, output_dict=True)
        assert set(parts) == {"siglip", "ppcl", "img_inclusion", "txt_inclusion", "inclusion", "vib"}
        total = loss(x, y, scale, bias, bias, scale, mx, my)
        assert_same(sum(parts.values()), total, terms=len(parts))
        return total

    def public(t: list[Tensor]) -> Tensor:
        scale, bias = t[8:]
        sign = 2 * torch.eye(6, dtype=t[0].dtype) - 1
        dot = t[0] @ t[2].T
        csd = dot - (t[1].exp()[:, None] + t[3].exp()[None]).sum(-1) / 2
        total = sum(w * -F.logsigmoid(sign * (scale * s + bias)).sum() / 6 for w, s in ((1, csd), (0.5, dot)))
        for w, a, b in ((0.1, 0, 2), (0.2, 0, 4), (0.2, 2, 6)):
            total = total + w * inclusion(t[a], t[a + 1], t[b], t[b + 1], eps, c)
        for m, v in (t[:2], t[2:4]):
            total = total - 0.3 * 0.5 * (1 + v / 2 - m**2 - (v / 2).exp()).mean()
        return total

    scalars = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (3.0, -2.0)]
    # the public inclusion subtracts terms of size 10 before the factor c
    same(ours, public, [*leaves(dtype), *scalars], size=10 * c)


def test_the_public_trainers_call() -> None:
    """The model's output as keywords, absent parts as None, the parts summed by the caller."""
    mx, lx, my, ly = leaves(torch.float32)[:4]
    out = {"image_features": features(mx, lx), "text_features": features(my, ly), "logit_scale": torch.tensor(10.0),
           "logit_bias": torch.tensor(-10.0), "shift": None, "negative_scale": None}  # fmt: skip
    losses = ProLIPLoss(vib_beta=0.1)(**out, output_dict=True)
    assert set(losses) == {"ppcl", "vib"}
    sum(losses.values()).backward()
    assert all((t.grad != 0).any() for t in (mx, lx, my, ly))
    with pytest.raises(ValueError, match="negative_scale must be given"):
        ProLIPLoss(siglip_lambda=1)(**out)
    with pytest.raises(ValueError, match="masked_text_features must be given"):
        ProLIPLoss()(**out, masked_image_features=features(mx, lx))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", ["csd", "wdist"])
@pytest.mark.parametrize("alpha", [0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_pcmepp(dtype: torch.dtype, distance: str, alpha: float, soft: bool) -> None:
    loss = ClosedFormSampledDistanceLoss(vib_beta=0.2, smoothness_alpha=alpha, prob_distance=distance).to(dtype)
    target = torch.eye(6, dtype=torch.float64)
    if soft:
        target = 0.8 * target + 0.1 * target.roll(1, 0)
    counts = []

    def ours(t: list[Tensor]) -> Tensor:
        value, out = loss(features(*t[:2]), features(*t[2:4]), target.to(dtype) if soft else None)
        keys = {"loss/loss", "criterion/shift", "criterion/negative_scale", "loss/vib_loss"}
        assert set(out) == keys | ({"loss/n_pseudo_gts"} if alpha else set())
        counts.append(out.get("loss/n_pseudo_gts", 0))
        return value

    def public(t: list[Tensor]) -> Tensor:
        label = target.to(t[0].dtype)
        spread = (t[1].exp()[:, None] + t[3].exp()[None]) if distance == "csd" else (
            ((t[1] / 2).exp()[:, None] - (t[3] / 2).exp()[None]) ** 2)  # fmt: skip
        logit = t[4] - t[5] * ((t[0][:, None] - t[2][None]) ** 2 + spread).sum(-1)
        total = 2 * F.binary_cross_entropy_with_logits(logit, label)
        for m, v in (t[:2], t[2:4]):
            total = total - 0.2 * 0.5 * (1 + v - m**2 - v.exp()).mean()
        count = 0
        for turned in (False, True) if alpha else ():
            lg, lb = (logit.T, label.T) if turned else (logit, label)
            pseudo = lb.clone()
            for i in range(6):
                alike = lg[i] >= lg[i, lb[i].argmax()]
                pseudo[i, alike] = lb[i].max()
                count += int(alike.sum()) - 1
            total = total + alpha * F.binary_cross_entropy_with_logits(lg, pseudo)
        counts.append(count)
        return total

    same(ours, public, [*leaves(dtype)[:4], loss.shift, loss.negative_scale])
    assert len(set(counts)) == 1
    assert counts[0] > 0 or not alpha


def test_given_targets_are_the_default_ones() -> None:
    mx, lx, my, ly = leaves(torch.float64)[:4]
    loss = ClosedFormSampledDistanceLoss().double()
    sides = features(mx, lx), features(my, ly)
    assert_same(loss(*sides, torch.eye(6, dtype=torch.float64))[0], loss(*sides)[0], terms=6 + 6 + 5)


def test_several_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="world_size must be 1"):
        ProLIPLoss(world_size=2)
