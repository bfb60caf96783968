"""Recursive masks: supersets, the ratio, and what must never be masked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolap.data.masking import new_links, recursive_masks


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 6),
    width=st.integers(1, 12),
    copies=st.integers(1, 4),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_levels_are_supersets_and_one_token_stays(rows: int, width: int, copies: int, ratio: float, seed: int) -> None:
    visible = torch.rand(rows, width, generator=_generator(seed)) < 0.7
    before = torch.zeros_like(visible)
    masks = recursive_masks(visible, copies, ratio, _generator(seed + 1))
    assert len(masks) == copies
    for mask in masks:
        assert not (before & ~mask).any()
        assert not (mask & ~visible).any()
        left = (visible & ~mask).sum(1)
        assert torch.equal(left > 0, visible.any(1))
        before = mask


def test_each_visible_token_is_masked_with_the_ratio() -> None:
    visible = torch.ones(400, 100, dtype=torch.bool)
    first, second = recursive_masks(visible, 2, 0.75, _generator())
    assert first.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert (second & ~first).sum().item() / (~first).sum().item() == pytest.approx(0.75, abs=0.02)
    # independent tokens: the count of a row is binomial
    assert first.sum(1).float().std().item() == pytest.approx((100 * 0.75 * 0.25) ** 0.5, rel=0.15)


def test_the_token_that_stays_is_any_of_them() -> None:
    visible = torch.ones(2000, 4, dtype=torch.bool)
    (mask,) = recursive_masks(visible, 1, 1.0, _generator())
    kept = (~mask).float().mean(0)
    assert torch.all((kept - 0.25).abs() < 0.05)


def test_masks_depend_on_the_generator_alone() -> None:
    visible = torch.ones(8, 16, dtype=torch.bool)
    one, again = (recursive_masks(visible, 3, 0.5, _generator(7)) for _ in range(2))
    other = recursive_masks(visible, 3, 0.5, _generator(8))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])


def test_ratio_zero_masks_nothing_and_has_no_new_links() -> None:
    masks = recursive_masks(torch.ones(3, 5, dtype=torch.bool), 2, 0.0, _generator())
    assert not torch.stack(masks).any()
    assert not new_links(masks).any()


def test_new_links_by_hand() -> None:
    first = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    second = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0]], dtype=torch.bool)
    want = torch.tensor([[True, False, True], [True, True, False]])
    assert torch.equal(new_links([first, second]), want)


def test_no_rows_and_no_tokens() -> None:
    for shape in ((0, 4), (3, 0)):
        masks = recursive_masks(torch.ones(shape, dtype=torch.bool), 2, 0.5, _generator())
        assert [mask.shape for mask in masks] == [shape, shape]


@pytest.mark.parametrize(
    ("visible", "copies", "ratio", "name"),
    [
        (torch.ones(2, 3), 1, 0.5, "visible"),
        (torch.ones(3, dtype=torch.bool), 1, 0.5, "visible"),
        (torch.ones(2, 3, dtype=torch.bool), -1, 0.5, "copies"),
        (torch.ones(2, 3, dtype=torch.bool), 1, 1.5, "ratio"),
    ],
)
def test_bad_arguments_are_named(visible: torch.Tensor, copies: int, ratio: float, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        recursive_masks(visible, copies, ratio, _generator())
