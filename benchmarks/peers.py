"""Who is measured: ourselves, what a user would write, public packages, and the limit that nobody can beat.

A package is imported only when it is asked for. What it cannot do is data here, so that a row says why it is empty.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .cases import DIAGONAL, START, Batch, Case, Loss, Shape, ours
from .eager import eager, keops, limit
from .measure import free_bytes

OURS, EAGER, LIMIT = "prolap_kernels", "eager", "limit"


class Peer(NamedTuple):
    """build() -> loss(batch). The empty tuple means all; `bytes` estimates N x M (x D) intermediates, `element_bytes` those of
    elementwise scores forward and with gradients per N M D (None: it has none); `lacks` names the leaves that get no gradient;
    `package` is (import name, name in the package index)."""

    name: str
    build: Callable[[], Loss]
    package: tuple[str, str] | None = None
    cases: tuple[tuple[str, str], ...] = ()
    pairs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    square: bool = False
    lacks: tuple[str, ...] = ()
    bytes: Callable[[int, int, int], int] = lambda n, m, d: 0
    element_bytes: tuple[int, int] | None = None


def _siglip_kernel(backend: str) -> Loss:
    fused = importlib.import_module("siglip_kernel").fused_siglip_loss
    return lambda b: fused(b.x.mean, b.y.mean, b.scale.log(), b.bias, backend=backend)


def _memeff() -> Loss:
    # its temperature is a number; stable=True would change the gradients' scale
    module = importlib.import_module("memeff").MemoryEfficientCLIPLoss(
        temperature=1 / START["dot"][0], normalized_inputs=True, stable=False
    )
    return lambda b: module(b.x.mean, b.y.mean)


def _inf_cl() -> Loss:
    flash = importlib.import_module("inf_cl").cal_flash_loss

    def loss(b: Batch) -> Tensor:
        x, y, head = b.x.mean, b.y.mean, next(h for h in (256, 128, 64, 32, 16, 1) if b.x.mean.shape[1] % h == 0)
        one_way = partial(flash, scale=b.scale, head_dim=head)
        return 0.5 * (one_way(x, y).mean() + one_way(y, x).mean())

    return loss


def _compiled() -> Loss:
    """For its shape alone; what an earlier case left in Dynamo's cache would make it compile for any."""
    torch.compiler.reset()
    return torch.compile(eager, dynamic=False)


_INCLUSION = tuple((s, o) for s in ("inclusion", "inclusion/prolip") for o in ("score", "sigmoid", "softmax"))
_SIGLIP = {"package": ("siglip_kernel", "siglip-kernel"), "cases": (("dot", "sigmoid"),), "pairs": (DIAGONAL,),
           "devices": ("cuda",), "square": True}  # fmt: skip
_CLIP = {"cases": (("dot", "softmax"),), "pairs": (DIAGONAL,), "devices": ("cuda",), "square": True}
PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURS, ours, element_bytes=(0, 0)),
        Peer(EAGER, lambda: eager, bytes=lambda n, m, d: 16 * n * m, element_bytes=(28, 72)),
        Peer("torch.compile", _compiled, bytes=lambda n, m, d: 12 * n * m, element_bytes=(0, 12)),
        Peer("literal", lambda: ours("reference"), bytes=lambda n, m, d: 12 * n * m * d, element_bytes=(24, 72)),
        Peer("PyKeOps", keops, package=("pykeops", "pykeops"), cases=_INCLUSION, pairs=(DIAGONAL,), square=True,
             element_bytes=(0, 0)),
        Peer("siglip-kernel", lambda: _siglip_kernel("auto"), **_SIGLIP),
        Peer("siglip-kernel fp8", lambda: _siglip_kernel("chunked_bf16_fp8"), **_SIGLIP),
        Peer("siglip-kernel pipelined", lambda: _siglip_kernel("chunked_bf16_pipelined"), **_SIGLIP),
        Peer("memeff", _memeff, package=("memeff", "memeff"), lacks=("scale",), **_CLIP),
        Peer("inf-cl", _inf_cl, package=("inf_cl", "inf-cl"), **_CLIP),
        Peer(LIMIT, limit, bytes=lambda n, m, d: 4 * n * m),
    )
}  # fmt: skip
"""siglip-kernel's `chunked_epilogue` and `hopper` are left out: its own documentation has them slower on Hopper in 16 bits."""


def refusal(peer: Peer, case: Case, shape: Shape, device: str) -> str | None:
    """Why this peer has no figure for this case; None if it should have one."""
    if peer.devices and device not in peer.devices:
        return f"runs on {', '.join(peer.devices)} only"
    if peer.package and importlib.util.find_spec(peer.package[0]) is None:
        return f"not installed (pip install {peer.package[1]})"
    if peer.cases and (case.score, case.objective) not in peer.cases:
        return "computes " + ", ".join("-".join(pair) for pair in peer.cases) + " only"
    if case.is_elementwise and peer.element_bytes is None:
        return "takes scores that are matrix products only"
    if peer.pairs and case.pairs not in peer.pairs:
        return f"has {', '.join(peer.pairs)} pairs only"
    if peer.square and shape[0] != shape[1]:
        return f"takes square batches only, got {shape[0]} x {shape[1]}"
    need, free = bytes_needed(peer, case, shape), free_bytes(device)
    if need > 0.9 * free:
        return f"would take about {need / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    return None


def bytes_needed(peer: Peer, case: Case, shape: Shape) -> int:
    """About the bytes of intermediates."""
    if not case.is_elementwise:
        return peer.bytes(*shape)
    assert peer.element_bytes is not None
    return math.prod(shape) * peer.element_bytes[not case.forward]
