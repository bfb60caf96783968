from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from prolap.config import ModelConfig
from prolap.models.heads import MEAN_HEADS, Head, bound, unbound
from tests.tolerances import assert_same

CONFIG = ModelConfig(width=32, dim=16)


def head(**changes: object) -> Head:
    torch.manual_seed(0)
    return Head(32, replace(CONFIG, **changes))


def features(rows: int = 8) -> torch.Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(1))


def test_bound_is_the_identity_inside_and_stays_between() -> None:
    x = torch.linspace(-11.0, 3.0, 101, dtype=torch.float64)
    assert torch.equal(bound(x, -12.0, 4.0), x)
    far = torch.tensor([-1e6, -50.0, -11.5, 3.5, 50.0, 1e6], dtype=torch.float64)
    inside = bound(far, -12.0, 4.0)
    assert (inside > -12).all()
    assert (inside < 4).all()
    assert (inside.diff() > 0).all()


def test_bound_has_two_continuous_derivatives_and_no_dead_gradient() -> None:
    points = [[edge - 1e-6, edge + 1e-6] for edge in (-11.0, 3.0)]
    x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bound(x, -12.0, 4.0).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert (slope - 1).abs().max() < 1e-9
    assert bend.abs().max() < 1e-4
    far = torch.tensor([-1e8, -1e3, 1e3, 1e8], requires_grad=True)
    (gradient,) = torch.autograd.grad(bound(far, -12.0, 4.0).sum(), far)
    assert (gradient > 0).all()


def test_unbound_inverts_bound() -> None:
    for value in (-11.99, -11.2, -6.0, 0.0, 3.2, 3.99):
        x = torch.tensor(unbound(value, -12.0, 4.0), dtype=torch.float64)
        assert bound(x, -12.0, 4.0).item() == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("init", [-10.0, -6.0, -11.6])
@pytest.mark.parametrize("kind", ["diagonal", "shared"])
def test_log_variance_starts_near_its_init(init: float, kind: str) -> None:
    z = head(logvar_init=init, logvar=kind)(features(256))
    assert (z.logvar - init).abs().max() < 0.1
    assert z.logvar.std(dim=0).min() > 0  # but it is a function of the input
    assert z.logvar.shape == (256, 16)


def test_shared_log_variance_is_one_per_sample() -> None:
    shared, diagonal = (head(logvar=kind)(features()).logvar for kind in ("shared", "diagonal"))
    assert (shared == shared[:, :1]).all()
    assert shared[0, 0] != shared[1, 0]
    assert (diagonal[:, 0] != diagonal[:, 1]).all()


def test_means_have_unit_length() -> None:
    assert_same(head()(features()).mean.norm(dim=-1), torch.ones(8), terms=4)


@pytest.mark.parametrize("detach", [False, True])
def test_detach_uncertainty_stops_the_gradient(detach: bool) -> None:
    module, x = head(detach_uncertainty=detach), features().requires_grad_()
    z = module(x)
    (gradient,) = torch.autograd.grad(z.logvar.sum(), x, allow_unused=True, retain_graph=True)
    assert (gradient is None) == detach
    (gradient,) = torch.autograd.grad(z.mean[:, 0].sum(), x, retain_graph=True)
    assert gradient.abs().sum() > 0
    z.logvar.sum().backward()
    assert all(p.grad is not None for name, p in module.named_parameters() if name.startswith("logvar."))


def test_float32_under_autocast() -> None:
    module, x = head(), features()
    with torch.autocast("cpu", torch.bfloat16):
        z = module(x.bfloat16())
    expected = module(x.bfloat16().float())
    assert z.mean.dtype == z.logvar.dtype == torch.float32
    assert torch.equal(z.mean, expected.mean)
    assert torch.equal(z.logvar, expected.logvar)


def test_saturated_counts_what_is_next_to_a_bound() -> None:
    logvar = torch.tensor([[-11.9, -11.0], [3.9, 0.0]])
    assert head().saturated(logvar).item() == 0.5
    edge = torch.tensor(unbound(-12 + 0.2, -12.0, 4.0), requires_grad=True)
    (slope,) = torch.autograd.grad(bound(edge, -12.0, 4.0), edge)
    assert slope.item() == pytest.approx(1 / (1 + math.tan(0.8 * math.pi / 2) ** 2), rel=1e-4)
    assert slope < 0.1


def test_init_must_lie_between_the_bounds() -> None:
    with pytest.raises(ValueError, match="logvar_init: got -12.0"):
        head(logvar_init=-12.0)


def test_the_projection_of_ms_clap() -> None:
    module = MEAN_HEADS["msclap"](32, 16).double()
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "linear1.weight": (16, 32),
        "linear2.weight": (16, 16),
        "layer_norm.weight": (16,),
        "layer_norm.bias": (16,),
    }
    x = features().double()
    first = x @ module.linear1.weight.T
    second = first * torch.special.ndtr(first) @ module.linear2.weight.T
    for mode, same in ((False, True), (True, False)):
        module.train(mode)
        y = first + second
        expected = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        assert (
            torch.allclose(module(x), expected, rtol=1e-9, atol=1e-9) == same
        )  # in training half of `second` is dropped


def test_the_projection_of_laion_clap_is_that_of_transformers() -> None:
    from transformers import ClapAudioConfig
    from transformers.models.clap.modeling_clap import ClapProjectionLayer

    theirs, ours = ClapProjectionLayer(ClapAudioConfig(hidden_size=32, projection_dim=16)), MEAN_HEADS["clap"](32, 16)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(features()), theirs(features()))


@pytest.mark.parametrize("name", sorted(MEAN_HEADS))
def test_every_mean_head_makes_a_gaussian(name: str) -> None:
    module = head(mean_head=name).eval()
    z = module(features())
    assert_same(z.mean.norm(dim=-1), torch.ones(8), terms=4)
    assert_same(z.mean, torch.nn.functional.normalize(module.mean(features()), dim=-1), terms=4)
    assert (z.logvar + 6).abs().max() < 0.1


def test_unknown_mean_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="model.mean_head: got 'linear', want one of clap, mlp, msclap"):
        head(mean_head="linear")
