"""Modules that do not learn: no gradient, and in evaluation mode also while the rest trains."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from torch import nn

from prolap.config.options import ConfigError


class Frozen:
    """What `model.freeze` names, frozen: parameters get no gradient, `still()` puts the modules into evaluation mode.

    patterns: separated by commas, each the path of a module or parameter (`audio`, `text.base.h.0`, `audio.mask`) with all that
    is below it, or a shell pattern over such paths (`text.base.h.[0-5]`, `*.layernorm_before`), with all that is below the
    matches. Evaluation mode stills dropout and the statistics of batch norms, so that nothing of a frozen module changes.
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

    def still(self) -> None:
        """Put the frozen modules into evaluation mode; call it after `model.train()`."""
        for module in self.modules:
            module.eval()
