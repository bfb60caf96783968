"""Recursive masks: ever fewer visible tokens, level by level (SPEC: M_0, nothing masked, ... M_copies)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def recursive_masks(visible: Tensor, copies: int, ratio: float, generator: torch.Generator) -> list[Tensor]:
    """M_1 ... M_copies: every token still visible in M_l is masked in M_(l+1) with probability `ratio`.

    The paper masks recursively with ratio 0.75; that each token is drawn independently, and that at least one token
    per row stays visible (the one with the largest draw), is our reading of it.

    visible: bool [B, T], the tokens that may be masked; False marks padding and end-of-text, never masked.
    Returns `copies` bool tensors [B, T], True = masked, each a superset of the one before it. They depend on the
    generator alone and live where `visible` lives.
    Errors: TypeError or ValueError for a `visible` that is not bool [B, T], a ratio outside [0, 1], negative copies.
    """
    if visible.dtype != torch.bool:
        raise TypeError(f"visible must be a bool tensor, got {visible.dtype}")
    if visible.dim() != 2:
        raise ValueError(f"visible must have shape [B, T], got {tuple(visible.shape)}")
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    if copies < 0:
        raise ValueError(f"copies must not be negative, got {copies}")
    masked = torch.zeros_like(visible)
    if visible.numel() == 0:
        return [masked.clone() for _ in range(copies)]
    out = []
    for _ in range(copies):
        draw = torch.rand(visible.shape, generator=generator, device=generator.device).to(visible.device)
        left = visible & ~masked
        last = draw.masked_fill(~left, -1.0).argmax(dim=1, keepdim=True)
        chosen = left & (draw < ratio)
        masked = masked | chosen.scatter(1, last, False)
        out.append(masked)
    return out


def new_links(masks: Sequence[Tensor]) -> Tensor:
    """Which links M_l -> M_(l+1), l = 0 ..., mask anything new: bool [copies, B]. M_0 masks nothing.

    A link that masks nothing new says that an input contains itself and is dropped from the inclusion losses.
    """
    if not masks:
        raise ValueError("masks must hold at least one level, got none")
    before = [torch.zeros_like(masks[0]), *masks[:-1]]
    return torch.stack([(mask & ~old).any(dim=1) for old, mask in zip(before, masks, strict=True)])
