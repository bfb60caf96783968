"""The truth of large tiles is that of small ones: on sampled rows, with the sizes that bound errors there."""

from __future__ import annotations

import pytest
import torch

from benchmarks import truth as module
from benchmarks.cases import cases, make_batch
from benchmarks.correctness import check
from benchmarks.peers import OURS, PEERS, dense_loss
from benchmarks.truth import pick, results, sampled, sizes, strip_results, truth
from tests.tolerances import assert_same

SHAPE = (9, 8, 5)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows of either side, strips of a row or so."""
    monkeypatch.setitem(module.WHOLE, "cpu", 0)
    monkeypatch.setattr(module, "SAMPLE", 4 * (9 + 8) * 5)
    monkeypatch.setitem(module.CELLS, "cpu", 80)


@pytest.mark.parametrize("name", [name for name, case in cases().items() if case.is_elementwise])
def test_sampled_rows_have_the_values_and_gradients_of_the_whole(name: str, few: None) -> None:
    batch = make_batch(cases()[name], SHAPE, "cpu", torch.float64)
    rows, cols = sampled(batch)
    assert len(rows) == len(cols) == 4
    whole = truth(batch)  # small enough for the reference, all rows
    for key, want in pick(whole, batch).items():
        got = strip_results(batch, dense_loss)[key]
        if want is None or not want.any():
            assert got is None or not got.any()
            continue
        assert got is not None
        assert_same(got, want, terms=sum(SHAPE) * 12)  # rows, columns, dimensions; scores of about 12 operations
    assert all(leaf.grad is None for leaf in batch.leaves.values())


@pytest.mark.parametrize("name", ["inclusion-score", "containment-score-forward", "mahalanobis-score", "elk-score"])
def test_sizes_of_sampled_rows_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(cases()[name], SHAPE, "cpu", torch.float64)
    whole = sizes(batch)
    monkeypatch.setitem(module.WHOLE, "cpu", 0)
    monkeypatch.setattr(module, "SAMPLE", 4 * (9 + 8) * 5)
    part = sizes(batch)
    assert set(part) == set(whole) == {"loss"} | (set() if batch.case.forward else set(batch.leaves))
    for key, want in pick(dict(whole), batch).items():
        assert want is not None
        assert_same(part[key], want, terms=sum(SHAPE) * 12)
        assert want.any() or (name, key) == ("mahalanobis-score", "x.logvar")


@pytest.mark.parametrize("name", ["inclusion-score", "inclusion-sigmoid"])
def test_a_wrong_row_among_the_sampled_has_no_time(name: str, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.truth.LITERAL_CELLS", 0)
    batch = make_batch(cases()[name], SHAPE, "cpu", torch.float32)
    want, right = truth(batch), PEERS[OURS].build()
    assert check(PEERS[OURS], right, batch, want).why == ""
    row = int(sampled(batch)[1][2])

    def wrong(b):  # type: ignore[no-untyped-def]
        b.y.mean.register_hook(lambda g: torch.where(torch.arange(8)[:, None] == row, 1.1 * g, g))
        return right(b)

    assert "y.mean errs" in check(PEERS[OURS], wrong, batch, want).why
    assert results(right, batch)["y.mean"].shape == (8, 5)  # type: ignore[union-attr]
