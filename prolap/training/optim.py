"""What learns, and how fast: frozen modules, groups of parameters, the learning rate by step; the optimiser's stored state."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from prolap.config import OptimConfig
from prolap.config.options import ConfigError
from prolap.weights.checkpoint import CheckpointError

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Every trainable parameter in exactly one group; groups without parameters are left out.

    `decay`: matrices and filters. `plain`: biases, norms, embeddings (one row of the words is [MASK]), what a module names in
    `no_decay` ([MASK] tokens, HTS-AT's tables of relative positions) and everything else of one dimension. `logvar`: all
    below a module named `logvar`, at `logvar_lr`. `scale`: the model's `log_scale` and `bias`, at `scale_lr`. Where
    `audio_lr` or `text_lr` is set, that encoder has groups of its own, `audio.decay` and so on. Only groups of `decay` have
    weight decay. A group's `name` is its name, its `base_lr` the rate before the schedule, its `params` are ordered as in
    the model.
    """
    undecayed = set(_undecayed(model))
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
            kind = "plain" if name in undecayed or parameter.ndim < 2 or parts[-1] == "bias" else "decay"
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


def _undecayed(model: nn.Module) -> Iterator[str]:
    """Names of the parameters of norms and embeddings, and of those that a module names in `no_decay`."""
    for path, module in model.named_modules():
        names = [name for name, _ in module.named_parameters(prefix=path)]
        if isinstance(module, (*_NORMS, nn.Embedding)):
            yield from names
        yield from (name for name in names if name.rpartition(".")[2] in getattr(module, "no_decay", ()))


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


class Frozen:
    """The modules that `model.freeze` names: their parameters get no gradient, `eval()` puts them into evaluation mode.

    patterns: separated by commas, each the path of a module or parameter (`audio`, `text.base.h.0`, `audio.mask`) with all that
    is below it, or a shell pattern over such paths (`text.base.h.[0-5]`, `*.layernorm_before`), with all that is below the
    matches. Evaluation mode turns off dropout and the statistics of batch norms, so that nothing of a frozen module changes.
    Where a whole tower is frozen, its forward pass keeps nothing for a backward pass; below a frozen part of one that
    learns (a [MASK] token, say) gradients still pass through.

    Errors: ConfigError for a pattern that matches nothing, or if nothing is left to learn.
    """

    def __init__(self, model: nn.Module, patterns: str) -> None:
        self.modules: list[nn.Module] = []
        modules = {name: module for name, module in model.named_modules() if name}
        parameters = dict(model.named_parameters())
        for pattern in filter(None, (part.strip() for part in patterns.split(","))):
            named = [name for name in modules if fnmatchcase(name, pattern)]
            single = [name for name in parameters if fnmatchcase(name, pattern)]
            if not named and not single:
                close = difflib.get_close_matches(pattern, [*modules, *parameters], n=3)
                known = close or [name for name in modules if "." not in name]
                raise ConfigError(f"model.freeze: got {pattern!r}, which no module is called; try {', '.join(known)}.")
            for name in single:
                parameters[name].requires_grad_(False)
            for name in named:
                modules[name].requires_grad_(False)
                self.modules.append(modules[name])
        if parameters and not any(parameter.requires_grad for parameter in parameters.values()):
            raise ConfigError(f"model.freeze: got {patterns!r}, after which nothing is left to learn.")

    def eval(self) -> None:
        """Put the frozen modules into evaluation mode; call it after `model.train()`."""
        for module in self.modules:
            module.eval()


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `<parameter name>/<key>`, e.g. `audio.mask/exp_avg`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, step counts included; a name that the model lacks is a CheckpointError."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for full, value in tensors.items():
        name, _, key = full.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"the optimiser state has {name!r}, which the model lacks.")
        if (shape := () if key == "step" else parameters[name].shape) != value.shape:
            raise CheckpointError(f"the optimiser state {full!r} has shape {[*value.shape]}, want {[*shape]}.")
        device = "cpu" if key == "step" else parameters[name].device
        # a fresh copy: what a file maps into memory is aligned otherwise, and so may round otherwise
        optimizer.state[parameters[name]][key] = value.to(device, copy=True)
