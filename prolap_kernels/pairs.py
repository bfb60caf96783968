"""Pair ids to signs: equal ids make a positive pair, different ids a negative one, a negative id is left out."""

from __future__ import annotations

import torch
from torch import Tensor


def resolve_ids(
    x_id: Tensor | None, y_id: Tensor | None, n: int, m: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both ids as int64 [n] and [m]; by default row i of x belongs to row i of y and to no other."""
    if x_id is None or y_id is None:
        index = torch.arange(max(n, m), device=device)
        return index[:n], index[:m]
    return x_id.to(device=device, dtype=torch.int64), y_id.to(device=device, dtype=torch.int64)


def positive_pairs(x_id: Tensor, y_id: Tensor) -> Tensor:
    """[n, m] bool, equal ids. Ignored rows may be equal too: combine with `counted_pairs`."""
    return x_id[:, None] == y_id[None, :]


def counted_pairs(x_id: Tensor, y_id: Tensor) -> Tensor:
    """[n, m] bool, neither side ignored."""
    return (x_id >= 0)[:, None] & (y_id >= 0)[None, :]


def count_pairs(x_id: Tensor, y_id: Tensor, negatives_only: bool) -> Tensor:
    """How many pairs count, a 0-d int64 tensor, in O((n + m) log m) and without an n x m mask."""
    counted = (x_id >= 0).sum() * (y_id >= 0).sum()
    if not negatives_only:
        return counted
    ordered = y_id.sort().values
    equal = torch.searchsorted(ordered, x_id, right=True) - torch.searchsorted(ordered, x_id)
    return counted - equal.masked_fill(x_id < 0, 0).sum()
