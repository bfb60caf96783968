"""What the encoders made of `transformers` modules share: the late import, and recomputing activations."""

from __future__ import annotations

import functools
from types import ModuleType

from torch import nn
from torch.utils.checkpoint import checkpoint


def transformers() -> ModuleType:
    """The package `transformers`, imported when an encoder asks for it because that takes seconds."""
    try:
        import transformers as package
    except ImportError as error:
        raise ModuleNotFoundError("this encoder needs transformers: pip install prolap[train]") from error
    module: ModuleType = package
    return module


def recompute(base: nn.Module) -> None:
    """Recompute the activations of each layer (HTS-AT: of each stage) in backward instead of keeping them.

    Sets the switches that transformers' own layers read; `gradient_checkpointing_enable` refuses ClapAudioModel, whose
    stages are such layers all the same. Not re-entrant, random numbers replayed: the same gradients. In training mode alone.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in base.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.gradient_checkpointing = True
            vars(layer)["_gradient_checkpointing_func"] = functools.partial(checkpoint, use_reentrant=False)
