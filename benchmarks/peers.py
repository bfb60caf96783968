"""Who is measured: ourselves, what a user would write, public packages, and the limit that nobody can beat.

A package is imported only when it is asked for. What it cannot do is data here, so that a row says why it is empty.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels.gaussian import widen
from prolap_kernels.pairs import counted_pairs, positive_pairs
from prolap_kernels.scores import SCORES

from .broadcast import tile_scores
from .cases import START, Batch, Case, ours

Loss = Callable[[Batch], Tensor]
OURS, EAGER, LIMIT = "prolap_kernels", "eager", "limit"


class Peer(NamedTuple):
    """build() -> loss(batch). The empty tuple means all; `bytes` estimates N x M (x D) intermediates, `tile_bytes` those of tiles
    forward and with gradients per N M D (None: no tiles); `lacks` names the leaves that get no gradient; `package` is (import
    name, name in the package index)."""

    name: str
    build: Callable[[], Loss]
    package: tuple[str, str] | None = None
    cases: tuple[tuple[str, str], ...] = ()
    pairs: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    square: bool = False
    lacks: tuple[str, ...] = ()
    bytes: Callable[[int, int, int], int] = lambda n, m, d: 0
    tile_bytes: tuple[int, int] | None = None


def scores(batch: Batch) -> Tensor:
    """The N x M matrix as a careful user writes it: of a lift a product in the dtype of the means, float32 after it; of a tile
    the sum over an N x M x D that broadcasts."""
    rule = SCORES[batch.case.score]
    if rule.lift_x is None:
        return tile_scores(rule, batch.x, batch.y)
    assert rule.lift_x is not None
    assert rule.lift_y is not None
    left, right = rule.lift_x(batch.x), rule.lift_y(batch.y)
    matrix = widen(left.phi @ right.phi.T)
    if left.offset is not None:
        matrix = matrix + left.offset[:, None]
    return matrix if right.offset is None else matrix + right.offset[None, :]


def eager(batch: Batch) -> Tensor:
    """N x M in memory, logsigmoid or log_softmax: the loss in plain torch, dense but exact in its small terms."""
    score = scores(batch)
    return score if batch.case.is_matrix else dense_loss(batch, score)


def dense_loss(batch: Batch, score: Tensor) -> Tensor:
    """The loss of a matrix of scores."""
    n, m = score.shape
    ids = batch.x_id is not None
    x_id = batch.x_id if ids else torch.arange(n, device=score.device)
    y_id = batch.y_id if ids else torch.arange(m, device=score.device)
    positive = positive_pairs(x_id, y_id)
    counted = counted_pairs(x_id, y_id) if ids else None
    if batch.case.objective == "softmax":
        logit = batch.scale * score
        return 0.5 * (
            _rows(logit, positive, counted) + _rows(logit.T, positive.T, None if counted is None else counted.T)
        )
    z = batch.scale * score + batch.bias
    loss = -F.logsigmoid(torch.where(positive, z, -z))
    if batch.case.pairs == "negatives":
        loss = loss.masked_fill(positive, 0)
    if counted is not None:
        loss = loss.masked_fill(~counted, 0)
    return loss.sum() / (n if batch.x_id is None else (batch.x_id >= 0).sum())


def _rows(logit: Tensor, positive: Tensor, counted: Tensor | None) -> Tensor:
    if counted is None and logit.shape[0] == logit.shape[1]:
        return F.cross_entropy(logit, torch.arange(len(logit), device=logit.device))
    hits = positive if counted is None else positive & counted
    masked = logit if counted is None else logit.masked_fill(~counted, torch.finfo(logit.dtype).min)
    count = hits.sum(1)
    row = -masked.log_softmax(1).masked_fill(~hits, 0).sum(1) / count.clamp(min=1)
    return row.sum() / (count > 0).sum().clamp(min=1)


def limit() -> Loss:
    """No loss: the scores and both gradient products by the vendor's library in the same dtype, into memory that it keeps."""
    kept: list[Tensor] = []

    @torch.no_grad()
    def products(batch: Batch) -> Tensor:
        if not kept or kept[0] is not batch.x.mean:
            rule = SCORES[batch.case.score]
            assert rule.lift_x is not None
            assert rule.lift_y is not None
            x, y = rule.lift_x(batch.x).phi.contiguous(), rule.lift_y(batch.y).phi.contiguous()
            kept[:] = [batch.x.mean, x, y, x.new_empty(len(x), len(y)), torch.empty_like(x), torch.empty_like(y)]
        _, x, y, g, dx, dy = kept
        torch.mm(x, y.T, out=g)
        torch.mm(g, y, out=dx)
        torch.mm(g.T, x, out=dy)
        return dx

    return products


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


def _keops() -> Loss:
    return importlib.import_module("benchmarks.keops").loss


_INCLUSION = tuple((s, o) for s in ("inclusion", "inclusion/prolip") for o in ("score", "sigmoid", "softmax"))
_SIGLIP = {"package": ("siglip_kernel", "siglip-kernel"), "cases": (("dot", "sigmoid"),), "pairs": ("diagonal",)}
_CLIP = {"cases": (("dot", "softmax"),), "pairs": ("diagonal",), "devices": ("cuda",), "square": True}
EAGER_TILE, COMPILED_TILE, LITERAL_TILE = (28, 72), (0, 12), (24, 72)
"""Bytes per N M D, forward and with gradients."""
PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURS, ours, tile_bytes=(0, 0)),
        Peer(EAGER, lambda: eager, bytes=lambda n, m, d: 16 * n * m, tile_bytes=EAGER_TILE),
        Peer("torch.compile", _compiled, bytes=lambda n, m, d: 12 * n * m, tile_bytes=COMPILED_TILE),
        Peer("literal", lambda: ours("reference"), bytes=lambda n, m, d: 12 * n * m * d, tile_bytes=LITERAL_TILE),
        Peer("PyKeOps", _keops, package=("pykeops", "pykeops"), cases=_INCLUSION, pairs=("diagonal",), square=True,
             tile_bytes=(0, 0)),
        Peer("siglip-kernel", lambda: _siglip_kernel("auto"), devices=("cuda",), square=True, **_SIGLIP),
        Peer("siglip-kernel fp8", lambda: _siglip_kernel("chunked_bf16_fp8"), devices=("cuda",), square=True, **_SIGLIP),
        Peer("siglip-kernel pipelined", lambda: _siglip_kernel("chunked_bf16_pipelined"), devices=("cuda",), square=True,
             **_SIGLIP),
        Peer("memeff", _memeff, package=("memeff", "memeff"), lacks=("scale",), **_CLIP),
        Peer("inf-cl", _inf_cl, package=("inf_cl", "inf-cl"), **_CLIP),
        Peer(LIMIT, limit, bytes=lambda n, m, d: 4 * n * m),
    )
}  # fmt: skip
"""siglip-kernel's `chunked_epilogue` and `hopper` are left out: its own documentation has them slower on Hopper in 16 bits."""


def refusal(peer: Peer, case: Case, shape: tuple[int, int, int], device: str) -> str | None:
    """Why this peer has no figure for this case; None if it should have one."""
    if peer.devices and device not in peer.devices:
        return f"runs on {', '.join(peer.devices)} only"
    if peer.package and importlib.util.find_spec(peer.package[0]) is None:
        return f"not installed (pip install {peer.package[1]})"
    if peer.cases and (case.score, case.objective) not in peer.cases:
        return "computes " + ", ".join("-".join(pair) for pair in peer.cases) + " only"
    if case.is_tile and peer.tile_bytes is None:
        return "takes scores that are matrix products only"
    if peer.pairs and case.pairs not in peer.pairs:
        return f"has {', '.join(peer.pairs)} pairs only"
    if peer.square and shape[0] != shape[1]:
        return f"takes square batches only, got {shape[0]} x {shape[1]}"
    need, free = bytes_needed(peer, case, shape), _free(device)
    if need > 0.9 * free:
        return f"would take about {need / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
    return None


def bytes_needed(peer: Peer, case: Case, shape: tuple[int, int, int]) -> int:
    if not case.is_tile:
        return peer.bytes(*shape)
    assert peer.tile_bytes is not None
    return math.prod(shape) * peer.tile_bytes[not case.forward]


def _free(device: str) -> int:
    if device == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
