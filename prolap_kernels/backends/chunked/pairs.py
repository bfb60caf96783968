"""The pair engine in plain torch: any device, any dtype, one bounded block at a time, whatever makes its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...objectives import OBJECTIVES, Side
from ..problem import PairOptions, PairProblem, PairSums
from . import compiled
from .engines import engine_of
from .epilogue import Block, Form, Swept, example, measure, sweep

SCRATCH = {"cpu": 64 << 20, "cuda": 100 << 20, "triton": 400 << 20}
"""Bytes that everything of a block's size may take; triton: where kernels that want many rows sum the dimensions."""
LIVE = 38
"""Matrices of a block's size that an eager sweep is given room for: some 30 live at once for softmax, 19 for sigmoid, and the
heap keeps part of what is freed."""
COMPILED_LIVE = 8
"""As many of a compiled sweep: it needs 2, the rest keeps products, and blocks of an eighth stay in the cache."""
COMPILE_CELLS = 1 << 20
"""Pairs from which a sweep is compiled: below, a call takes a fraction of a second either way, a compilation several."""


def block_shape(n: int, m: int, k: int, cells: int, live: int = LIVE) -> tuple[int, int]:
    """Rows and columns of a block, near square: `cells` hold its `live` matrices and k numbers beside each row and column."""
    area = max(cells // live, 1)
    rows = max(min(n, max(int(area**0.5), area // max(m, 1))), 1)
    cols = max(min(m, area // rows), 1)
    while live * rows * cols + k * (rows + cols) > cells and max(rows, cols) > 1:
        rows, cols = (rows, (cols + 1) // 2) if cols >= rows else ((rows + 1) // 2, cols)
    return rows, cols


class _Blocks:
    """The blocks of a problem, in the same order every time, and the two passes over one of them."""

    def __init__(self, problem: PairProblem, options: PairOptions) -> None:
        n, m, like = len(problem.phi_x), len(problem.phi_y), problem.scale
        self.engine = engine_of(problem, options)
        place = "triton" if options.backend == "triton" else like.device.type
        cells = SCRATCH.get(place, SCRATCH["cuda"]) // like.element_size()
        self.form = Form(options.objective, options.negatives_only, options.ids_given, options.grads, options.stats)
        worthwhile = like.device.type == "cpu" and n * m >= COMPILE_CELLS
        self.programs = _programs(self.form, like.dtype) if worthwhile else {}
        self.compiles = bool(self.programs)
        live = COMPILED_LIVE if self.compiles else LIVE
        self.shape = block_shape(n, m, self.engine.beside, cells, live)
        self.buffer = like.new_empty(self.shape[0] * self.shape[1])
        self.kept: dict[tuple[int, int], Tensor] = {}
        if self.compiles:
            given = zip((*self.engine.offsets, problem.row_weight), (n, m, n), (0.0, 0.0, 1.0), strict=True)
            alpha, beta, weight = (t.contiguous() if t.numel() else like.new_full((k,), v) for t, k, v in given)
            ids = problem.x_id.contiguous(), problem.y_id.contiguous()
            problem = PairProblem(*problem[:2], alpha, beta, *problem[4:6], *ids, weight)
        else:
            alpha, beta = self.engine.offsets
            problem = problem._replace(alpha=alpha, beta=beta)
        self.problem = problem

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        n, m = len(self.problem.phi_x), len(self.problem.phi_y)
        for i in range(0, n, self.shape[0]):
            for j in range(0, m, self.shape[1]):
                yield slice(i, min(i + self.shape[0], n)), slice(j, min(j + self.shape[1], m))

    def measure(self, rows: slice, cols: slice) -> tuple[Side, Side]:
        out = self._run(measure, self._block(rows, cols, keep=True), ())
        return tuple(out[: len(out) // 2]), tuple(out[len(out) // 2 :])

    def sweep(self, rows: slice, cols: slice, sides: tuple[Side, Side]) -> Swept:
        parts = tuple(t[part] for side, part in zip(sides, (rows, cols), strict=True) for t in side)
        return Swept(*self._run(sweep, self._block(rows, cols, keep=False), parts))

    def _block(self, rows: slice, cols: slice, keep: bool) -> Block:
        p = self.problem
        alpha, beta = p.alpha[rows] if p.alpha.numel() else None, p.beta[cols] if p.beta.numel() else None
        weight = p.row_weight[rows] if p.row_weight.numel() else None
        product = self._product(rows, cols, keep)
        return Block(product, alpha, beta, weight, p.scale.reshape(1), p.bias.reshape(1), p.x_id[rows], p.y_id[cols])

    def _product(self, rows: slice, cols: slice, keep: bool) -> Tensor:
        """The engine's scores; the first pass keeps as many as memory allows for the second, which takes them away."""
        at = rows.start, cols.start
        if not keep and at in self.kept:
            return self.kept.pop(at)
        if keep and self.compiles and len(self.kept) < COMPILED_LIVE - 4:
            return self.kept.setdefault(at, self.engine.scores(rows, cols, None))
        h, w = rows.stop - rows.start, cols.stop - cols.start
        return self.engine.scores(rows, cols, self.buffer[: h * w].view(h, w))

    def _run(self, function: Callable[..., Any], block: Block, sides: Side) -> Any:
        if self.compiles:
            return self.programs[function](*(t for t in block if t is not None), *sides)
        return function(self.form, block, sides)


def _programs(form: Form, dtype: torch.dtype) -> dict[Callable[..., Any], Any]:
    """`sweep`, and `measure` where there is a normaliser, compiled; nothing if either cannot be."""
    # fewer programs: what is zero anyway, ids that ignore nothing and gradients unread cost a compiled sweep little
    form = form._replace(ids=True, grads=True, wide=True)
    made: dict[Callable[..., Any], Any] = {}
    for function in (measure, sweep) if OBJECTIVES[form.objective].normaliser else (sweep,):

        def flat(*t: Tensor, function: Callable[..., Any] = function) -> list[Tensor]:
            return list(function(form, Block(*t[:8]), t[8:]))

        def arguments(h: int, w: int, function: Callable[..., Any] = function) -> list[Tensor]:
            return example(form, dtype, function is sweep, h, w)

        program = compiled.program((function, form, dtype), flat, arguments)
        if program is None:
            return {}
        made[function] = program
    return made


def pair_sums(problem: PairProblem, options: PairOptions) -> PairSums:
    """One objective over all pairs, block by block."""
    with _precision(problem, options.precision):
        return _pair_sums(problem, options)


def _pair_sums(problem: PairProblem, options: PairOptions) -> PairSums:
    n, m = len(problem.phi_x), len(problem.phi_y)

    def zeros(wanted: bool, *shape: int) -> Tensor:
        return problem.scale.new_zeros(shape if wanted else 0)

    sums = PairSums(
        zeros(True, n),
        zeros(options.need_x, *problem.phi_x.shape),
        zeros(options.need_y, *problem.phi_y.shape),
        zeros(options.need_sums, n),
        zeros(options.need_sums, m),
        zeros(options.need_sums, n),
        zeros(options.need_x and bool(options.score), *problem.alpha.shape),
        zeros(options.need_y and bool(options.score), *problem.beta.shape),
        zeros(options.stats, 4, n),
    )
    blocks = _Blocks(problem, options)
    normaliser = OBJECTIVES[options.objective].normaliser
    sides: tuple[Side, Side] = (), ()
    if normaliser is not None:
        totals = [normaliser.empty(k, problem.scale) for k in (n, m)]
        for rows, cols in blocks:
            for total, part, share in zip(totals, (rows, cols), blocks.measure(rows, cols), strict=True):
                merged = normaliser.merge(tuple(t[part] for t in total), share)
                for t, value in zip(total, merged, strict=True):
                    t[part] = value
        loss, *finished = normaliser.finish(*totals)
        sides = finished[0], finished[1]
        sums = sums._replace(loss=loss)
        if not (options.grads or options.stats):
            return sums
    for rows, cols in blocks:
        swept = blocks.sweep(rows, cols, sides)
        _add(sums, (rows, cols), swept)
        blocks.engine.add(sums, (rows, cols), swept.grad)
    return sums


def _add(sums: PairSums, part: tuple[slice, slice], swept: Swept) -> None:
    rows, cols = part
    if swept.loss.numel():
        sums.loss[rows] += swept.loss
    if sums.stats.numel():
        sums.stats[:, rows] += swept.stats
    if sums.row.numel():
        sums.row[rows] += swept.row
        sums.col[cols] += swept.grad.sum(0)
        sums.dot[rows] += swept.dot


@contextmanager
def _precision(problem: PairProblem, precision: str) -> Iterator[None]:
    """On a GPU float32 products are what the caller asked for, whatever torch is set to; on a CPU they are exact."""
    if problem.phi_x.device.type != "cuda" or problem.scale.dtype != torch.float32:
        yield
        return
    settings = torch.backends.cuda.matmul
    name, value = (
        ("fp32_precision", precision) if hasattr(settings, "fp32_precision") else ("allow_tf32", precision == "tf32")
    )
    before = getattr(settings, name)
    try:
        setattr(settings, name, value)
        yield
    finally:
        setattr(settings, name, before)
