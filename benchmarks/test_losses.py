"""Every case of the registries on the CPU, ours beside dense eager torch and the limit: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cases import cases, make_batch
from benchmarks.correctness import check, train, truth
from benchmarks.measure import WARM_UP
from benchmarks.peers import EAGER, LIMIT, OURS, PEERS, refusal


@pytest.mark.parametrize("peer", [OURS, EAGER, LIMIT])
@pytest.mark.parametrize("case", list(cases()))
def test_loss(benchmark: Any, request: pytest.FixtureRequest, case: str, peer: str) -> None:
    """Forward and backward; a result that does not agree with float64 is not timed. Tiles, of N M D elements, are smaller."""
    shape = tuple(request.config.getoption("--tile-shape" if cases()[case].is_tile else "--shape"))
    why = refusal(PEERS[peer], cases()[case], shape, "cpu")
    if why:
        pytest.skip(why)
    batch, loss = make_batch(cases()[case], shape, "cpu", torch.float32), PEERS[peer].build()
    verdict = check(PEERS[peer], loss, batch, truth(batch))
    assert not verdict.why
    benchmark.group = f"{case} {' x '.join(map(str, shape))}"
    benchmark.extra_info |= {"shape": shape, "errors": verdict.errors}
    benchmark.pedantic(train, args=(loss, batch), setup=batch.clear, rounds=10, warmup_rounds=WARM_UP)
