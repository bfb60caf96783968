"""The optimiser: which parameter gets which learning rate and decay, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from prolap.config import OptimConfig

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)

_BARE = ("bias", "mask", "relative_position_bias_table")


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group; groups without parameters are left out.

    `decay`: matrices and filters. `plain`: biases, norms, embeddings (one row of the words is [MASK]), [MASK] tokens, HTS-AT's
    tables of relative positions and everything else of one dimension. `logvar`: what lies under a module named `logvar`,
    at `logvar_lr`. `scale`: the model's `log_scale` and `bias`, at `scale_lr`. Where `audio_lr` or `text_lr` is set, what
    of `decay` and `plain` lies in that encoder is in groups of its own, `audio.decay` and so on. Only groups of `decay` have
    weight decay. A group's `name` is its name, its `base_lr` the rate before the schedule, its `params` are ordered by
    name as in the model.
    """
    bare = {
        f"{name}.{kind}" if name else kind
        for name, module in model.named_modules()
        if isinstance(module, (*_NORMS, nn.Embedding))
        for kind, _ in module.named_parameters(recurse=False)
    }
    rates = _rates(config)
    names: dict[str, list[str]] = {group: [] for group in rates}
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        parts = name.split(".")
        if name in ("log_scale", "bias"):
            names["scale"].append(name)
        elif "logvar" in parts[:-1]:
            names["logvar"].append(name)
        else:
            plain = name in bare or parameter.ndim < 2 or parts[-1] in _BARE
            kind = "plain" if plain else "decay"
            own = f"{parts[0]}.{kind}"
            names[own if own in names else kind].append(name)
    return [
        {
            "name": group,
            "params": [parameters[name] for name in members],
            "lr": rates[group],
            "base_lr": rates[group],
            "weight_decay": config.weight_decay if group.endswith("decay") else 0.0,
        }
        for group, members in names.items()
        if members
    ]


def _rates(config: OptimConfig) -> dict[str, float]:
    """Group -> learning rate before the schedule."""
    rates = {"decay": config.lr, "plain": config.lr}
    for tower, lr in (("audio", config.audio_lr), ("text", config.text_lr)):
        if lr is not None:
            rates |= {f"{tower}.decay": lr, f"{tower}.plain": lr}
    return rates | {"logvar": config.lr if config.logvar_lr is None else config.logvar_lr, "scale": config.scale_lr}


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over `parameter_groups`."""
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameter_groups(model, config), lr=config.lr, betas=config.betas)


def lr_factor(step: int, steps: int, warmup_steps: int) -> float:
    """(step + 1) / warmup_steps in the warm-up, then ½(1 + cos(π·t)), t = (step - warmup_steps) / (steps - warmup_steps).

    `step` counts from 0 to steps - 1; a pure function of its arguments, so that a schedule has no state.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's rate to factor · base_lr."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["base_lr"]


def learning_rates(config: OptimConfig, factor: float) -> dict[str, float]:
    """What is logged: `lr`, and `lr/audio`, `lr/text` where those encoders have their own."""
    own = {"lr/audio": config.audio_lr, "lr/text": config.text_lr}
    return {name: factor * lr for name, lr in ({"lr": config.lr} | own).items() if lr is not None}
