"""Inputs of tiles, and their matrices and gradients by any backend."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor

from prolap_kernels import Gaussian, pairwise_score
from prolap_kernels.scores import ELEMENTWISE, Score

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILER = shutil.which("g++") is not None
names = {"argvalues": ELEMENTWISE, "ids": [s.name for s in ELEMENTWISE]}


def draw(n: int, d: int, seed: int, centre: float = -2.0, spread: float = 1.0) -> Gaussian:
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, d, generator=random)
    return Gaussian(mean, centre + spread * torch.randn(n, d, generator=random))


def matrix(score: Score, x: Gaussian, y: Gaussian, backend: str) -> Tensor:
    name, _, convention = score.name.partition("/")
    options = {"convention": convention} if convention else {}
    x, y = (Gaussian(z.mean.to(DEVICE), z.logvar.to(DEVICE)) for z in (x, y))
    return pairwise_score(x, y, score=name, backend=backend, **options).cpu()


def gradients(matrix: Tensor, weight: Tensor, x: Gaussian, y: Gaussian) -> list[Tensor]:
    tensors = [*x, *y]
    return list(torch.autograd.grad((matrix * weight).sum(), tensors, allow_unused=True, materialize_grads=True))
