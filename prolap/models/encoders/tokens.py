"""Rows of tokens [B, T, W] of which some are visible: leaving out the others, and pooling."""

from __future__ import annotations

import torch
from torch import Tensor


def compact(tokens: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Move each row's visible tokens to its front, in order, and cut the tail that no row needs.

    tokens [B, T, W], visible bool [B, T] -> tokens [B, T', W], visible [B, T']; T' is the largest number of visible
    tokens (at least 1).
    """
    order = torch.argsort((~visible).to(torch.uint8), dim=1, stable=True)
    order = order[:, : max(1, int(visible.sum(dim=1).max()))]
    return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])), visible.gather(1, order)


def mean_max(tokens: Tensor, visible: Tensor) -> Tensor:
    """Mean and maximum over the visible tokens, side by side: [B, T, W], bool [B, T] -> [B, 2W] float32.

    A row without a visible token gives zeros.
    """
    tokens, keep = tokens.float(), visible[..., None]
    mean = torch.where(keep, tokens, 0.0).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
    most = torch.where(keep, tokens, torch.finfo(torch.float32).min).amax(dim=1)
    return torch.cat([mean, torch.where(keep.any(dim=1), most, 0.0)], dim=1)


def check_mask(masked: Tensor | None, grid: Tensor, mode: str, can_delete: bool) -> None:
    """Refuse a mask of another shape or type than the grid, and a mode that the encoder does not have."""
    if mode not in ("substitute", "delete"):
        raise ValueError(f'mode: got {mode!r}, want "substitute" or "delete".')
    if mode == "delete" and not can_delete:
        raise ValueError('mode: this encoder cannot leave tokens out; want "substitute".')
    if masked is not None and (masked.shape != grid.shape or masked.dtype != torch.bool):
        raise ValueError(
            f"masked: got {masked.dtype} of shape {tuple(masked.shape)}, want torch.bool of shape {tuple(grid.shape)}."
        )
