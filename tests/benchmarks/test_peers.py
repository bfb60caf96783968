"""What keeps a contender out: cases that it has no formula for, and memory that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import comparison
from benchmarks.cases import Batch, cases, make_batch, train
from benchmarks.measure import interleave
from benchmarks.peers import EAGER, PEERS, bytes_needed, refusal
from tests.live_memory import peak_bytes

SHAPE = (64, 48, 32)
KEOPS = PEERS["PyKeOps"]._replace(package=None)


@pytest.mark.parametrize(
    ("name", "shape", "why"),
    [
        ("inclusion-sigmoid", (8, 8, 4), None),
        ("inclusion_prolip-score-forward", (8, 8, 4), None),
        ("inclusion-sigmoid-ids", (8, 8, 4), "has diagonal pairs only"),
        ("inclusion-softmax", (8, 9, 4), "takes square batches only, got 8 x 9"),
        ("kl-score", (8, 8, 4), "computes inclusion-score, inclusion-sigmoid"),
        ("csd-sigmoid", (8, 8, 4), "computes inclusion-score, inclusion-sigmoid"),
    ],
)
def test_keops_takes_square_inclusion_alone(name: str, shape: tuple[int, int, int], why: str | None) -> None:
    reason = refusal(KEOPS, cases()[name], shape, "cpu")
    assert reason is None if why is None else why in str(reason)


def test_who_takes_matrix_products_alone_takes_no_elementwise_score() -> None:
    bilinear = PEERS["siglip-kernel"]._replace(package=None, devices=(), cases=())
    assert refusal(bilinear, cases()["elk-sigmoid"], (8, 8, 4), "cpu") == "takes scores that are matrix products only"


@pytest.mark.parametrize("name", ["inclusion-score-forward", "inclusion-score"])
def test_the_estimate_of_eager_elementwise_scores_is_what_they_take(name: str, tmp_path: Path) -> None:
    """Within a quarter: an estimate too low ends a run, one too high leaves a figure out."""
    batch = make_batch(cases()[name], SHAPE, "cpu", torch.float32)
    peak = peak_bytes(lambda: train(PEERS[EAGER].build(), batch), tmp_path)
    assert 0.75 <= peak / bytes_needed(PEERS[EAGER], batch.case, SHAPE) <= 1.25


def test_a_slow_contender_is_called_twice_and_its_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def slow(batch: Batch) -> torch.Tensor:
        calls.append(batch)
        return PEERS[EAGER].build()(batch)

    batch = make_batch(cases()["dot-sigmoid"], (4, 4, 2), "cpu", torch.float32)
    times = interleave({"slow": lambda: train(slow, batch)}, "cpu", 5, 1e-9)
    assert len(calls) == len(times["slow"]) == 2
    monkeypatch.setattr(comparison, "peak_row", lambda *a: pytest.fail("called"))
    rows = comparison.compare(batch.case, (4, 4, 2), "cpu", "float32", [PEERS[EAGER]], 5, 1e-9)
    assert "three are needed" in rows[0]["memory_failed"]
