"""What only a device can show: graphs, synchronisation, launches. The other tests use the device too where there is one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from prolap_kernels import Gaussian, infonce_loss, ppcl_loss
from tests.kernels.common import gaussian
from tests.tolerances import assert_as_exact_as, likely

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
LOSSES = {
    "ppcl": lambda x, y, scale, bias: ppcl_loss(x, y, scale, bias),
    "infonce": lambda x, y, scale, bias: infonce_loss(x, y, scale, score="csd"),
}


def _inputs(n: int, d: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    sides = [gaussian(n, d, seed, dtype) for seed in (1, 2)]
    scalars = [torch.tensor(10.0), torch.tensor(-10.0)]
    return [t.detach().cuda().requires_grad_() for t in (*sides[0], *sides[1], *scalars)]


def _step(name: str, inputs: list[Tensor]) -> list[Tensor]:
    value = LOSSES[name](Gaussian(*inputs[:2]), Gaussian(*inputs[2:4]), *inputs[4:])
    return [value, *torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("name", LOSSES)
def test_captured_in_a_graph_and_replayed_on_new_inputs(name: str) -> None:
    inputs = _inputs(300, 128)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            _step(name, inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _step(name, inputs)
    with torch.no_grad():
        inputs[0].copy_(inputs[0].roll(1, 0))
        inputs[4].fill_(7.0)
    graph.replay()
    for got, want in zip(captured, _step(name, inputs), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", LOSSES)
def test_no_synchronisation_with_the_host(name: str) -> None:
    inputs = _inputs(300, 128)
    _step(name, inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _step(name, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_small_batch_takes_at_most_twelve_launches() -> None:
    inputs = _inputs(256, 1024)
    forward = lambda: ppcl_loss(Gaussian(*inputs[:2]), Gaussian(*inputs[2:4]), *inputs[4:])  # noqa: E731
    forward()
    torch.cuda.synchronize()
    with (
        warnings.catch_warnings(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile,
    ):
        warnings.simplefilter("ignore")
        forward()
        torch.cuda.synchronize()
    launches = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert 0 < len(launches) <= 12, launches


@pytest.mark.parametrize("name", LOSSES)
def test_batch_sizes_share_one_compiled_form(name: str) -> None:
    from triton.runtime.jit import JITFunction

    from prolap_kernels.backends.triton import sigmoid as lift

    kernels = [k for k in vars(lift).values() if isinstance(k, JITFunction)]
    forms = lambda: sum(len(cache[0]) for k in kernels for cache in k.device_caches.values())  # noqa: E731
    _step(name, _inputs(300, 128))
    before = forms()
    for n in (17, 256, 301, 1000):
        _step(name, _inputs(n, 128))
    assert forms() == before


def test_a_large_batch_repeats_bit_for_bit_and_matches_float64_on_a_slice() -> None:
    inputs = _inputs(20_000, 64)
    first, second = _step("ppcl", inputs), _step("ppcl", inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    mx, lx, my, ly, scale, bias = (t.detach().double() for t in inputs)
    part = slice(0, 256)
    spread = lx.exp().sum(1)[part, None] + ly.exp().sum(1)[None]
    logit = scale * (mx[part] @ my.T - 0.5 * spread) + bias
    g = logit.sigmoid()
    g[torch.arange(256), torch.arange(256)] -= 1
    want = scale * (g @ my) / len(mx)
    eager = (scale * (g.bfloat16().double() @ my) / len(mx)).bfloat16()
    assert_as_exact_as([eager], [first[1][part]], [want], terms=likely(len(mx) + 64))
