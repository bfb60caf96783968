"""Who is measured: ourselves, what a user would write, public packages, and the limit that nobody can beat.

A package is imported only when it is asked for. What it cannot do is data here, so that a row says why it is empty.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from prolap_kernels import Gaussian
from prolap_kernels.gaussian import widen
from prolap_kernels.pairs import counted_pairs, positive_pairs
from prolap_kernels.scores import CONVENTIONS, SCORES, Score

from .cases import DIAGONAL, NEGATIVES, START, Batch, Case, Loss, Shape, ours
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


def eager(batch: Batch) -> Tensor:
    """N x M in memory, logsigmoid or log_softmax: the loss in plain torch, dense but exact in its small terms."""
    score = scores(batch)
    return score if batch.case.is_matrix else dense_loss(batch, score)


def scores(batch: Batch) -> Tensor:
    """The N x M matrix as a careful user writes it: a matrix product in the dtype of the means, float32 after it; of an
    elementwise score the sum over an N x M x D that broadcasts."""
    score = SCORES[batch.case.score]
    if score.factor_x is None or score.factor_y is None:
        return elementwise_scores(score, batch.x, batch.y)
    left, right = score.factor_x(batch.x), score.factor_y(batch.y)
    matrix = widen(left.phi @ right.phi.T)
    if left.offset is not None:
        matrix = matrix + left.offset[:, None]
    return matrix if right.offset is None else matrix + right.offset[None, :]


def elementwise_scores(score: Score, x: Gaussian, y: Gaussian) -> Tensor:
    """s_ij = sum_d f(x_id, y_jd), [N, M]: the formula of this package's engine, exponentials taken of the rows, gradients by
    autograd."""
    function = score.elementwise
    assert function is not None
    x, y = (Gaussian(function.mean_scale * widen(z.mean), widen(z.logvar)) for z in (x, y))
    left = [part[:, None] for part in _three(function.parts_x(*x))]
    right = [part[None] for part in _three(function.parts_y(*y))]
    matrix: Tensor = function.value(*left, *right).sum(-1)
    if (
        function.logvar_x and function.logvar_x == -function.logvar_y
    ):  # their difference keeps digits that two sums would not
        gap = y.logvar.double().sum(1) - x.logvar.double().sum(1)[:, None]
        return matrix + function.logvar_y * gap.to(matrix.dtype)
    if function.logvar_x or function.logvar_y:
        matrix = matrix + function.logvar_x * x.logvar.sum(1)[:, None] + function.logvar_y * y.logvar.sum(1)
    return matrix


def _three(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (*parts, parts[0], parts[0])[:3]


def dense_loss(batch: Batch, score: Tensor) -> Tensor:
    """The loss of a matrix of scores."""
    n, m = score.shape
    ids = batch.x_id is not None
    x_id = batch.x_id if ids else torch.arange(n, device=score.device)
    y_id = batch.y_id if ids else torch.arange(m, device=score.device)
    positive = positive_pairs(x_id, y_id)
    counted = counted_pairs(x_id, y_id) if ids else None
    if batch.case.objective == "softmax":
        logit, turned = batch.scale * score, None if counted is None else counted.T
        return 0.5 * (_cross_entropy(logit, positive, counted) + _cross_entropy(logit.T, positive.T, turned))
    logit = batch.scale * score + batch.bias
    loss = -F.logsigmoid(torch.where(positive, logit, -logit))
    if batch.case.pairs == NEGATIVES:
        loss = loss.masked_fill(positive, 0)
    if counted is not None:
        loss = loss.masked_fill(~counted, 0)
    return loss.sum() / (n if batch.x_id is None else (batch.x_id >= 0).sum())


def _cross_entropy(logit: Tensor, positive: Tensor, counted: Tensor | None) -> Tensor:
    """Over rows."""
    if counted is None and logit.shape[0] == logit.shape[1]:
        return F.cross_entropy(logit, torch.arange(len(logit), device=logit.device))
    targets = positive if counted is None else positive & counted
    masked = logit if counted is None else logit.masked_fill(~counted, torch.finfo(logit.dtype).min)
    count = targets.sum(1)
    row = -masked.log_softmax(1).masked_fill(~targets, 0).sum(1) / count.clamp(min=1)
    return row.sum() / (count > 0).sum().clamp(min=1)


def limit() -> Loss:
    """No loss: the scores and both gradient products by the vendor's library in the same dtype, into memory that it keeps."""
    kept: list[Tensor] = []

    @torch.no_grad()
    def products(batch: Batch) -> Tensor:
        if not kept or kept[0] is not batch.x.mean:
            score = SCORES[batch.case.score]
            assert score.factor_x is not None
            assert score.factor_y is not None
            x, y = score.factor_x(batch.x).phi.contiguous(), score.factor_y(batch.y).phi.contiguous()
            kept[:] = [batch.x.mean, x, y, x.new_empty(len(x), len(y)), torch.empty_like(x), torch.empty_like(y)]
        _, x, y, g, dx, dy = kept
        torch.mm(x, y.T, out=g)
        torch.mm(g, y, out=dx)
        torch.mm(g.T, x, out=dy)
        return dx

    return products


def keops() -> Loss:
    """Inclusion with PyKeOps: the same terms, summed over the dimensions inside its formula, gradients by its own autograd.

    Of the forms tried this is its quickest: its gradients compute shared parts again, which makes a reciprocal square root with a
    polynomial many times as slow. It has no N x M matrix to give: of a matrix it returns the weighted sum of every row, [N].
    """
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)

    def left(value: Tensor) -> Any:
        return LazyTensor(value.contiguous()[:, None])

    def right(value: Tensor) -> Any:
        return LazyTensor(value.contiguous()[None])

    def loss(batch: Batch) -> Tensor:
        """Rows of the weighted matrix, or the loss with the diagonal as positives."""
        kappa, rho = CONVENTIONS["prolip" if batch.case.score.endswith("prolip") else "exact"]
        x, y = (Gaussian(widen(z.mean), widen(z.logvar)) for z in (batch.x, batch.y))
        gap = (left(x.mean) - right(y.mean)).square()
        score = _inclusion(left(x.var), right(y.var), gap, rho).sum(-1)
        score = score + kappa * (right(y.logvar.sum(1, keepdim=True)) - left(x.logvar.sum(1, keepdim=True)))
        if batch.case.is_matrix:
            assert batch.weights is not None
            return ((left(batch.weights.left) * right(batch.weights.right)).sum(-1) * score).sum(1).squeeze(1)
        diagonal = _inclusion(x.var, y.var, (x.mean - y.mean).square(), rho) + kappa * (y.logvar - x.logvar)
        logit, positives = LazyTensor(batch.scale.view(1)) * score, batch.scale * diagonal.sum(1)
        if batch.case.objective == "softmax":
            rows, columns = (logit.logsumexp(dim).squeeze(1) for dim in (1, 0))
            return 0.5 * (rows + columns).mean() - positives.mean()
        assert batch.bias is not None
        logit, positives = logit + LazyTensor(batch.bias.view(1)), positives + batch.bias
        every = (logit.relu() + (1 + (-logit.abs()).exp()).log()).sum(1)
        return (every.sum() - positives.sum()) / len(positives)  # softplus(-z) = softplus(z) - z

    return loss


def _inclusion(vx: Any, vy: Any, gap: Any, rho: float) -> Any:
    """h = rho (mx - my)^2 (vy - vx)/(wx wy) + log(wx/wy)/2, wx = 2 vx + vy, wy = vx + 2 vy, per dimension; kappa (ly - lx) is a
    term of the rows. For LazyTensors and tensors."""
    wide_x, wide_y = 2 * vx + vy, vx + 2 * vy
    return rho * gap * (vy - vx) / (wide_x * wide_y) + 0.5 * (wide_x / wide_y).log()


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
        Peer(EAGER, lambda: eager, bytes=lambda n, m, d: 16 * n * m, element_bytes=(36, 72)),
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
