"""Parameter groups and the schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from prolap.config import OptimConfig
from prolap.models.encoders import AUDIO
from prolap.models.model import build_model
from prolap.models.tokenizers import WordVocabulary
from prolap.training.config import Config, load_config
from prolap.training.optim import build_optimizer, learning_rates, lr_factor, parameter_groups, set_lr
from tests.tolerances import assert_same


def named_groups(model: nn.Module, config: OptimConfig) -> dict[str, set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: {names[id(p)] for p in group["params"]} for group in parameter_groups(model, config)}


@pytest.fixture
def model() -> nn.Module:
    config: Config = load_config("prolap+tiny", overrides=["model.width=16", "model.dim=8"])
    return build_model(config, WordVocabulary.build(["a slow tone"]))


def test_every_parameter_is_in_exactly_one_group(model: nn.Module) -> None:
    groups = named_groups(model, OptimConfig())
    members = [name for names in groups.values() for name in names]
    assert sorted(members) == sorted(name for name, _ in model.named_parameters())


def test_who_is_in_which_group(model: nn.Module) -> None:
    groups = named_groups(model, OptimConfig())
    assert groups["scale"] == {"log_scale", "bias"}
    assert groups["logvar"] == {
        f"{side}_head.logvar.{layer}.{kind}"
        for side in ("audio", "text")
        for layer in (0, 2)
        for kind in ("weight", "bias")
    }
    assert {
        "audio.mask",
        "text.words.weight",
        "audio.norm.weight",
        "text.norm.bias",
        "text_head.mean.0.bias",
    } <= groups["plain"]
    assert {"audio.embed.weight", "text.left.weight", "audio_head.mean.2.weight"} <= groups["decay"]
    parameters = dict(model.named_parameters())
    assert all(parameters[name].ndim >= 2 and not name.endswith("bias") for name in groups["decay"])


def test_norms_and_masks_of_other_encoders_are_not_decayed() -> None:
    class Encoder(nn.Module):
        no_decay = ("mask",)

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm((3, 4))
            self.batch = nn.BatchNorm1d(3)
            self.mask = nn.Parameter(torch.zeros(1, 1, 4))
            self.frozen = nn.Linear(2, 2).requires_grad_(False)
            self.layer = nn.Linear(2, 2)

    groups = named_groups(Encoder(), OptimConfig())
    assert groups["decay"] == {"layer.weight"}
    assert groups["plain"] == {"norm.weight", "norm.bias", "batch.weight", "batch.bias", "mask", "layer.bias"}


def test_rates_and_decay_of_the_groups(model: nn.Module) -> None:
    config = OptimConfig(lr=1e-3, scale_lr=5e-2, weight_decay=0.1)
    rates = {g["name"]: (g["base_lr"], g["weight_decay"]) for g in parameter_groups(model, config)}
    assert rates == {"decay": (1e-3, 0.1), "plain": (1e-3, 0.0), "logvar": (1e-3, 0.0), "scale": (5e-2, 0.0)}
    config = OptimConfig(lr=1e-3, logvar_lr=7e-3)
    assert {g["name"]: g["base_lr"] for g in parameter_groups(model, config)}["logvar"] == 7e-3


def test_only_the_decay_group_shrinks_without_a_gradient(model: nn.Module) -> None:
    optimizer = build_optimizer(model, OptimConfig(optimizer="adamw", lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = named_groups(model, OptimConfig())["decay"]
    for name, parameter in model.named_parameters():
        expected = before[name] * 0.95 if name in decayed else before[name]
        assert_same(parameter, expected, terms=2)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_one_asked_for(model: nn.Module, name: str, kind: type) -> None:
    optimizer = build_optimizer(model, OptimConfig(optimizer=name, betas=(0.5, 0.6)))  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert optimizer.defaults["betas"] == (0.5, 0.6)


def test_the_schedule() -> None:
    factors = [lr_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert 0 < factors[99] < 1e-3
    assert lr_factor(0, 1, 0) == 1.0
    assert [lr_factor(step, 3, 5) for step in range(3)] == pytest.approx([0.2, 0.4, 0.6])  # warm-up past the end


def test_set_lr_scales_every_group_from_its_base(model: nn.Module) -> None:
    optimizer = build_optimizer(model, OptimConfig(lr=1e-3, scale_lr=1e-2))
    set_lr(optimizer, 0.5)
    set_lr(optimizer, 0.25)
    assert {g["name"]: g["lr"] for g in optimizer.param_groups}["scale"] == pytest.approx(2.5e-3)
    assert {g["name"]: g["lr"] for g in optimizer.param_groups}["decay"] == pytest.approx(2.5e-4)


def test_an_encoder_with_its_own_rate_has_its_own_groups(model: nn.Module) -> None:
    plain = named_groups(model, OptimConfig())
    config = OptimConfig(lr=1e-3, audio_lr=1e-5, weight_decay=0.1)
    groups, rates = named_groups(model, config), {g["name"]: g for g in parameter_groups(model, config)}
    assert groups["audio.decay"] == {name for name in plain["decay"] if name.startswith("audio.")}
    assert groups["audio.plain"] == {name for name in plain["plain"] if name.startswith("audio.")}
    assert groups["decay"] == plain["decay"] - groups["audio.decay"]
    assert any(name.startswith("audio_head.mean") for name in groups["decay"])
    assert {name: (g["base_lr"], g["weight_decay"]) for name, g in rates.items() if "." in name} == {
        "audio.decay": (1e-5, 0.1),
        "audio.plain": (1e-5, 0.0),
    }
    assert rates["decay"]["base_lr"] == 1e-3
    assert learning_rates(config, 0.5) == {"lr": 5e-4, "lr/audio": 5e-6}
    assert not any(name.startswith("audio.") for name in named_groups(model, OptimConfig(text_lr=0.0)))


def test_tables_of_relative_positions_are_not_decayed() -> None:
    config = load_config("prolap+micro")
    with torch.device("meta"):
        groups = named_groups(AUDIO["htsat-micro"](config), OptimConfig())
    assert not any("relative_position" in name for name in groups["decay"])
    assert sum("relative_position" in name for name in groups["plain"]) == 4
