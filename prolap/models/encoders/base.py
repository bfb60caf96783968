"""What every encoder offers."""

from __future__ import annotations

from torch import Tensor, nn


class Encoder(nn.Module):
    """Inputs of B samples to features [B, width]; a tower of the model without its head."""

    width: int
    """Size of the features."""
    can_delete: bool = False
    """Whether masked tokens can be left out instead of replaced."""

    def grid(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Which tokens may be masked. Bool [B, T]."""
        raise NotImplementedError

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, masked: Tensor | None = None, mode: str = "substitute"
    ) -> Tensor:
        """Features [B, width], untouched by what `masked` (bool [B, T], True hides) hides."""
        raise NotImplementedError
