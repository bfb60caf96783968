"""GradCache: a loss over a large batch with the activations of a few rows (Gao et al. 2021, arXiv 2101.06983).

The loss sees all embeddings, but its gradient passes each row's embedding alone. So rows are encoded a chunk at a time without
a graph; the loss is taken on the embeddings as leaves; then each chunk is encoded once more, as it was the first time, with a
graph, and the leaf's gradient goes back through it. Time: one forward pass more. Memory: one chunk's activations and the
embeddings (mean and log-variance) of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from prolap.models.model import ProLAP, concatenate
from prolap_kernels import Gaussian


@dataclass(frozen=True)
class _Rows:
    """Rows of one modality, each as often as `masked` has a mask for it, level by level."""

    modality: str
    inputs: tuple[Tensor, ...]
    masked: Tensor | None
    mode: str

    def __len__(self) -> int:
        return len(self.inputs[0] if self.masked is None else self.masked)

    def encode(self, model: ProLAP, start: int = 0, stop: int | None = None) -> Gaussian:
        """The Gaussians of rows start, ..., stop - 1; what is repeated is copied for this pass alone."""
        stop = len(self) if stop is None else stop
        inputs = (_cycled(part, start, stop) for part in self.inputs)
        forward = getattr(model, f"encode_{self.modality}")
        gaussian: Gaussian = forward(*inputs, None if self.masked is None else self.masked[start:stop], self.mode)
        return gaussian


class Encode:
    """How a step calls the towers of a model: everything at once, and backward is autograd's."""

    def __init__(self, model: ProLAP) -> None:
        self.model = model

    def audio(self, audio: Tensor, frames: Tensor, masked: Tensor | None = None, mode: str = "substitute") -> Gaussian:
        """As `ProLAP.encode_audio`; masked [n · B, T] holds n masks of every row, level by level: -> [n · B, dim]."""
        return self._encode(_Rows("audio", (audio, frames), masked, mode))

    def text(self, tokens: Tensor, masked: Tensor | None = None, mode: str = "substitute") -> Gaussian:
        """As `ProLAP.encode_text`; masked [n · B, L] holds n masks of every row, level by level: -> [n · B, dim]."""
        return self._encode(_Rows("text", (tokens,), masked, mode))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, 0-d and made of what was encoded, to every parameter's."""
        torch.autograd.backward(loss)

    def _encode(self, rows: _Rows) -> Gaussian:
        return rows.encode(self.model)


class Chunks(Encode):
    """The towers `rows` rows at a time, and again in `backward`: GradCache. For one step; what it returns are leaves.

    The second pass of a chunk is the first one over again: random numbers (dropout), autocast and the running statistics of
    batch norms are put back to what they were, so that the gradient is that of autograd through the same chunks. It is
    the unchunked one where rows do not depend on each other: dropout off, batch norms on running statistics. (Dropout
    draws other numbers for chunks, batch norms in training mode take their statistics from a chunk.) Random numbers
    and running statistics go on from where the first pass left them, as if there was no second.

    A modality without trainable parameters, or that the loss did not reach, has no second pass. A loss that is scaled
    (float16) has its scale in the leaves' gradients, once. Hooks on a parameter's gradient see the share of each chunk,
    as they see that of each micro-batch. `loss.backward()` alone would not reach the towers.

    Errors: ValueError for rows < 1.
    """

    def __init__(self, model: ProLAP, rows: int) -> None:
        super().__init__(model)
        if rows < 1:
            raise ValueError(f"rows: got {rows}, want at least 1.")
        self.rows = rows
        self._calls: list[_Call] = []

    def _encode(self, rows: _Rows) -> Gaussian:
        towers = [getattr(self.model, rows.modality), getattr(self.model, f"{rows.modality}_head")]
        buffers, inputs = _running_statistics(towers), rows.inputs[0]
        chunks, parts = [], []
        for start in range(0, len(rows), self.rows):
            encode = partial(rows.encode, self.model, start, min(start + self.rows, len(rows)))
            chunk = _Chunk(encode, ForwardState(inputs, buffers), _autocast(inputs))
            with torch.no_grad(), chunk.autocast():
                parts.append(chunk.encode())
            chunks.append(chunk)
        whole = concatenate(parts)
        learns = any(parameter.requires_grad for tower in towers for parameter in tower.parameters())
        if learns and torch.is_grad_enabled():
            self._calls.append(_Call(chunks, Gaussian(*(part.requires_grad_() for part in whole))))
        return whole

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, 0-d and made of what was encoded, to every parameter's; once."""
        super().backward(loss)
        calls, self._calls = self._calls, []
        for chunks, leaves in calls:
            if leaves.mean.grad is None and leaves.logvar.grad is None:
                continue
            with _preserved(chunks[0].state):
                for number, chunk in enumerate(chunks):
                    rows = slice(number * self.rows, (number + 1) * self.rows)
                    chunk.replay(tuple(None if leaf.grad is None else leaf.grad[rows] for leaf in leaves))


def encoding(model: ProLAP, chunk: int) -> Encode:
    """The towers for one step: `chunk` rows at a time, or all at once if it is 0."""
    return Chunks(model, chunk) if chunk else Encode(model)


class ForwardState:
    """What a forward pass reads and changes besides its inputs: random numbers (of the CPU and of the device where `inputs`
    lives) and the buffers, as they are now.
    """

    def __init__(self, inputs: Tensor, buffers: list[Tensor]) -> None:
        self.inputs, self.buffers = inputs, buffers
        self._cpu = torch.get_rng_state()
        self._devices = get_device_states(inputs)
        self._values = [buffer.clone() for buffer in buffers]

    def restore(self) -> None:
        """Put all of it back."""
        torch.set_rng_state(self._cpu)
        set_device_states(*self._devices, device_type=self.inputs.device.type)
        for buffer, value in zip(self.buffers, self._values, strict=True):
            buffer.copy_(value)


class _Chunk(NamedTuple):
    encode: Callable[[], Gaussian]
    state: ForwardState
    autocast: Callable[[], torch.autocast]

    def replay(self, grads: tuple[Tensor | None, ...]) -> None:
        """Encode again with a graph, and send the gradients of mean and log-variance back through it."""
        self.state.restore()
        with torch.enable_grad(), self.autocast():
            outputs = self.encode()
        pairs = zip(outputs, grads, strict=True)
        reached = [(out, grad) for out, grad in pairs if grad is not None and out.requires_grad]
        if reached:
            torch.autograd.backward([out for out, _ in reached], [grad for _, grad in reached])


class _Call(NamedTuple):
    chunks: list[_Chunk]
    leaves: Gaussian


@contextmanager
def _preserved(like: ForwardState) -> Iterator[None]:
    """Random numbers and buffers after this block are what they were before it."""
    now = ForwardState(like.inputs, like.buffers)
    try:
        yield
    finally:
        now.restore()


def _autocast(inputs: Tensor) -> Callable[[], torch.autocast]:
    """The autocast that is on now. Without its cache: weights cast where there is no graph would have none in the second pass."""
    kind = inputs.device.type
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return partial(torch.autocast, kind, dtype, enabled=enabled, cache_enabled=False)


def _running_statistics(towers: list[nn.Module]) -> list[Tensor]:
    norms = (
        module for tower in towers for module in tower.modules() if isinstance(module, nn.modules.batchnorm._NormBase)
    )
    return [buffer for norm in norms for buffer in norm.buffers()]


def _cycled(part: Tensor, start: int, stop: int) -> Tensor:
    """Rows start, ..., stop - 1 of `part`, [B, ...], repeated without end."""
    if stop <= len(part):
        return part[start:stop]
    return part[torch.arange(start, stop, device=part.device) % len(part)]
