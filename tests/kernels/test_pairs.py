"""Pair ids against the obvious loops."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from prolap_kernels.pairs import count_pairs, counted_pairs, positive_pairs, resolve_ids

IDS = st.lists(st.integers(-2, 4), min_size=0, max_size=8)


@given(IDS, IDS)
def test_signs_and_counts_are_the_loops(x: list[int], y: list[int]) -> None:
    x_id, y_id = torch.tensor(x, dtype=torch.int64), torch.tensor(y, dtype=torch.int64)
    counted = [[a >= 0 and b >= 0 for b in y] for a in x]
    positive = [[a == b for b in y] for a in x]
    shape = (len(x), len(y))
    assert torch.equal(counted_pairs(x_id, y_id), torch.tensor(counted, dtype=torch.bool).reshape(shape))
    assert torch.equal(positive_pairs(x_id, y_id), torch.tensor(positive, dtype=torch.bool).reshape(shape))
    assert int(count_pairs(x_id, y_id, negatives_only=False)) == sum(map(sum, counted))
    negatives = sum(c and not p for cs, ps in zip(counted, positive, strict=True) for c, p in zip(cs, ps, strict=True))
    assert int(count_pairs(x_id, y_id, negatives_only=True)) == negatives


def test_by_default_row_i_belongs_to_row_i() -> None:
    x_id, y_id = resolve_ids(None, None, 2, 3, torch.device("cpu"))
    assert positive_pairs(x_id, y_id).tolist() == [[True, False, False], [False, True, False]]
