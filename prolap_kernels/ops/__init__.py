"""Raw custom ops and the autograd functions around them, a file for each engine; this one holds what they share.

The forward pass computes every gradient; backward only scales them, never in place, so it may run twice. It goes through a
second function that also takes the inputs and refuses to be differentiated: without it, a gradient penalty would silently get
a second derivative of zero. Its number of parameters is fixed: Dynamo tells by that number whether `forward` takes a ctx.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NO_SECOND = "prolap_kernels: second derivatives are not implemented; backend='reference' has them"


def wants_grad(*tensors: Tensor) -> bool:
    """Whether a gradient will be needed. Call it before `apply`: inside, no tensor requires grad."""
    # isinstance, not `is None`: Dynamo answers the second wrongly for this call
    if torch.compiler.is_compiling() and not isinstance(torch._C._functorch.peek_interpreter_stack(), type(None)):
        # requires_grad reads False here for every tensor, so every gradient would silently be zero
        raise RuntimeError(
            "prolap_kernels: torch.func transforms inside torch.compile do not work; compile the loss alone"
        )
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def keep_nothing(ctx: Any, inputs: Any, output: Any) -> None:
    pass


def refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(NO_SECOND)


class Scaled(torch.autograd.Function):
    """g * grad in the dtype of `value`. The cast comes last: float16 needs the loss scaler in g before it."""

    @staticmethod
    def forward(g: Tensor, grad: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        return (g * grad).to(value.dtype)

    setup_context = staticmethod(keep_nothing)
    backward = staticmethod(refuse)
