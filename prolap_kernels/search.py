"""Scores of all pairs without their matrix: bounded blocks, each row's best columns, and these in another score's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .backends.blocks import block_shape, cdiv, ranges
from .checks import as_callable, as_flag, as_gaussian, as_whole, check_sides, choose
from .gaussian import Gaussian, widen
from .matrix import pairwise_score
from .ops.pairs import factors
from .scores import SCORES, Score, find_score

WORKSPACE = {"cpu": 64 << 20, "cuda": 256 << 20}
"""Bytes that a block may take, beside what `pairwise_score` holds while it sums over dimensions."""
MOST = 1 << 62
"""Bytes beyond which no workspace can be meant."""
CELL, EDGE = 2, 8
"""Numbers that live at once for each score of a block, and for each dimension of each of its rows and columns."""
KEPT = 160
"""Bytes that merging takes for each of the best k: values and indices, twice as many, and their sorted copies."""
MATCHED = 16
"""float64 numbers that live at once for each dimension of a pair of matched rows."""

Block = tuple[slice, slice, Tensor]


def score_blocks(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    *,
    score: str | Score = "csd",
    precise: bool = False,
    workspace: int | None = None,
    select: Callable[[slice, slice], bool] | None = None,
    **score_options: str,
) -> Iterator[Block]:
    """Blocks (rows, columns, s_ij of these rows of x and columns of y) that make up the matrix of scores, without gradients.

    x, y: Gaussians [N, D] and [M, D] (tensors do where the score needs no variance); score and its options as in
    `pairwise_score`. Blocks are about square and come row by row; empty sides have none. You may change a block; the next one may
    overwrite it.

    precise: compute each block in float64 and round it to float32. The last bits of a matrix product depend on where a row
        stands in it; rounded, equal rows of y score the same, except within 1e-16 or so of a boundary of float32, and except
        for what distances lose as products.
    workspace: bytes that a block may take, `WORKSPACE` by default; it fixes the size of the blocks. Elementwise scores take a
        bounded amount more.
    select(rows, columns): whether to compute a block; by default all are.

    Errors: ValueError or TypeError naming the argument, at the call.
    """
    score, x, y = _checked(x, y, score, score_options, precise)
    if select is not None:
        as_callable("select", select)
    n, (m, d) = len(x.mean), y.mean.shape
    size = 8 if precise or x.mean.dtype == torch.float64 else 4
    shape = block_shape(n, m, _bytes(x, workspace) // size, live=CELL, beside=EDGE * d)
    return _blocks(score, x, y, shape, precise, select)


def _checked(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    score: str | Score,
    score_options: dict[str, str],
    precise: bool = False,
) -> tuple[Score, Gaussian, Gaussian]:
    as_flag("precise", precise)
    score = find_score(score, **score_options)
    x, y = as_gaussian("x", x, score.uses_logvar), as_gaussian("y", y, score.uses_logvar)
    no_rows = y.rows(slice(0))
    check_sides(("x", "y"), x, no_rows._replace(mean=no_rows.mean.to(x.mean.dtype)) if precise else no_rows)
    return score, x.detach(), y.detach()


def _bytes(x: Gaussian, workspace: int | None) -> int:
    if workspace is None:
        return WORKSPACE.get(x.mean.device.type, WORKSPACE["cuda"])
    return as_whole("workspace", workspace, 1, MOST, "None or a whole number of bytes, at least 1")


def _blocks(
    score: Score,
    x: Gaussian,
    y: Gaussian,
    shape: tuple[int, int],
    precise: bool,
    select: Callable[[slice, slice], bool] | None,
) -> Iterator[Block]:
    dtype = torch.float64 if precise else torch.promote_types(x.mean.dtype, torch.float32)
    cells = min(shape[0], len(x.mean)) * min(shape[1], len(y.mean))
    # allocated once: an allocator that takes and frees such sizes in turn keeps several times as much
    sums = x.mean.new_empty(0 if score.factor_x is None else cells, dtype=dtype)
    rounded = x.mean.new_empty(cells, dtype=torch.float32) if precise else None
    for rows in ranges(len(x.mean), shape[0]):
        left = None
        for columns in ranges(len(y.mean), shape[1]):
            if select is None or select(rows, columns):
                left = _side(x, rows, precise) if left is None else left
                yield rows, columns, _scores(score, left, _side(y, columns, precise), sums, rounded)


def _side(z: Gaussian, rows: slice, precise: bool) -> Gaussian:
    z = z.rows(rows)
    return Gaussian(z.mean.double(), z.logvar.double()) if precise else z


@torch.no_grad()
def _scores(score: Score, x: Gaussian, y: Gaussian, sums: Tensor, rounded: Tensor | None) -> Tensor:
    """`pairwise_score` of a block; a bilinear score writes into `sums`, and a rounded one into `rounded`."""
    shape = len(x.mean), len(y.mean)
    if score.factor_x is None:
        scores = pairwise_score(x, y, score=score)
    else:
        left, right = factors(score, x, y)
        scores = torch.mm(widen(left.phi), widen(right.phi).T, out=_view(sums, shape))
        if left.offset is not None:
            scores += left.offset[:, None]
        if right.offset is not None:
            scores += right.offset
    return scores if rounded is None else _view(rounded, shape).copy_(scores)


def _view(buffer: Tensor, shape: tuple[int, int]) -> Tensor:
    return buffer[: shape[0] * shape[1]].view(shape)


@torch.no_grad()
def pairwise_topk(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    k: int,
    *,
    score: str | Score = "csd",
    precise: bool = False,
    workspace: int | None = None,
    **score_options: str,
) -> tuple[Tensor, Tensor]:
    """The k columns of the largest scores of every row, (values [N, k], indices [N, k] int64), without the matrix.

        values_i0 >= values_i1 >= ..., values_ir = s(x_i, y_j) for j = indices_ir; of equal scores the lower j comes first

    x, y: Gaussians [N, D] and [M, D], k from 1 to M; score: a name in `SCORES`, all of which are larger for what is more alike;
    its options follow as keywords. Values are float32 (float64 for float64 inputs) and carry no gradient: for gradients score the
    matched rows again (`inclusion_score(x, y.rows(indices[:, 0]))`). NaN counts as larger than any number.

    Beyond inputs and results it takes the `workspace` of `score_blocks`, however large N and M are. Blocks of another size may
    round a score otherwise in the last place; `precise=True`, as in `score_blocks`, makes equal rows of y tie wherever they
    stand. Evaluation does that.

    Do not retrieve by `inclusion`, which may be largest for the farthest row (see `inclusion_score`): `pairwise_rerank` orders a
    shortlist by it.

    Errors: ValueError or TypeError naming the argument; k beyond M is a ValueError.
    """
    score, x, y = _checked(x, y, score, score_options, precise)
    n, m = len(x.mean), len(y.mean)
    k = as_whole("k", k, 1, m, f"a whole number from 1 to y's {m} rows")
    dtype = torch.float64 if x.mean.dtype == torch.float64 and not precise else torch.float32
    values = torch.empty(n, k, dtype=dtype, device=x.mean.device)
    indices = torch.empty(n, k, dtype=torch.int64, device=x.mean.device)
    half = max(_bytes(x, workspace) // 2, 1)
    for strip in ranges(n, max(1, half // (KEPT * k))):
        best: tuple[Tensor, Tensor] | None = None
        for rows, columns, block in score_blocks(x.rows(strip), y, score=score, precise=precise, workspace=half):
            best = _merged(best if columns.start else None, block, columns.start, k)
            if columns.stop == m:
                done = slice(strip.start + rows.start, strip.start + rows.stop)
                values[done], indices[done] = best
    return values, indices


def _merged(best: tuple[Tensor, Tensor] | None, block: Tensor, first: int, k: int) -> tuple[Tensor, Tensor]:
    """The best k of those so far and of a block whose columns start at `first`, after all earlier ones."""
    columns = _best_columns(block, k)
    values, indices = block.gather(1, columns), columns + first
    if best is not None:
        values, indices = torch.cat([best[0], values], 1), torch.cat([best[1], indices], 1)
    # equal scores stand in the order of their indices already, and a stable sort keeps it
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices.gather(1, order[:, :k])


def _best_columns(block: Tensor, k: int) -> Tensor:
    """Columns of each row's k largest, ascending; the lower index wins among equals, and NaN is the largest."""
    height, width = block.shape
    if k >= width:
        return torch.arange(width, device=block.device).expand(height, width)
    values, columns = block.topk(k + 1, dim=1)
    # torch.topk takes any of several equal scores: where number k equals number k + 1, sort the whole row
    tied = (values[:, k - 1] == values[:, k]) | values[:, k].isnan()
    columns = columns[:, :k].sort(dim=1).values
    for rows in tied.nonzero().flatten().split(cdiv(height, 8)):
        order = block[rows].sort(dim=1, descending=True, stable=True).indices
        columns[rows] = order[:, :k].sort(dim=1).values
    return columns


@torch.no_grad()
def pairwise_rerank(
    x: Gaussian | Tensor,
    y: Gaussian | Tensor,
    k: int,
    *,
    shortlist: str | Score = "csd",
    score: str | Score = "inclusion",
    workspace: int | None = None,
    **score_options: str,
) -> tuple[Tensor, Tensor]:
    """The k best rows of y by one score, in the order of another: (values [N, k] of `score`, indices [N, k] int64).

        J_i = the k largest of shortlist(x_i, y_j) over j;  J_i sorted by score(x_i, y_j), ties by the place in the shortlist

    Two scores, because `inclusion` orders generality and would retrieve what is far away (see `inclusion_score`). The shortlist
    finds what x is about; inclusion tells which of these are the more general.

    x, y: Gaussians [N, D] and [M, D], k from 1 to M; shortlist, score: names in `SCORES`; options belong to `score`, which is
    computed in float64 by its plain formula, N k D elements in parts of `workspace` bytes, and rounded to float32 unless x is
    float64. Values carry no gradient. NaN comes first. Memory and errors as for `pairwise_topk`.
    """
    if not isinstance(shortlist, Score):
        choose("shortlist", shortlist, SCORES)
    score, x, y = _checked(x, y, score, score_options)
    _, columns = pairwise_topk(x, y, k, score=shortlist, workspace=workspace)
    values = _matched(score, x, y, columns, _bytes(x, workspace))
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _matched(score: Score, x: Gaussian, y: Gaussian, columns: Tensor, workspace: int) -> Tensor:
    """s(x_i, y_j) for j = columns_ir, [N, k]."""
    k, flat = columns.shape[1], columns.flatten()
    out = torch.empty(len(flat), dtype=torch.promote_types(x.mean.dtype, torch.float32), device=flat.device)
    for part in ranges(len(flat), max(1, workspace // (8 * MATCHED * max(x.mean.shape[1], 1)))):
        rows = torch.arange(part.start, part.stop, device=flat.device) // k
        left, right = (Gaussian(z.mean[i].double(), z.logvar[i].double()) for z, i in ((x, rows), (y, flat[part])))
        out[part] = score.formula(left, right).sum(-1)
    return out.view(columns.shape)
