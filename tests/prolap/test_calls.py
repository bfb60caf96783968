"""The files that one call passes are few, and docs/architecture.md draws exactly those."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from prolap.data import open_data
from prolap.data.loader import Loader
from prolap.models.model import build_model, build_tokenizer
from prolap.training.step import training_losses
from prolap_kernels import Gaussian, pairwise_loss
from tests.prolap.tiny import tiny_config

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"training/terms/(?!base|__init__)\w+\.py")


def files(call: Callable[[], Any], package: str) -> set[str]:
    """Files of a package in which something is called, beneath the package's folder."""
    folder, seen = ROOT / package, set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(folder):
            seen.add(path.relative_to(folder).as_posix())

    call()  # imports, caches and first compilations apart
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


def drawn(heading: str) -> set[str]:
    """The files in the figure under a heading of the page."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    figure = re.search(r"```text\n(.*?)```", section, flags=re.S)
    assert figure, heading
    return set(re.findall(r"[\w/]+\.py", figure[1]))


def gaussian() -> Gaussian:
    return Gaussian(torch.randn(16, 16).requires_grad_(), torch.randn(16, 16).requires_grad_())


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU kernels are compiled, and no Python call enters their files"
)
@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_a_loss_of_pairs_passes_at_most_14_files_to_its_kernel_and_back(objective: str) -> None:
    x, y = gaussian(), gaussian()
    seen = files(lambda: pairwise_loss(x, y, objective=objective, backend="triton").backward(), "prolap_kernels")
    assert len(seen) <= 14, sorted(seen)
    if objective == "sigmoid":
        assert seen == drawn("A call on its way through the kernels")


@pytest.mark.parametrize("preset", ["prolap-v1+tiny", "siglip+tiny"])
def test_a_batch_passes_at_most_12_files_to_its_loss(preset: str, data: Path, tmp_path: Path) -> None:
    """With one term of the loss; each further one adds its own file."""
    config = tiny_config(data, tmp_path / "run", preset=preset)
    clips = open_data(config, "train", lambda *_: None)
    model = build_model(config, build_tokenizer(config, (c.text for i in range(len(clips)) for c in clips.captions(i))))
    batch = next(iter(Loader(clips, model.vocabulary, config, config.mixes).batches(0)))
    seen = files(lambda: training_losses(model, batch, config, torch.Generator())[0].backward(), "prolap")
    terms = {path for path in seen if ENTRY.fullmatch(path)}
    assert terms
    assert len(seen - terms) + 1 <= 12, sorted(seen)
    if len(terms) == 1:
        assert seen == drawn("A batch on its way through training")
