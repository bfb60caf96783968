"""Random calls of every public function of prolap_kernels and compat, drawn and shrunk by hypothesis.

Right arguments: shapes (empty ones, and such that programs are compiled), dtypes, strides, pair ids, options, on every backend;
values and gradients err at most twice as much as dense eager torch, and the roundings of their sums more, against float64.
Wrong arguments: a ValueError or TypeError that names the argument.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

import prolap_kernels as pk
from prolap_kernels import Gaussian, Inclusion, Vib, compat
from prolap_kernels.scores import BILINEAR, ELEMENTWISE
from tests.campaign.common import Broken, Campaign
from tests.tolerances import assert_as_exact_as, likely

EXAMPLES = 50
"""Calls of a seed."""
FLOATS = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
IDS = (torch.int64, torch.int64, torch.int32, torch.int16, torch.int8)
SCORES = [score.name for score in BILINEAR] + [score.name for score in ELEMENTWISE if "/" not in score.name]
LARGE = {"pairs": (1030, 1024, 4), "elementwise": (512, 520, 64), "rows": (4096, 4096, 48)}
"""Sizes above those at which the chunked backend compiles programs."""
LARGE_ONE_IN = 200
SMALL = 256
"""Rows of the largest call that is not one of these."""
Draw = Callable[[st.SearchStrategy[Any]], Any]


class Call(NamedTuple):
    """A call with right arguments, as a function of the tensors that it is differentiated by."""

    name: str
    tensors: list[Tensor]
    run: Callable[[list[Tensor], str | None], Sequence[Tensor]]
    """(tensors, backend) -> floating-point outputs."""
    backend: str | None
    terms: float
    """Of the longest sum, times the size of its terms beside the result."""
    truth: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
    """The outputs by a plain formula; by default the call on the reference backend."""


class Shape(NamedTuple):
    n: int
    m: int
    d: int

    @property
    def terms(self) -> float:
        return likely(self.n + self.m + self.d)


def shape(draw: Draw, backend: str | None, large: bool, kind: str = "pairs", least: int = 0) -> Shape:
    # a number in the middle, since the ends of a range are tried first
    if large and backend != "triton" and draw(st.integers(0, LARGE_ONE_IN)) == LARGE_ONE_IN // 3:
        return Shape(*LARGE[kind])
    most = 9 if backend == "triton" else 24
    sizes = st.integers(least, most)
    return Shape(draw(sizes), draw(sizes), draw(st.integers(1, most)))


def layout(draw: Draw) -> Callable[[Tensor], Tensor]:
    """How a tensor [N, D] lies in memory; the values stay the same."""

    def strided(t: Tensor) -> Tensor:
        wide = t.new_zeros(t.shape[0], 2 * t.shape[1] + 1)
        wide[:, 1::2] = t
        return wide[:, 1::2]

    ways: list[Callable[[Tensor], Tensor]] = [
        lambda t: t,
        lambda t: t.t().contiguous().t(),
        strided,
        lambda t: torch.cat([t[:0], t.new_zeros(3, t.shape[1]), t])[3:],
    ]
    return ways[draw(st.integers(0, len(ways) - 1))]


def gaussian(draw: Draw, n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 16)))
    mean = torch.randn(n, d, generator=generator, dtype=torch.float64)
    mean = torch.nn.functional.normalize(mean, dim=-1) * draw(st.sampled_from([1.0, 0.1, 3.0, 0.0]))
    logvar = draw(st.sampled_from([-1.0, -4.0, 1.0])) + 0.5 * torch.randn(
        n, d, generator=generator, dtype=torch.float64
    )
    wide = draw(st.sampled_from([torch.float32, dtype])) if dtype.itemsize == 2 else dtype
    return [mean.to(dtype).requires_grad_(), logvar.to(wide).requires_grad_()]


def scalar(draw: Draw, values: Sequence[float], dtype: torch.dtype) -> Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(draw(st.sampled_from(values)), dtype=wide, requires_grad=True)


def size_of(tensors: Sequence[Tensor], scale: float = 1.0, bias: float = 0.0) -> float:
    """How large the terms of a logit may be: means and variances of all its Gaussians, and distances over variances."""
    means, logvars = (list(tensors[k::2]) for k in (0, 1))
    squares = max((float(m.detach().double().square().sum(1).max()) for m in means if m.numel()), default=0.0)
    widths = max((float(v.detach().double().exp().sum(1).max()) for v in logvars if v.numel()), default=0.0)
    narrow = max((float((-v.detach().double()).exp().max()) for v in logvars if v.numel()), default=1.0)
    logs = max((float(v.detach().double().abs().sum(1).max()) for v in logvars if v.numel()), default=0.0)
    return max(1.0, scale * (squares * max(1.0, narrow) + widths * max(1.0, narrow) + logs) + abs(bias))


def pair_ids(draw: Draw, n: int, m: int) -> tuple[Tensor | None, Tensor | None]:
    if not draw(st.booleans()):
        return None, None
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 16)))
    low = draw(st.sampled_from([-1, 0]))
    high = draw(st.sampled_from([1, 3, 100]))
    x_id, y_id = (torch.randint(low, high, (k,), generator=generator).to(draw(st.sampled_from(IDS))) for k in (n, m))
    return x_id, y_id


def backend_of(draw: Draw) -> str | None:
    return draw(st.sampled_from(["chunked", "chunked", "triton", None]))


def dtype_of(draw: Draw, backend: str | None) -> torch.dtype:
    kinds = [kind for kind in FLOATS if backend != "triton" or kind != torch.float64]
    return draw(st.sampled_from(kinds))


# calls with right arguments, a function for each public function


def loss_call(draw: Draw, large: bool) -> Call:
    backend = backend_of(draw)
    dtype = dtype_of(draw, backend)
    score = draw(st.sampled_from(SCORES))
    elementwise = pk.SCORES[score].elementwise is not None
    objective = draw(st.sampled_from(list(pk.OBJECTIVES)))
    averages = pk.OBJECTIVES[objective].averages
    at = shape(draw, backend, large, "elementwise" if elementwise else "pairs")
    tensors = [*gaussian(draw, at.n, at.d, dtype), *gaussian(draw, at.m, at.d, dtype)]
    x_id, y_id = pair_ids(draw, at.n, at.m)
    options: dict[str, Any] = {"score": score, "objective": objective, "x_id": x_id, "y_id": y_id}
    options["precision"] = "ieee"
    scale = scalar(draw, [1.0, 5.0, 0.1, -2.0], dtype)
    bias = scalar(draw, [0.0, -5.0, 2.0], dtype)
    if not averages:
        options["reduction"] = draw(st.sampled_from(["rows", "pairs", "sum", "none"]))
        options["negatives_only"] = draw(st.booleans())
    if score == "inclusion" and draw(st.booleans()):
        options["convention"] = "prolip"
    options["stats"] = draw(st.booleans())
    lay = [layout(draw) for _ in range(4)]

    def run(t: list[Tensor], where: str | None) -> Sequence[Tensor]:
        mx, lx, my, ly = (way(part) for way, part in zip(lay, t, strict=False))
        shift: Any = t[5] if not averages else 0.0
        value = pk.pairwise_loss(Gaussian(mx, lx), Gaussian(my, ly), scale=t[4], bias=shift, backend=where, **options)
        return [value] if not options["stats"] else [value[0]]

    size = size_of(tensors, abs(float(scale.detach())), float(bias.detach()))
    return Call("pairwise_loss", [*tensors, scale, bias], run, backend, at.terms * size)


def named_loss(draw: Draw, large: bool) -> Call:
    name = draw(st.sampled_from(["ppcl_loss", "mask_repulsive_loss", "infonce_loss"]))
    backend = backend_of(draw)
    dtype = dtype_of(draw, backend)
    at = shape(draw, backend, large)
    tensors = [*gaussian(draw, at.n, at.d, dtype), *gaussian(draw, at.m, at.d, dtype)]
    ids = pair_ids(draw, at.n, at.m)
    scale, bias = scalar(draw, [1.0, 5.0, 0.1], dtype), scalar(draw, [0.0, -5.0, 2.0], dtype)
    names = ("masked_id", "other_id") if name == "mask_repulsive_loss" else ("x_id", "y_id")
    options: dict[str, Any] = dict(zip(names, ids, strict=True))
    lay = [layout(draw) for _ in range(4)]

    def run(t: list[Tensor], where: str | None) -> Sequence[Tensor]:
        mx, lx, my, ly = (way(part) for way, part in zip(lay, t, strict=False))
        shift = [] if name == "infonce_loss" else [t[5]]
        return [getattr(pk, name)(Gaussian(mx, lx), Gaussian(my, ly), t[4], *shift, backend=where, **options)]

    size = size_of(tensors, float(scale.detach()), float(bias.detach()))
    return Call(name, [*tensors, scale, bias], run, backend, at.terms * size)


def matrix_call(draw: Draw, large: bool) -> Call:
    backend = backend_of(draw)
    dtype = dtype_of(draw, backend)
    score = draw(st.sampled_from(SCORES))
    elementwise = pk.SCORES[score].elementwise is not None
    at = shape(draw, backend, large, "elementwise" if elementwise else "pairs")
    tensors = [*gaussian(draw, at.n, at.d, dtype), *gaussian(draw, at.m, at.d, dtype)]
    lay = [layout(draw) for _ in range(4)]

    def run(t: list[Tensor], where: str | None) -> Sequence[Tensor]:
        mx, lx, my, ly = (way(part) for way, part in zip(lay, t, strict=True))
        return [pk.pairwise_score(Gaussian(mx, lx), Gaussian(my, ly), score=score, backend=where)]

    return Call("pairwise_score", tensors, run, backend, at.terms * size_of(tensors))


def matched_call(draw: Draw, large: bool) -> Call:
    name = draw(
        st.sampled_from(
            ["inclusion_score", "inclusion_loss", "hierarchical_inclusion_loss", "vib_loss", "matched_losses"]
        )
    )
    backend = backend_of(draw)
    dtype = dtype_of(draw, backend)
    at = shape(draw, backend, large, "rows")
    count = {"vib_loss": 1, "inclusion_score": 2, "inclusion_loss": 2}.get(name) or draw(st.integers(2, 4))
    tensors = [part for _ in range(count) for part in gaussian(draw, at.n, at.d, dtype)]
    lay = [layout(draw) for _ in tensors]
    convention = draw(st.sampled_from(["exact", "prolip"]))
    scale = draw(st.sampled_from([1.0, 0.1, 10.0]))
    reduce_dims = draw(st.sampled_from(["sum", "mean", "none"]))
    valid = None
    if draw(st.booleans()):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 16)))
        valid = torch.rand(count - 1, at.n, generator=generator) < draw(st.sampled_from([0.5, 0.0, 1.0]))
    chain = Inclusion(range(count), scale, convention, reduce_dims, valid, draw(st.booleans()))
    terms = [chain, Vib(draw(st.integers(0, count - 1)), convention)]

    def run(t: list[Tensor], where: str | None) -> Sequence[Tensor]:
        parts = [way(part) for way, part in zip(lay, t, strict=True)]
        levels = [Gaussian(*parts[k : k + 2]) for k in range(0, len(parts), 2)]
        if name == "inclusion_score":
            return [pk.inclusion_score(*levels, convention=convention, backend=where)]
        if name == "vib_loss":
            return [pk.vib_loss(levels[0], convention=convention, backend=where)]
        options: dict[str, Any] = {"scale": scale, "convention": convention, "reduce_dims": reduce_dims}
        if name == "inclusion_loss":
            return [pk.inclusion_loss(*levels, **options, backend=where)]
        if name == "matched_losses":
            return list(pk.matched_losses(levels, terms, backend=where))
        return [pk.hierarchical_inclusion_loss(levels, link_valid=valid, **options, backend=where)]

    return Call(name, tensors, run, backend, likely(at.n + at.d) * size_of(tensors, scale))


def module_call(draw: Draw, large: bool) -> Call:
    at = shape(draw, None, False, least=1)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    tensors = [*gaussian(draw, at.n, at.d, dtype), *gaussian(draw, at.m, at.d, dtype)]
    x_id, y_id = pair_ids(draw, at.n, at.m)
    name = draw(st.sampled_from(["PPCLLoss", "InfoNCELoss"]))
    scale, bias = draw(st.sampled_from([10.0, 1.0])), draw(st.sampled_from([-10.0, 0.0]))

    def sides(t: list[Tensor]) -> tuple[Gaussian, Gaussian]:
        return Gaussian(*t[:2]), Gaussian(*t[2:])

    def run(t: list[Tensor], where: str | None) -> Sequence[Tensor]:
        module = pk.PPCLLoss(scale, bias) if name == "PPCLLoss" else pk.InfoNCELoss(scale)
        return [module.to(t[0].dtype)(*sides(t), x_id, y_id)]

    def truth(t: list[Tensor]) -> Sequence[Tensor]:
        # the parameters are rounded to float32 when the module is made
        log = float(torch.tensor(scale, dtype=torch.float64).log().float())
        options: dict[str, Any] = {
            "x_id": x_id,
            "y_id": y_id,
            "backend": "reference",
            "scale": torch.tensor(log).double().exp(),
        }
        if name == "InfoNCELoss":
            return [pk.pairwise_loss(*sides(t), score="dot", objective="softmax", **options)]
        return [pk.pairwise_loss(*sides(t), bias=bias, **options)]

    return Call(name, tensors, run, None, at.terms * size_of(tensors, scale, bias), truth)


def compat_call(draw: Draw, large: bool) -> Call:
    """The drop-in losses against their formulas on the reference backend."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    tensors = [*gaussian(draw, n, d, dtype), *gaussian(draw, n, d, dtype)]
    weight = draw(st.sampled_from([0.0, 0.5]))
    name = draw(st.sampled_from(["ProLIPLoss", "ClosedFormSampledDistanceLoss"]))
    distance = draw(st.sampled_from(["csd", "wdist"]))
    scale, bias = draw(st.sampled_from([5.0, 1.0])), draw(st.sampled_from([-5.0, 1.0]))

    def features(t: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{"mean": t[k], "std": t[k + 1]} for k in (0, 2)]

    def run(t: list[Tensor], where: str | None) -> Sequence[Tensor]:
        if name == "ProLIPLoss":
            loss: Any = compat.ProLIPLoss(inclusion_alpha=weight, inclusion_loss_scale=2.0, vib_beta=weight)
            return [loss(*features(t), scale, bias)]
        loss = compat.ClosedFormSampledDistanceLoss(scale, scale, vib_beta=weight, prob_distance=distance)
        return [loss.to(t[0].dtype)(*features(t))[0]]

    def truth(t: list[Tensor]) -> Sequence[Tensor]:
        (mx, lx), (my, ly) = t[:2], t[2:]
        eye = torch.eye(n, dtype=mx.dtype)
        kl = [-0.5 * (1 + half * v - m.square() - (half * v).exp()).mean() for m, v, half in
              ((mx, lx, 0.5 if name == "ProLIPLoss" else 1.0), (my, ly, 0.5 if name == "ProLIPLoss" else 1.0))]  # fmt: skip
        if name == "ProLIPLoss":
            s = mx @ my.T - 0.5 * lx.exp().sum(1)[:, None] - 0.5 * ly.exp().sum(1)
            logit = scale * s + bias
            value = -torch.nn.functional.logsigmoid((2 * eye - 1) * logit).sum() / n
            if weight:
                h = pk.SCORES["inclusion/prolip"].formula(Gaussian(mx, lx), Gaussian(my, ly))
                value = value - weight * torch.nn.functional.logsigmoid(2.0 * h).mean()
            return [value + weight * sum(kl)]
        gap = (mx[:, None] - my).square().sum(-1)
        wide = (
            (lx.exp()[:, None] + ly.exp()) if distance == "csd" else ((lx / 2).exp()[:, None] - (ly / 2).exp()).square()
        )
        logit = scale - scale * (gap + wide.sum(-1))
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logit, eye)
        return [2 * bce + weight * sum(kl)]

    return Call(name, tensors, run, None, likely(2 * n + d) * size_of(tensors, max(scale, 2.0), bias), truth)


RIGHT = (loss_call, loss_call, named_loss, matrix_call, matched_call, matched_call, module_call, compat_call)


def value_and_gradients(
    outputs: Sequence[Tensor], tensors: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """The outputs, and the gradients of their sum weighted by numbers that are no constants."""
    total = sum((o.double() * w.to(o.device)).sum() for o, w in zip(outputs, weights, strict=True))
    grads = torch.autograd.grad(total, list(tensors), allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
    return [o.detach() for o in outputs] + list(grads)


def check_right(call: Call) -> None:
    plain = call.truth or (lambda t: call.run(t, "reference"))
    exact = [t.detach().double().requires_grad_() for t in call.tensors]
    outputs = plain(exact)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(o.shape, generator=generator, dtype=torch.float64) + 0.5 for o in outputs]
    truth = value_and_gradients(outputs, exact, weights)
    got = value_and_gradients(call.run(call.tensors, call.backend), call.tensors, weights)
    for value, right in zip(got, truth, strict=True):
        assert value.shape == right.shape, f"{call.name}: the shape {list(value.shape)}, want {list(right.shape)}"
    leaves = [t.detach().requires_grad_() for t in call.tensors]
    eager = value_and_gradients(plain(leaves), leaves, weights)
    dtype = call.tensors[0].dtype
    scales = [max(float(t.detach().norm()) for t in truth)] * len(truth)
    try:
        assert_as_exact_as(eager, got, truth, terms=call.terms, inner=dtype, result=dtype, scales=scales)
    except AssertionError as error:
        raise AssertionError(f"{call.name} on {call.backend}, {dtype}: {error}") from error


def search_call(draw: Draw) -> None:
    """Top-k, rerank and blocks against the whole matrix in float64."""
    name = draw(st.sampled_from(["pairwise_topk", "pairwise_rerank", "score_blocks"]))
    at = shape(draw, None, False, least=0 if name == "score_blocks" else 1)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    x, y = Gaussian(*gaussian(draw, at.n, at.d, dtype)), Gaussian(*gaussian(draw, at.m, at.d, dtype))
    score = draw(st.sampled_from(SCORES))
    workspace = draw(st.sampled_from([None, 1, 1000, 100_000]))
    precise = draw(st.booleans())
    wide = [Gaussian(z.mean.detach().double(), z.logvar.detach().double()) for z in (x, y)]
    matrix = pk.pairwise_score(*wide, score=score, backend="reference")
    inner = torch.float32 if precise and name != "pairwise_rerank" else torch.promote_types(dtype, torch.float32)
    allowed = (
        4
        * torch.finfo(inner).eps
        * at.terms
        * size_of([*x, *y])
        * max(1.0, float(matrix.abs().max()) if matrix.numel() else 1)
    )
    if name == "score_blocks":
        out = torch.full((at.n, at.m), float("nan"), dtype=torch.float64)
        for rows, columns, block in pk.score_blocks(x, y, score=score, precise=precise, workspace=workspace):
            out[rows, columns] = block.double()
        assert bool(((out - matrix).abs() <= allowed).all()), (
            f"{name}: {float((out - matrix).abs().max())}, {allowed} allowed"
        )
        return
    k = draw(st.integers(1, at.m))
    if name == "pairwise_topk":
        values, indices = pk.pairwise_topk(x, y, k, score=score, precise=precise, workspace=workspace)
        best = matrix.topk(k, dim=1).values
        assert bool(((values - best).abs() <= allowed).all()), f"{name}: not the {k} best"
    else:
        values, indices = pk.pairwise_rerank(x, y, k, score=score, workspace=workspace)
    assert bool(((values.double() - matrix.gather(1, indices)).abs() <= allowed).all()), (
        f"{name}: values of other pairs"
    )
    assert bool((values[:, 1:] <= values[:, :-1]).all()), f"{name}: not in order"
    assert all(len(set(row)) == k for row in indices.tolist()), f"{name}: a row twice"


# calls with wrong arguments


def _side(n: int = 3, d: int = 4, dtype: torch.dtype = torch.float32) -> Gaussian:
    return Gaussian(torch.zeros(n, d, dtype=dtype), torch.zeros(n, d, dtype=dtype))


BAD_SIDES: tuple[Any, ...] = (
    None, 3, "x", [1.0], {}, object(), (1, 2), Gaussian(torch.zeros(4), torch.zeros(4)),
    Gaussian(torch.zeros(3, 4, 1), torch.zeros(3, 4, 1)), Gaussian(torch.zeros(3, 4), torch.zeros(3, 5)),
    Gaussian(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4)), Gaussian(torch.zeros(3, 4), torch.zeros(3, 4).bool()),
    Gaussian(torch.zeros(3, 4, dtype=torch.complex64), torch.zeros(3, 4)),
    Gaussian(torch.zeros(3, 4).to_sparse(), torch.zeros(3, 4)), Gaussian(torch.zeros(3, 4), None), Gaussian(None, None),
    Gaussian(torch.zeros(3, 0), torch.zeros(3, 0)), Gaussian(torch.zeros(3, 4), torch.zeros(3, 4).to_sparse()),
)  # fmt: skip
BAD_NAMES: tuple[Any, ...] = ("dott", "", None, 3, ["dot"], {"dot"}, {}, object(), torch.zeros(1), b"dot", True)
BAD_NUMBERS: tuple[Any, ...] = (
    "2",
    None,
    1j,
    10**400,
    [1.0],
    {},
    object(),
    torch.ones(2),
    torch.ones(0),
    torch.tensor(1j),
)
BAD_FLAGS: tuple[Any, ...] = ("x", None, 2, [], torch.zeros(2), object())
BAD_IDS: tuple[Any, ...] = (
    [0, 1, 2], "ids", 3, torch.zeros(3), torch.zeros(2).long(), torch.zeros(3, 1).long(), torch.zeros(3).bool(), object(),
    torch.zeros(3, dtype=torch.complex64), torch.tensor([0, 1, 2]).to_sparse(),
)  # fmt: skip
BAD_BACKENDS: tuple[Any, ...] = ("cuda", "", 3, ["chunked"], {}, object(), True)
BAD_COUNTS: tuple[Any, ...] = (0, -1, 4, 1.5, "1", None, True, [1], 10**30)
BAD_SIZES: tuple[Any, ...] = ("1", 1.5, [], float("nan"), object())
BAD_LEVELS: tuple[Any, ...] = (None, 3, [], "levels", [3], [None, None], object())
BAD_TERMS: tuple[Any, ...] = (
    None, 3, [], [3], ["vib"], [Vib(7)], [Vib(-1)], [Vib("0")], [Vib(0, "exakt")], [Vib(0, ["exact"])],
    [Inclusion([0])], [Inclusion([0, 0])], [Inclusion(3)], [Inclusion([0, 9])], [Inclusion([0, 1], "1")],
    [Inclusion([0, 1], 1.0, "exakt")], [Inclusion([0, 1], 1.0, "exact", "max")], [Inclusion([0, 1], valid=True)],
    [Inclusion([0, 1], 10**400)], [Inclusion([0, 1], 1.0, {})],
)  # fmt: skip
BAD_VALID: tuple[Any, ...] = (True, [[True]], "x", torch.ones(1, 3), torch.ones(3).bool(), torch.ones(2, 3).bool())
BAD_FEATURES: tuple[Any, ...] = (
    None, 3, {}, {"mean": torch.zeros(3, 4)}, {"std": torch.zeros(3, 4)}, {"mean": torch.zeros(3, 4), "std": torch.zeros(3, 5)},
    {"mean": 3, "std": 3}, {"mean": torch.zeros(4), "std": torch.zeros(4)},
)  # fmt: skip
PAIR = {"x": BAD_SIDES, "y": BAD_SIDES}
SCORE = {"score": BAD_NAMES, "backend": BAD_BACKENDS}
ID = {"x_id": BAD_IDS, "y_id": BAD_IDS}


class Function(NamedTuple):
    """A public function with right arguments, and wrong values for each of them."""

    call: Callable[..., Any]
    right: Callable[[], dict[str, Any]]
    wrong: dict[str, tuple[Any, ...]]


def _pair(**more: Any) -> dict[str, Any]:
    return {"x": _side(), "y": _side(), **more}


def _with_ids(**more: Any) -> dict[str, Any]:
    return _pair(x_id=torch.arange(3), y_id=torch.arange(3), **more)


def _levels(**more: Any) -> dict[str, Any]:
    return {"levels": [_side(), _side()], **more}


def _through(make: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """A module, made and called."""
    return lambda **arguments: make(**fixed)(**arguments)


FUNCTIONS: dict[str, Function] = {
    "pairwise_loss": Function(pk.pairwise_loss, _with_ids, PAIR | SCORE | ID | {
        "objective": BAD_NAMES, "scale": BAD_NUMBERS, "bias": BAD_NUMBERS, "negatives_only": BAD_FLAGS,
        "reduction": ("mean", None, 3, ["rows"]), "stats": BAD_FLAGS, "precision": ("fp32", None, 3, ["ieee"]),
    }),
    "ppcl_loss": Function(pk.ppcl_loss, partial(_with_ids, scale=1.0, bias=0.0),
                          PAIR | ID | {"scale": BAD_NUMBERS, "bias": BAD_NUMBERS, "backend": BAD_BACKENDS}),
    "infonce_loss": Function(pk.infonce_loss, partial(_with_ids, scale=1.0), PAIR | ID | SCORE | {"scale": BAD_NUMBERS}),
    "mask_repulsive_loss": Function(
        pk.mask_repulsive_loss,
        lambda: {"masked": _side(), "others": _side(), "scale": 1.0, "bias": 0.0, "masked_id": torch.arange(3),
                 "other_id": torch.arange(3)},
        {"masked": BAD_SIDES, "others": BAD_SIDES, "scale": BAD_NUMBERS, "bias": BAD_NUMBERS, "masked_id": BAD_IDS,
         "other_id": BAD_IDS, **SCORE}),
    "pairwise_score": Function(pk.pairwise_score, _pair, PAIR | SCORE),
    "inclusion_score": Function(pk.inclusion_score, _pair, PAIR | {"convention": BAD_NAMES, "backend": BAD_BACKENDS}),
    "inclusion_loss": Function(pk.inclusion_loss, _pair, {
        "scale": BAD_NUMBERS, "convention": BAD_NAMES, "reduce_dims": BAD_NAMES, "backend": BAD_BACKENDS}),
    "hierarchical_inclusion_loss": Function(pk.hierarchical_inclusion_loss, _levels, {
        "levels": BAD_LEVELS, "scale": BAD_NUMBERS, "convention": BAD_NAMES, "reduce_dims": BAD_NAMES,
        "link_valid": BAD_VALID, "backend": BAD_BACKENDS}),
    "vib_loss": Function(pk.vib_loss, lambda: {"z": _side()},
                         {"z": BAD_SIDES, "convention": BAD_NAMES, "backend": BAD_BACKENDS}),
    "matched_losses": Function(pk.matched_losses, partial(_levels, terms=[Vib(0)]), {
        "levels": BAD_LEVELS, "terms": BAD_TERMS, "stats": BAD_FLAGS, "backend": BAD_BACKENDS}),
    "pairwise_topk": Function(pk.pairwise_topk, partial(_pair, k=2), PAIR | {
        "k": BAD_COUNTS, "score": BAD_NAMES, "precise": BAD_FLAGS, "workspace": BAD_SIZES}),
    "pairwise_rerank": Function(pk.pairwise_rerank, partial(_pair, k=2), PAIR | {
        "k": BAD_COUNTS, "score": BAD_NAMES, "shortlist": BAD_NAMES, "workspace": BAD_SIZES}),
    "score_blocks": Function(pk.score_blocks, _pair, PAIR | {
        "score": BAD_NAMES, "precise": BAD_FLAGS, "workspace": BAD_SIZES, "select": (True, 3, "x", [])}),
    "PPCLLoss": Function(pk.PPCLLoss, dict, {
        "scale": (*BAD_NUMBERS, -3.0, 0.0), "bias": BAD_NUMBERS, "score": BAD_NAMES}),
    "PPCLLoss.forward": Function(_through(pk.PPCLLoss), _with_ids, PAIR | ID),
    "InfoNCELoss": Function(pk.InfoNCELoss, dict, {"scale": (*BAD_NUMBERS, -3.0, 0.0), "score": BAD_NAMES}),
    "InfoNCELoss.forward": Function(_through(pk.InfoNCELoss), _with_ids, PAIR | ID),
    "register_score": Function(pk.register_score, dict, {"score": ("csd", None, 3)}),
    "register_objective": Function(pk.register_objective, dict, {"objective": ("sigmoid", None, 3)}),
    "ProLIPLoss.forward": Function(
        _through(compat.ProLIPLoss),
        lambda: {key: {"mean": torch.zeros(3, 4), "std": torch.zeros(3, 4)} for key in ("image_features", "text_features")},
        {"image_features": BAD_FEATURES, "text_features": BAD_FEATURES, "logit_scale": BAD_NUMBERS[:1] + BAD_NUMBERS[2:],
         "logit_bias": BAD_NUMBERS[:1] + BAD_NUMBERS[2:]}),
    "ClosedFormSampledDistanceLoss.forward": Function(
        _through(compat.ClosedFormSampledDistanceLoss),
        lambda: {key: {"mean": torch.zeros(3, 4), "std": torch.zeros(3, 4)} for key in ("img_emb", "cap_emb")},
        {"img_emb": BAD_FEATURES, "cap_emb": BAD_FEATURES, "matched": (3, "x", torch.zeros(2, 2))}),
}  # fmt: skip


def wrong_call(draw: Draw) -> None:
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    function = FUNCTIONS[name]
    argument = draw(st.sampled_from(sorted(function.wrong)))
    values = function.wrong[argument]
    value = values[draw(st.integers(0, len(values) - 1))]
    arguments = function.right()
    if argument == "score" and name == "infonce_loss":
        arguments = _pair(scale=1.0)
    arguments[argument] = value
    shown = (
        f"{name}({argument}={value!r})" if not isinstance(value, Gaussian) else f"{name}({argument}=a wrong Gaussian)"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sparse tensors are announced
            result = function.call(**arguments)
    except (ValueError, TypeError) as error:
        message = str(error)
        # a level of a list is named levels[0], a field of a Gaussian x.mean
        assert re.search(rf"(?<![\w]){re.escape(argument)}(?![\w])", message), (
            f"{shown}: the error does not name it: {message}"
        )
        return
    except Exception as error:
        raise AssertionError(f"{shown}: {type(error).__name__}: {error}") from error
    raise AssertionError(f"{shown}: taken, and gives {str(result)[:80]}")


def right_call(draw: Draw, counts: Counter[str], large: bool) -> None:
    call = RIGHT[draw(st.integers(0, len(RIGHT) - 1))](draw, large)
    counts[f"on {call.backend or 'the default backend'}"] += 1
    if max((len(t) for t in call.tensors if t.dim()), default=0) > SMALL:
        counts["at sizes that are compiled"] += 1
    check_right(call)


def search(draw: Draw, counts: Counter[str], large: bool) -> None:
    counts["searches"] += 1
    search_call(draw)


def wrong(draw: Draw, counts: Counter[str], large: bool) -> None:
    counts["with wrong arguments"] += 1
    wrong_call(draw)


KINDS = (wrong, right_call, right_call, right_call, wrong, right_call, search, right_call)
"""Which kind of calls a seed makes, by turns."""


def case(large: bool, seed: int) -> Counter[str]:
    counts: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False,
    )  # fmt: skip
    @hypothesis.given(st.data())
    def calls(data: st.DataObject) -> None:
        counts["calls"] += 1
        KINDS[seed % len(KINDS)](data.draw, counts, large)

    torch.set_num_threads(1)
    try:
        calls()
    except AssertionError as error:
        raise Broken(" ".join(str(error).split())) from None
    return counts


CALLS = Campaign("calls", "calls", 2000, lambda _: True, case)
SMALL_CALLS = Campaign("calls", "calls", 2000, lambda _: False, case)
"""Without the sizes at which programs are compiled, which takes seconds each."""
