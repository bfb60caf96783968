"""The note bank, rendered once and shared by all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from prolap.config import DataConfig
from prolap.data import cache
from prolap.data.scenes.soundfont import load_bank
from tests.prolap.tiny import write_data


@pytest.fixture(scope="session")
def scene_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache folder of this test session that already holds the note bank: use it as DataConfig(cache=scene_cache).

    The bank itself comes from the user's cache folder, where it is rendered if need be (about 15 CPU seconds, once).
    """
    load_bank(DataConfig())
    folder = tmp_path_factory.mktemp("cache")
    for bank in cache.folder(None).glob("notes-*.npz"):
        try:
            os.link(bank, folder / bank.name)
        except OSError:
            shutil.copy(bank, folder / bank.name)
    assert list(Path(folder).iterdir())
    return str(folder)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny WAV files with train and dev manifests; nobody writes into it."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models in float64 throughout: their casts to float32 keep float64 while this lasts, so rounding hides nothing."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
