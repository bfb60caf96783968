"""Options that work and hardly anyone wants are said, once."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prolap.config import DataConfig, MaskConfig
from prolap.config.options import ConfigError
from prolap.training.config import Config, load_config
from prolap.training.safety import warn_of
from prolap.training.train import train

CPU = torch.device("cpu")


@pytest.mark.parametrize("instructions", [False, True])
def test_bf16_on_a_cpu_without_its_instructions(monkeypatch: pytest.MonkeyPatch, instructions: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    config = load_config("prolap+tiny", overrides={"optim.amp": "bf16"})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of(config, CPU)
        warn_of(load_config("prolap+tiny"), CPU)
    assert len(said) == (not instructions)
    assert all("--optim.amp off" in str(each.message) for each in said)


def test_a_batch_of_one() -> None:
    with pytest.warns(RuntimeWarning, match="no negatives"):
        warn_of(load_config("prolap+tiny", overrides={"batch_size": 1}), CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": -1}, "batch_size: got -1 in the configuration, want a whole number of 1 or more"),
        (
            {"mask": MaskConfig(ratio=1.0)},
            "mask.ratio: got 1.0 in the configuration, want a number of 0 or more and below 1",
        ),
        ({"preset": "prolap", "data": DataConfig(seconds=-2.0)}, "data.seconds: got -2.0"),
    ],
)
def test_a_configuration_made_in_python_is_held_to_the_ranges(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(replace(Config(), run=str(tmp_path / "run"), **change), progress=False)
    assert not (tmp_path / "run").exists()
