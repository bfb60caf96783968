"""The losses of one ProLAP step beside the same in plain torch: `python -m benchmarks.step [--device cpu|cuda] [--json FILE]`.

Batch 256, D 1024: PPCL, inclusion of sounds in captions, both chains of masks (2 copies of the sounds and 3 of the captions of
the first 12.5 % of the batch) and both bottlenecks, forward and backward, with the paper's weights. Correctness against float64
comes first, and without it no time is reported. Times are medians of calls that take turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prolap_kernels import Gaussian, Inclusion, Vib, matched_losses, ppcl_loss

from . import measure
from .environment import ROOT, stamp

BATCH, WIDTH, SHARE, AUDIO_COPIES, TEXT_COPIES = 256, 1024, 0.125, 2, 3
HIERARCHY, CROSS, VIB = 5e-3, 5e-7, 1e-5
SCALE = 1.0
"""c of both inclusion terms."""
Step = Callable[["Views"], Tensor]


class Views(NamedTuple):
    """Levels in the order audio, its copies, text, its copies; flags of the links that mask something new; scale and bias."""

    levels: list[Gaussian]
    audio_links: Tensor
    text_links: Tensor
    scale: Tensor
    bias: Tensor

    @property
    def text(self) -> int:
        """The place of the captions."""
        return 1 + AUDIO_COPIES

    def leaves(self) -> list[Tensor]:
        """All that learns."""
        return [*(t for z in self.levels for t in z), self.scale, self.bias]

    def double(self) -> Views:
        """The same in float64."""
        wide = [Gaussian(*(t.detach().double().requires_grad_() for t in z)) for z in self.levels]
        return Views(
            wide,
            *self[1:3],
            self.scale.detach().double().requires_grad_(),
            self.bias.detach().double().requires_grad_(),
        )


def make_views(device: str, seed: int = 0) -> Views:
    """Unit means, masked ones near their originals; log-variances around -6, wider where more is masked."""
    source = torch.Generator().manual_seed(seed)
    rows = max(1, round(SHARE * BATCH))

    def modality(copies: int) -> list[Gaussian]:
        mean = F.normalize(torch.randn(BATCH, WIDTH, generator=source), dim=-1)
        levels = [(mean, -6 + 0.3 * torch.randn(BATCH, WIDTH, generator=source))]
        for level in range(1, copies + 1):
            near = F.normalize(mean[:rows] + 0.01 * level * torch.randn(rows, WIDTH, generator=source), dim=-1)
            levels.append((near, -6 + 0.2 * level + 0.3 * torch.randn(rows, WIDTH, generator=source)))
        return [Gaussian(*(t.to(device).requires_grad_() for t in level)) for level in levels]

    links = [(torch.rand(copies, rows, generator=source) < 0.9).to(device) for copies in (AUDIO_COPIES, TEXT_COPIES)]
    scalars = [torch.tensor(v, device=device, requires_grad=True) for v in (10.0, -10.0)]
    return Views(modality(AUDIO_COPIES) + modality(TEXT_COPIES), *links, *scalars)


def ours(views: Views) -> Tensor:
    """Two calls."""
    z, text = views.levels, views.text
    terms = [
        Inclusion((0, text), SCALE),
        Inclusion(tuple(range(text)), SCALE, valid=views.audio_links),
        Inclusion(tuple(range(text, len(z))), SCALE, valid=views.text_links),
        Vib(0),
        Vib(text),
    ]
    cross, audio, caption, *bottlenecks = matched_losses(z, terms)
    pairs = ppcl_loss(z[0], z[text], views.scale, views.bias)
    return _total(pairs, cross, audio, caption, *bottlenecks)


def _total(pairs: Tensor, cross: Tensor, audio: Tensor, text: Tensor, vib_audio: Tensor, vib_text: Tensor) -> Tensor:
    return pairs + CROSS * cross + 0.5 * HIERARCHY * (audio + text) + 0.5 * VIB * (vib_audio + vib_text)


def eager(views: Views) -> Tensor:
    """As a careful user writes it, term by term."""
    z, text = views.levels, views.text
    x, y = z[0], z[text]
    spread = -0.5 * (x.logvar.exp().sum(1)[:, None] + y.logvar.exp().sum(1)[None, :])
    logit = views.scale * (x.mean @ y.mean.T + spread) + views.bias
    sign = 2 * torch.eye(len(logit), device=logit.device, dtype=logit.dtype) - 1
    pairs = -F.logsigmoid(sign * logit).sum() / len(logit)
    cross = -F.logsigmoid(SCALE * _h(x, y)).mean()
    audio = _chain(z[:text], views.audio_links)
    return _total(pairs, cross, audio, _chain(z[text:], views.text_links), _kl(x), _kl(y))


def _h(x: Gaussian, y: Gaussian) -> Tensor:
    vx, vy = x.logvar.exp(), y.logvar.exp()
    wide_x, wide_y = 2 * vx + vy, vx + 2 * vy
    gap = (x.mean - y.mean).square() * (vy - vx) / (wide_x * wide_y)
    return (0.5 * (y.logvar - x.logvar) + 0.5 * torch.log(wide_x / wide_y) + gap).sum(1)


def _chain(levels: Sequence[Gaussian], links: Tensor) -> Tensor:
    rows = links.shape[1]
    chain = [Gaussian(z.mean[:rows], z.logvar[:rows]) for z in levels]
    losses = torch.stack([-F.logsigmoid(SCALE * _h(a, b)) for a, b in zip(chain, chain[1:], strict=False)])
    return torch.where(links, losses, 0).sum() / links.sum().clamp(min=1)


def _kl(z: Gaussian) -> Tensor:
    return -0.5 * (1 + z.logvar - z.mean.square() - z.logvar.exp()).mean()


CONTENDERS: dict[str, Callable[[], Step]] = {
    "prolap_kernels": lambda: ours,
    "eager": lambda: eager,
    "torch.compile": lambda: torch.compile(eager),
}


def train(step: Step, views: Views) -> Tensor:
    """One forward and backward pass into fresh gradients."""
    for leaf in views.leaves():
        leaf.grad = None
    loss = step(views)
    loss.backward()
    return loss


def errors(step: Step, views: Views) -> dict[str, float]:
    """Against float64, as a share of the norm: the loss, and the worst gradient by means, log-variances, scale and bias."""
    wide = views.double()
    want, got = train(eager, wide), train(step, views)
    found = {"loss": float((got.double() - want).detach().abs() / want.detach().abs())}
    names = ["mean", "logvar"] * len(views.levels) + ["scale", "bias"]
    for name, mine, true in zip(names, views.leaves(), wide.leaves(), strict=True):
        assert mine.grad is not None
        assert true.grad is not None
        gap = float((mine.grad.double() - true.grad).norm() / true.grad.norm())
        found[name] = max(found.get(name, 0.0), gap)
    return found


class Operators(TorchDispatchMode):
    """Counts what is not a view or an empty tensor."""

    FREE = ("empty", "new_empty", "view", "slice", "select", "split", "unbind", "detach", "alias", "narrow", "expand",
            "transpose", "t.", "unsqueeze", "_unsafe_view", "as_strided")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.__name__.startswith(self.FREE) and "prolap_kernels" not in str(func)
        return func(*args, **(kwargs or {}))


def launches(name: str, step: Step, views: Views, device: str) -> int | None:
    """Kernels and copies on a GPU; on a CPU torch operators, without those inside custom ops; unknown for compiled code."""
    if device != "cuda":
        if name == "torch.compile":
            return None
        with Operators() as mode:
            train(step, views)
        return mode.count
    from torch.profiler import ProfilerActivity, profile

    train(step, views)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        train(step, views)
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in found.events())


def times(steps: dict[str, Step], views: Views, device: str, repeat: int) -> dict[str, list[float]]:
    """Seconds of each call, contenders taking turns."""
    for step in steps.values():
        for _ in range(measure.WARM_UP):
            train(step, views)
    found: dict[str, list[float]] = {name: [] for name in steps}
    order = deque(steps)
    for _ in range(repeat):
        order.rotate()
        for name in order:
            found[name].append(measure.seconds(lambda name=name: train(steps[name], views), device))  # type: ignore[misc]
    return found


def peak_bytes(step: Step, views: Views, device: str) -> int:
    """Most memory during a call above the inputs and the gradients; on a CPU this process must have run nothing else."""
    for _ in range(measure.WARM_UP):
        train(step, views)
    for leaf in views.leaves():
        leaf.grad = None
    gc.collect()
    before = measure._used(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    train(step, views)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else measure._status("VmHWM")
    return max(peak - before - sum(leaf.grad.nbytes for leaf in views.leaves() if leaf.grad is not None), 0)


def memory(name: str, step: Step, views: Views, device: str) -> int | None:
    """`peak_bytes`; on a CPU in a process of its own, since it is read from the resident set."""
    if device == "cuda":
        return peak_bytes(step, views, device)
    command = [sys.executable, "-m", "benchmarks.step", "--peak", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def rows(device: str, repeat: int) -> list[dict[str, Any]]:
    """A row for each contender; one whose errors exceed those of eager torch and of rounding gets no times."""
    views = make_views(device)
    steps = {name: build() for name, build in CONTENDERS.items()}
    wrong = {name: errors(step, views) for name, step in steps.items()}
    slack = 16 * torch.finfo(torch.float32).eps
    passed = {
        name: all(value <= max(2 * wrong["eager"][key], slack) for key, value in found.items())
        for name, found in wrong.items()
    }
    right = {name: step for name, step in steps.items() if passed[name]}
    spent = times(right, views, device, repeat)
    made = []
    for name, step in steps.items():
        row: dict[str, Any] = {"contender": name, "errors": wrong[name], "passed": passed[name]}
        if name in right:
            row["launches" if device == "cuda" else "operators"] = launches(name, step, views, device)
            row["seconds"] = statistics.median(spent[name])
            row["quartiles"] = statistics.quantiles(spent[name], n=4)[::2]
            row["times_ours"] = measure.ratio(spent[name], spent["prolap_kernels"])
            row["peak_bytes"] = memory(name, step, views, device)
        made.append(row)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if a contender of ours is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=30, metavar="N", help="calls of each contender (30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows")
    parser.add_argument("--peak", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.peak:
        print(peak_bytes(CONTENDERS[options.peak](), make_views("cpu"), "cpu"))
        return 0
    found = rows(options.device, options.repeat)
    for row in found:
        print(json.dumps(row))
    if options.json:
        case = f"ProLAP step losses, batch {BATCH}, D {WIDTH}"
        record = {"case": case, "environment": stamp(options.device), "rows": found}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if found[0]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
