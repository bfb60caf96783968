"""The picture of docs/inclusion.md: `python -m benchmarks.saturation [--out docs/saturation.png]`. Needs matplotlib.

Share of saturated rows and size of the gradient of an inclusion loss against its scale c, for embeddings as a new model has them
(log-variances about -10 with a small spread, D = 1024) and as training leaves them (differences between levels of 0.1 and 1 in
log-variance), for every way to take H over dimensions. No timing: the numbers repeat bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from prolap_kernels import Gaussian, Inclusion, matched_losses

from .records import ROOT, argument_parser

ROWS, WIDTH, BIAS, SPREAD = 64, 1024, -10.0, 0.05
SHIFTS = {"new model: same width on average": 0.0, "outer wider by 0.1": 0.1, "outer wider by 1": 1.0}
"""Mean difference of the log-variances of the outer level and the inner one."""
SCALES = [10.0**k for k in torch.linspace(-5, 4, 37).tolist()]
REDUCE_DIMS = ("sum", "mean", "none")


def levels(shift: float, seed: int = 0) -> tuple[Gaussian, Gaussian]:
    """Inner and outer embeddings: unit means at a small angle, log-variances with a spread over rows and over dimensions."""
    source = torch.Generator().manual_seed(seed)

    def noise(width: int) -> torch.Tensor:
        return torch.randn(ROWS, width, generator=source)

    mean = F.normalize(noise(WIDTH), dim=-1)
    near = F.normalize(mean + 0.3 * F.normalize(noise(WIDTH), dim=-1), dim=-1)

    def level(centre: torch.Tensor, offset: float) -> Gaussian:
        logvar = BIAS + offset + SPREAD * (noise(1) + noise(WIDTH))
        return Gaussian(centre.clone().requires_grad_(), logvar.requires_grad_())

    return level(mean, 0.0), level(near, shift)


def curves(shift: float, reduce_dims: str, convention: str) -> list[tuple[float, float, float]]:
    """(c, share of saturated rows, norm of the gradient by the log-variances of a row) for every c."""
    x, y = levels(shift)
    curve = []
    for scale in SCALES:
        term = Inclusion((0, 1), scale, convention, reduce_dims)  # type: ignore[arg-type]
        (loss,), saturated = matched_losses([x, y], [term], stats=True)
        (grad,) = torch.autograd.grad(loss, y.logvar)
        curve.append((scale, float(saturated[0]), float(ROWS * grad.norm(dim=1).mean())))
    return curve


def draw(path: Path, every: dict[tuple[str, str, str], list[tuple[float, float, float]]]) -> None:
    """Two rows of panels: shares and gradients; a column for each convention. every: curves by convention, case, reduction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels: Any = figure.subplots(2, 2, sharex=True)
    styles = dict(zip(REDUCE_DIMS, ("-", "--", ":"), strict=True))
    for column, convention in enumerate(("exact", "prolip")):
        for colour, label in enumerate(SHIFTS):
            for reduce_dims, style in styles.items():
                curve = every[convention, label, reduce_dims]
                look = {"linestyle": style, "color": f"C{colour}", "label": f"{label}, {reduce_dims}"}
                panels[0, column].plot([c for c, _, _ in curve], [share for _, share, _ in curve], **look)
                size = [(c, g) for c, _, g in curve if g > 0]
                panels[1, column].plot(*zip(*size, strict=True), **look)
        panels[0, column].set_title(f'convention "{convention}"')
        panels[1, column].set_xlabel("scale c")
        panels[1, column].set_xscale("log")
        panels[1, column].set_yscale("log")
        panels[1, column].set_ylim(1e-12, 1e3)
    panels[0, 0].set_ylabel("share of saturated rows")
    panels[1, 0].set_ylabel("gradient of a row by log-variances, norm")
    panels[1, 0].legend(fontsize=7)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture, and prints the numbers of a few scales."""
    parser = argument_parser("saturation", __doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "saturation.png", metavar="FILE")
    args = parser.parse_args(argv)
    every = {
        (convention, label, reduce_dims): curves(shift, reduce_dims, convention)
        for convention in ("exact", "prolip")
        for label, shift in SHIFTS.items()
        for reduce_dims in REDUCE_DIMS
    }
    for names, curve in every.items():
        print(", ".join(names) + ": " + "; ".join(f"c={c:.0e} {share:.2f} {g:.1e}" for c, share, g in curve[::4]))
    draw(args.out, every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
