"""Losses of pairs in plain torch: any device, any dtype, one bounded block at a time, whatever makes its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ...gaussian import Gaussian, widen
from ...objectives import Normaliser, Side
from ..blocks import block_shape, blocks
from ..problem import PairOptions, PairProblem, PairSums, float32_products
from . import compiled, elementwise
from .epilogue import Block, Form, Swept, example, measure, sweep

WORKSPACE = {"cpu": 64 << 20, "cuda": 100 << 20}
"""Bytes that all matrices of a block's size may take together."""
LIVE = 38
"""Matrices of a block's size that an eager sweep has room for: softmax holds some 30 at once, sigmoid 19, and the heap keeps
part of what is freed."""
COMPILED_LIVE = 8
"""The same for a compiled sweep: it needs 2; the others keep products, and blocks of an eighth stay in the cache."""
COMPILE_CELLS = 1 << 20
"""Pairs from which a sweep is compiled: below, a call takes a fraction of a second either way, a compilation several."""
Part = tuple[slice, slice]


class Bilinear:
    """Scores of blocks, s_ij = phi_x_i . phi_y_j, by matrix products.

    beside: numbers that a block takes for each of its rows and columns; workspace: bytes of a block, None for `WORKSPACE`.
    """

    workspace: int | None = None

    def __init__(self, problem: PairProblem, options: PairOptions) -> None:
        self.phi = problem.phi_x, problem.phi_y
        self.ignored = _ignored(problem, options)
        exact = problem.scale.dtype
        copied = any(phi.dtype != exact for phi in self.phi) or self.ignored != (None, None)
        self.beside = problem.phi_x.shape[1] if copied else 0

    def scores(self, rows: slice, cols: slice, out: Tensor | None) -> Tensor:
        """s_ij without the offsets, [h, w]; written into `out` unless that is None."""
        x, y = widen(self.phi[0][rows]), widen(self.phi[1][cols])
        return x @ y.T if out is None else torch.mm(x, y.T, out=out)

    def add(self, sums: PairSums, part: Part, grad: Tensor) -> None:
        """Adds a block's share, from grad [h, w] = dL/ds, to the gradients that `sums` has room for."""
        rows, cols = part
        if sums.dphi_x.numel():
            sums.dphi_x[rows].addmm_(grad, self._clean(1, cols))
        if sums.dphi_y.numel():
            sums.dphi_y[cols].addmm_(grad.T, self._clean(0, rows))

    def _clean(self, side: int, part: slice) -> Tensor:
        return _blank(widen(self.phi[side][part]), self.ignored[side], part)


class Elementwise:
    """Scores of blocks, s_ij = sum_d f(x_id, y_jd); its methods do what those of `Bilinear` do."""

    def __init__(self, problem: PairProblem, options: PairOptions, over_dimensions: elementwise.Sums) -> None:
        assert problem.logvar_x is not None
        assert problem.logvar_y is not None
        self.sides = Gaussian(problem.phi_x, problem.logvar_x), Gaussian(problem.phi_y, problem.logvar_y)
        self.score, self.over_dimensions = options.score, over_dimensions
        self.workspace = over_dimensions.workspace
        self.beside = elementwise.PARTS * problem.phi_x.shape[1]
        self.ignored = _ignored(problem, options)

    def scores(self, rows: slice, cols: slice, out: Tensor | None) -> Tensor:
        x, y = self._clean(0, rows), self._clean(1, cols)
        return elementwise.block_scores(self.over_dimensions, self.score, x, y, out)

    def add(self, sums: PairSums, part: Part, grad: Tensor) -> None:
        x, y = (self._clean(side, part[side]) for side in range(2))
        sides = (("x", sums.dphi_x, sums.dlogvar_x), ("y", sums.dphi_y, sums.dlogvar_y))
        for (side, *totals), rows in zip(sides, part, strict=True):
            if totals[0].numel():
                shares = elementwise.block_gradients(self.over_dimensions, self.score, x, y, grad, side)
                for total, share in zip(totals, shares, strict=True):
                    total[rows] += share

    def _clean(self, side: int, part: slice) -> Gaussian:
        mean, logvar = (_blank(t[part], self.ignored[side], part) for t in self.sides[side])
        return Gaussian(mean, logvar)


Engine = Bilinear | Elementwise


def _ignored(problem: PairProblem, options: PairOptions) -> tuple[Tensor | None, Tensor | None]:
    """The ignored rows of either side, None where all count; on a GPU a tensor always: to look would make the host wait."""
    if not options.ids_given:
        return None, None
    masks = [ids < 0 for ids in (problem.x_id, problem.y_id)]
    x, y = (m if m.device.type != "cpu" or bool(m.any()) else None for m in masks)
    return x, y


def _blank(value: Tensor, ignored: Tensor | None, part: slice) -> Tensor:
    """`value` with zeros in ignored rows: 0 * NaN is NaN, and padding must not reach any gradient."""
    return value if ignored is None else value.masked_fill(ignored[part, None], 0)


class _Blocks:
    """The blocks of a problem, always in one order, and the two passes over a block."""

    def __init__(self, problem: PairProblem, options: PairOptions, engine: Engine) -> None:
        n, m, like = len(problem.phi_x), len(problem.phi_y), problem.scale
        self.engine = engine
        workspace = engine.workspace or WORKSPACE.get(like.device.type, WORKSPACE["cuda"])
        negatives_only, ids_given = options.negatives_only, options.ids_given
        self.form = Form(options.objective_name, negatives_only, ids_given, options.grads, options.stats)
        worthwhile = like.device.type == "cpu" and n * m >= COMPILE_CELLS
        self.programs = _programs(self.form, like.dtype) if worthwhile else {}
        live = COMPILED_LIVE if self.programs else LIVE
        cells = workspace // like.element_size()
        self.shape = block_shape(n, m, cells, live=live, beside=engine.beside, even=False)
        self.buffer = like.new_empty(self.shape[0] * self.shape[1])
        self.kept: dict[tuple[int, int], Tensor] = {}
        if self.programs:
            optional = zip((problem.alpha, problem.beta, problem.row_weight), (n, m, n), (0.0, 0.0, 1.0), strict=True)
            alpha, beta, weight = (t.contiguous() if t.numel() else like.new_full((k,), v) for t, k, v in optional)
            ids = problem.x_id.contiguous(), problem.y_id.contiguous()
            problem = PairProblem(*problem[:2], alpha, beta, *problem[4:6], *ids, weight)
        self.problem = problem

    def __iter__(self) -> Iterator[Part]:
        return blocks(len(self.problem.phi_x), len(self.problem.phi_y), self.shape)

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
        """The engine's scores; keep: the first pass leaves the second as many of them as memory allows."""
        corner = rows.start, cols.start
        if not keep and corner in self.kept:
            return self.kept.pop(corner)
        if keep and self.programs and len(self.kept) < COMPILED_LIVE - 4:
            return self.kept.setdefault(corner, self.engine.scores(rows, cols, None))
        h, w = rows.stop - rows.start, cols.stop - cols.start
        return self.engine.scores(rows, cols, self.buffer[: h * w].view(h, w))

    def _run(self, function: Callable[..., Any], block: Block, sides: Side) -> Any:
        if self.programs:
            return self.programs[function](*(t for t in block if t is not None), *sides)
        return function(self.form, block, sides)


def _programs(form: Form, dtype: torch.dtype) -> dict[Callable[..., Any], Any]:
    """`sweep`, and `measure` where there is a normaliser, compiled; empty if either fails to compile."""
    # one program serves all: offsets of zero, ids that ignore nothing and unread gradients cost a compiled sweep little
    form = form._replace(ids=True, grads=True, wide=True)
    programs: dict[Callable[..., Any], Any] = {}
    for function in (measure, sweep) if form.objective.normaliser else (sweep,):

        def flat(*t: Tensor, function: Callable[..., Any] = function) -> list[Tensor]:
            return list(function(form, Block(*t[:8]), t[8:]))

        def arguments(h: int, w: int, function: Callable[..., Any] = function) -> list[Tensor]:
            return example(form, dtype, function is sweep, h, w)

        program = compiled.program((function, form, dtype), flat, arguments)
        if program is None:
            return {}
        programs[function] = program
    return programs


def add_pairs(
    problem: PairProblem, options: PairOptions, sums: PairSums, fresh: bool,
    over_dimensions: elementwise.Sums = elementwise.SUMS,
) -> None:  # fmt: skip
    """The block primitive (`problem.Launcher`), block by block; over_dimensions: sums of an elementwise score."""
    if fresh:
        sums.zero_()
    bilinear = options.score.elementwise is None
    engine = Bilinear(problem, options) if bilinear else Elementwise(problem, options, over_dimensions)
    # on a CPU float32 products are exact
    pinned = problem.phi_x.device.type == "cuda" and problem.scale.dtype == torch.float32
    with float32_products(options.precision) if pinned else nullcontext():
        _add_blocks(_Blocks(problem, options, engine), options, sums)


def _add_blocks(problem_blocks: _Blocks, options: PairOptions, sums: PairSums) -> None:
    sides: tuple[Side, Side] = (), ()
    if options.objective.normaliser is not None:
        loss, *known = _normalised(problem_blocks, options.objective.normaliser)
        sides = known[0], known[1]
        sums.loss.add_(loss)
        if not (options.grads or options.stats):
            return
    for rows, cols in problem_blocks:
        swept = problem_blocks.sweep(rows, cols, sides)
        if swept.loss.numel():
            sums.loss[rows] += swept.loss
        if sums.stats.numel():
            sums.stats[:, rows] += swept.stats
        if sums.row.numel():
            sums.row[rows] += swept.row
            sums.col[cols] += swept.grad.sum(0)
            sums.dot[rows] += swept.dot
        problem_blocks.engine.add(sums, (rows, cols), swept.grad)


def _normalised(problem_blocks: _Blocks, normaliser: Normaliser) -> tuple[Tensor, Side, Side]:
    """The first pass: the loss, and what the second has to know of rows and of columns."""
    totals = [normaliser.empty(len(phi), problem_blocks.problem.scale) for phi in problem_blocks.problem[:2]]
    for part in problem_blocks:
        for total, rows, share in zip(totals, part, problem_blocks.measure(*part), strict=True):
            merged = normaliser.merge(tuple(t[rows] for t in total), share)
            for t, value in zip(total, merged, strict=True):
                t[rows] = value
    return normaliser.finish(*totals)
