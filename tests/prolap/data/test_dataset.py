"""Evaluation reads whole data sets in order, by processes or without, and says how far it is where it is wanted."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from prolap.data import open_data
from prolap.data.dataset import in_order
from prolap.utils import progress
from tests.prolap.tiny import CLIPS, tiny_config


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [5, 12, 100])
def test_every_clip_once_in_order(data: Path, tmp_path: Path, size: int, workers: int) -> None:
    found = open_data(tiny_config(data, tmp_path / "run"), "train", lambda *_: None)
    before = torch.get_rng_state()
    batches = list(in_order(found, size, workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert [i for indices, *_ in batches for i in indices] == list(range(CLIPS))
    for indices, audio, frames in batches:
        assert len(indices) <= size
        for row, i in enumerate(indices):
            assert torch.equal(audio[row, : frames[row]], found.features(i))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_watched_says_what_it_does_only_where_that_is_shown(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, terminal: bool
) -> None:
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    assert list(progress.watched("abc", "Reading", 3)) == ["a", "b", "c"]
    assert not out.getvalue()
    with progress.shown(wanted):
        assert list(progress.watched("abc", "Reading", 3)) == ["a", "b", "c"]
    assert ("Reading" in out.getvalue()) == wanted
    assert out.getvalue() == "Reading ...\n" or terminal or not wanted
