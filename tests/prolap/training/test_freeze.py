"""What is frozen does not move, its buffers neither, and a pattern that names nothing is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prolap.config.options import ConfigError
from prolap.models.model import ProLAP, build_model, build_tokenizer
from prolap.training.config import load_config
from prolap.training.optim import Frozen
from prolap.training.train import train
from prolap.weights.checkpoint import load_model
from tests.prolap.tiny import tiny_config

SHORT: dict[str, Any] = {"steps": 2, "eval_every": 2, "checkpoint_every": 2, "optim__accumulate": 1}


@pytest.fixture
def model() -> ProLAP:
    config = load_config("prolap+micro", overrides=["model.dim=8", "model.dropout=0.5"])
    return build_model(config, build_tokenizer(config, []))


def learning(model: ProLAP) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("tower", ["audio", "text"])
def test_a_frozen_tower_stays_as_it_is_bit_for_bit(data: Path, tmp_path: Path, tower: str) -> None:
    changes = {"preset": "prolap+micro", "model__freeze": tower, "model__dropout": 0.3, **SHORT}
    train(tiny_config(data, tmp_path / "run", **changes), progress=False)
    config = tiny_config(data, tmp_path / "run", **changes)
    after = load_model(tmp_path / "run", "last")
    before = build_model(config, after.vocabulary).state_dict()
    moved = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(f"{tower}.") for name in moved)
    other = {"audio": "text.base.wte.weight", "text": "audio.base.audio_encoder.batch_norm.running_mean"}[tower]
    assert other in moved
    assert f"{tower}_head.logvar.2.weight" in moved


def test_patterns_name_modules_parameters_and_families(model: ProLAP) -> None:
    everything = learning(model)
    Frozen(model, "audio.mask, text.base.h.[0-5], *.layernorm_before")
    frozen = everything - learning(model)
    assert "audio.mask" in frozen
    assert {name for name in everything if name.startswith("text.base.h.")} <= frozen
    assert {name for name in everything if ".layernorm_before." in name} <= frozen
    assert not any(name.startswith(("text.base.wte", "audio_head", "text_head")) for name in frozen)


def test_frozen_modules_stay_in_evaluation_mode(model: ProLAP) -> None:
    frozen = Frozen(model, "audio")
    model.train()
    frozen.eval()
    assert not any(module.training for module in model.audio.modules())
    assert all(module.training for module in model.text.modules())
    z = model.encode_audio(torch.randn(2, 965, 64), torch.tensor([965, 400]))
    again = model.encode_audio(torch.randn(2, 965, 64), torch.tensor([965, 400]))
    assert z.logvar.requires_grad, "the head learns"
    assert again.mean.shape == z.mean.shape
    assert not model.audio(torch.randn(1, 965, 64)).requires_grad, "nothing is kept for a backward pass"


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("adio", "model.freeze: got 'adio', which no module is called; try audio"),
        ("audio, text, audio_head, text_head, log_scale, bias", "after which nothing is left to learn"),
    ],
)
def test_what_cannot_be_frozen_is_refused(model: ProLAP, patterns: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Frozen(model, patterns)
