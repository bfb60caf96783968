"""Raw custom ops and the autograd functions around them, a file for each engine; this one holds what they share.

The forward pass computes every sum over pairs; backward makes the inputs' gradients of them, never in place, so it may run twice.
Where its result can be differentiated, it goes through a second function that takes the inputs too and refuses to be: without it,
a gradient penalty would silently get a second derivative of zero.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
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


def runs_eagerly() -> bool:
    """Whether neither `torch.compile` nor a transform of `torch.func` is at work, so that functions need no `setup_context`."""
    return not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def runs_plainly(value: Tensor) -> bool:
    """Whether an op's body may be called without the op, which costs time: `value` is no tensor of a tracer."""
    return not torch.compiler.is_compiling() and type(value) in (Tensor, torch.nn.Parameter)


def without_autocast(value: Tensor) -> AbstractContextManager[Any]:
    """Switches autocast off: it reaches inside custom ops and would run float32 products in 16 bits."""
    device = value.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
