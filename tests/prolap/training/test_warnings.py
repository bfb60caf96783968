"""Options that work and hardly anyone wants are said, once."""

from __future__ import annotations

import warnings

import pytest
import torch

from prolap.training.config import load_config
from prolap.training.safety import warn_of

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
