"""The losses of one ProLAP step beside the same in plain torch: `python -m benchmarks.step [--device cpu|cuda] [--json FILE]`.

Batch 256, D 1024: PPCL, inclusion of sounds in captions, both chains of masks (2 copies of the sounds and 3 of the captions of
the first 12.5 % of the batch) and both bottlenecks, forward and backward, with the paper's weights. Correctness against float64
comes first, and without it no time is reported. Times are medians of calls that take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prolap_kernels import Gaussian, Inclusion, Vib, matched_losses, ppcl_loss

from . import measure
from .records import Row, argument_parser, mb_text, origin, quartiles_text, shows, stamp, table, write_json

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
        """Index of the captions' level."""
        return 1 + AUDIO_COPIES

    def leaves(self) -> dict[str, Tensor]:
        """All that learns."""
        levels = {f"{i}.{field}": t for i, z in enumerate(self.levels) for field, t in z._asdict().items()}
        return levels | {"scale": self.scale, "bias": self.bias}

    def clear(self) -> None:
        """Forgets the gradients."""
        for leaf in self.leaves().values():
            leaf.grad = None

    def double(self) -> Views:
        """The same in float64."""

        def wide(t: Tensor) -> Tensor:
            return t.detach().double().requires_grad_()

        levels = [Gaussian(*map(wide, z)) for z in self.levels]
        return self._replace(levels=levels, scale=wide(self.scale), bias=wide(self.bias))


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
    views.clear()
    loss = step(views)
    loss.backward()
    return loss


def errors(step: Step, views: Views) -> dict[str, float]:
    """Against float64, as a share of the norm: the loss, and the worst gradient by means, log-variances, scale and bias."""
    wide = views.double()
    exact, value = train(eager, wide), train(step, views)
    result = {"loss": float((value.double() - exact).detach().abs() / exact.detach().abs())}
    for (name, leaf), right in zip(views.leaves().items(), wide.leaves().values(), strict=True):
        assert leaf.grad is not None
        assert right.grad is not None
        kind = name.split(".")[-1]
        result[kind] = max(result.get(kind, 0.0), float((leaf.grad.double() - right.grad).norm() / right.grad.norm()))
    return result


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


def operators(name: str, step: Step, views: Views) -> int | None:
    """Torch operators of a call on a CPU, without those inside custom ops; None for compiled code, where nobody can count."""
    if name == "torch.compile":
        return None
    with Operators() as mode:
        train(step, views)
    return mode.count


def peak_bytes(step: Step, views: Views) -> int:
    """Most memory during a call above the inputs and the gradients; on a CPU this process must have run nothing else."""
    return measure.peak_bytes(lambda: train(step, views), views.clear, views.leaves(), views.scale.device.type)


def rows(device: str, repeat: int) -> list[Row]:
    """A row for each contender; one whose errors exceed those of eager torch and of rounding gets no times."""
    views = make_views(device)
    steps = {name: build() for name, build in CONTENDERS.items()}
    wrong = {name: errors(step, views) for name, step in steps.items()}
    slack = 16 * torch.finfo(torch.float32).eps
    right = {name: step for name, step in steps.items()
             if all(value <= max(2 * wrong["eager"][key], slack) for key, value in wrong[name].items())}  # fmt: skip
    works = {name: lambda step=step: train(step, views) for name, step in right.items()}
    times: dict[str, Any] = measure.interleave(works, device, repeat)
    result = []
    for name, step in steps.items():
        row: Row = {"contender": name, "errors": wrong[name], "passed": name in right}
        if isinstance(times.get(name), str):
            row["failed"] = times[name]
        elif name in right:
            row |= measure.summary(times[name]) | {"times_ours": measure.ratio(times[name], times["prolap_kernels"])}
            if device == "cuda":
                row["launches"] = len(measure.device_work(works[name], device))
                row["peak_bytes"] = peak_bytes(step, views)
            else:
                row |= {"operators": operators(name, step, views)} | measure.child("benchmarks.step", "--peak", name)
        result.append(row)
    return result


@shows("cpu/step.json")
def report(record: Row) -> str:
    """The losses of a ProLAP step."""
    lines = []
    for row in record["rows"]:
        figures = [row.get("failed", "-"), "", "", ""]
        if "seconds" in row:
            operators = "-" if row.get("operators") is None else str(row["operators"])
            figures = [quartiles_text(row, 1), f"{row['times_ours']:.2f}", mb_text(row), operators]
        lines.append([row["contender"], *figures])
    head = ["", "ms (quartiles)", "time / ours", "MB", "operators"]
    text = f"Batch 256, D = 1,024, forward and backward, float32, {origin(record)}"
    return f"{text}:\n\n{table(head, lines)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if a contender of ours is wrong."""
    parser = argument_parser("step", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=30, metavar="N", help="calls of each contender (30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the rows, with device, versions and commit")
    parser.add_argument("--peak", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        print(json.dumps({"peak_bytes": peak_bytes(CONTENDERS[args.peak](), make_views("cpu"))}))
        return 0
    result = rows(args.device, args.repeat)
    for row in result:
        print(json.dumps(row))
    if args.json:
        write_json(args.json, stamp(args.device) | {"rows": result})
    return 0 if result[0]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
