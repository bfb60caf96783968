"""What is said before training, and when it stops early: a signal, values that are not finite, log-variances that say nothing."""

from __future__ import annotations

import math
import signal
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from prolap.training.config import Config

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def warn_of(config: Config, device: torch.device) -> None:
    """One warning for each option that works and hardly anyone wants."""
    instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if device.type == "cpu" and config.optim.amp == "bf16" and not instructions:
        message = (
            "optim.amp is bf16, for which this CPU has no instructions: `--optim.amp off` is several times as fast."
        )
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    size = config.overfit or config.batch_size
    if size == 1:
        message = "a batch of one pair has no negatives: contrastive losses learn nothing from it."
        warnings.warn(message, RuntimeWarning, stacklevel=4)


class Interrupt:
    """A context in which the first SIGINT or SIGTERM only sets `received`; a second one interrupts at once.

    Outside of the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


class TrainingStopped(RuntimeError):
    """Training stopped by itself; the message has the reason and the last good checkpoint."""

    def __init__(self, step: int, reason: str, checkpoint: Path | None) -> None:
        good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        super().__init__(f"training stopped at step {step}: {reason}; {good}.")
        self.step, self.reason, self.checkpoint = step, reason, checkpoint


def not_finite(values: Mapping[str, float]) -> str | None:
    """The reason to stop if a value is NaN or infinite."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    return ", ".join(bad) or None


def unusable_uncertainty(values: Mapping[str, float], config: Config, warm: bool = True) -> str | None:
    """The reason to stop if the log-variances stand at a bound or are the same for all samples.

    Reads `bounds/<modality>` and `uncertainty/<modality>_spread`; a batch of one row has no spread. A new model's
    log-variances start all alike by construction, so a missing spread counts only once the warm-up is over (`warm`).
    """
    if not config.trains_uncertainty:
        return None
    safety, rows = config.safety, config.overfit or config.batch_size
    for modality in ("audio", "text"):
        share, spread = values.get(f"bounds/{modality}", 0.0), values.get(f"uncertainty/{modality}_spread", math.inf)
        if share > safety.max_saturated:
            return (
                f"{share:.0%} of the {modality} log-variances stand at a bound "
                f"(model.logvar_bounds {config.model.logvar_bounds}, safety.max_saturated {safety.max_saturated})"
            )
        if warm and rows > 1 and spread < safety.min_spread:
            return (
                f"the {modality} log-variances collapsed, their standard deviation over samples is {spread:.1e} "
                f"(safety.min_spread {safety.min_spread})"
            )
    return None
