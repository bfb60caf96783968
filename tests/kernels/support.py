"""The support table: every cell is a probe that ran. `python -m tests.kernels.support` writes docs/support.md.

A probe returns whether its numbers are right ("yes"). An error that names the package makes the cell "raises"; wrong numbers stop
the script.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from prolap_kernels import SCORES, Gaussian, pairwise_loss
from prolap_kernels import scores as registry
from tests.kernels.common import pair_inputs, pair_loss
from tests.tolerances import assert_as_exact_as, likely

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
BACKENDS = ("reference", "chunked", "triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REFUSAL = re.compile(r"prolap_kernels|^backend 'triton' |generate_vmap_rule|implement the jvp|double backwards")
"""Messages of refusals: our own, and those of torch where a function has no such rule. Any other error is a defect."""


def _inputs(dtype: torch.dtype = torch.float32, d: int = 16) -> list[Tensor]:
    return [t.detach().to(DEVICE).requires_grad_() for t in pair_inputs(5, 4, d, dtype)]


def _loss(backend: str, score: str = "csd", objective: str = "sigmoid", **options: object) -> Callable[..., Tensor]:
    return pair_loss(score, objective, backend=backend, **options)


def _grads(loss: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    value = loss(*inputs)
    grads = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return [value.detach(), *grads]


def _truth(inputs: list[Tensor], score: str = "csd", objective: str = "sigmoid", **options: object) -> list[Tensor]:
    exact = [t.detach().double().requires_grad_() for t in inputs]
    return _grads(_loss("reference", score, objective, **options), exact)


def _close(
    got: list[Tensor], want: list[Tensor], dtype: torch.dtype, eager: list[Tensor] | None = None, size: float = 1.0
) -> bool:
    """Every error within twice what dense eager torch errs, and the roundings of sums over 5 rows, 4 columns, 16 dimensions."""
    try:
        assert_as_exact_as(eager or want, got, want, terms=likely(5 + 4 + 16) * size, inner=dtype, result=dtype)
    except AssertionError:
        return False
    return True


def dtype(kind: torch.dtype, backend: str) -> bool:
    inputs = _inputs(kind)
    return _close(_grads(_loss(backend), inputs), _truth(inputs), kind)


def scores(names: list[str], objective: str, backend: str) -> bool:
    inputs = _inputs()

    def right(score: str) -> bool:
        got, eager = (_grads(_loss(b, score, objective), inputs) for b in (backend, "reference"))
        # as a bilinear score a distance is a difference of sums over D of squares and variances, of about this size
        size = float(sum(t.detach().exp().sum(1).max() for t in (inputs[1], inputs[3])))
        return _close(got, _truth(inputs, score, objective), torch.float32, eager, max(1.0, size))

    return all(map(right, names))


def option(backend: str, **options: object) -> bool:
    inputs = _inputs()
    pick: Callable[..., Tensor] = lambda value: value.square().sum() if value.dim() else value  # noqa: E731
    loss, exact = _loss(backend, **options), _loss("reference", **options)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    got, want = _grads(lambda *t: pick(loss(*t)), inputs), _grads(lambda *t: pick(exact(*t)), doubles)
    return _close(got, want, torch.float32)


def stats(backend: str) -> bool:
    mx, lx, my, ly = (t.detach() for t in _inputs()[:4])
    call = partial(pairwise_loss, score="csd", scale=5.0, bias=-2.0, stats=True)
    got = call(Gaussian(mx, lx), Gaussian(my, ly), backend=backend)[1]
    want = call(Gaussian(mx.double(), lx.double()), Gaussian(my.double(), ly.double()), backend="reference")[1]
    return _close(list(got), list(want), torch.float32)


def repeatable(backend: str) -> bool:
    inputs = _inputs()
    return all(torch.equal(a, b) for a, b in zip(*(_grads(_loss(backend), inputs) for _ in range(2)), strict=True))


def second(backend: str) -> bool:
    inputs = _inputs(torch.float64 if backend == "reference" else torch.float32, d=2)
    grad = torch.autograd.grad(_loss(backend)(*inputs), inputs[0], create_graph=True)[0]
    (grad.square().sum() + inputs[0].sum()).backward()
    return backend == "reference" and torch.autograd.gradgradcheck(_loss(backend), inputs)


def compiled(backend: str) -> bool:
    inputs = _inputs()
    torch.compiler.reset()
    whole = torch.compile(_loss(backend), fullgraph=True, backend="aot_eager")
    return _close(_grads(whole, inputs), _truth(inputs), torch.float32)


def func_grad(backend: str) -> bool:
    inputs = _inputs()
    got = torch.func.grad(_loss(backend), argnums=tuple(range(6)))(*[t.detach() for t in inputs])
    return _close(list(got), _truth(inputs)[1:], torch.float32)


def func_in_compile(backend: str) -> bool:
    inputs = [t.detach() for t in _inputs()]
    torch.compiler.reset()
    got = torch.compile(torch.func.grad(_loss(backend)), fullgraph=True, backend="aot_eager")(*inputs)
    return _close([got], _truth(inputs)[1:2], torch.float32)


def jvp(backend: str) -> bool:
    inputs = [t.detach() for t in _inputs()]
    first = _loss(backend)
    derivative = torch.func.jvp(lambda mean: first(mean, *inputs[1:]), (inputs[0],), (inputs[0],))[1]
    return _close([derivative], [(_truth(inputs)[1] * inputs[0]).sum()], torch.float32)


def vmap(backend: str) -> bool:
    inputs = [t.detach() for t in _inputs()]
    both = torch.func.vmap(lambda mean: _loss(backend)(mean, *inputs[1:]))(torch.stack([inputs[0]] * 2))
    return _close(list(both), [_truth(inputs)[0]] * 2, torch.float32)


def autocast(backend: str) -> bool:
    inputs = _inputs()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        value = _loss(backend)(*inputs)
    results = [value.detach(), *torch.autograd.grad(value, inputs)]
    wide = all(g.dtype == torch.float32 for g in results)
    return wide and _close(results, _truth(inputs), torch.bfloat16)


BILINEAR = [score.name for score in registry.BILINEAR]
ELEMENTWISE = [name for name in SCORES if name not in BILINEAR]
PROBES: dict[str, Callable[[str], bool]] = {
    **{str(k).removeprefix("torch."): partial(dtype, k) for k in (torch.float16, torch.bfloat16, torch.float32, torch.float64)},
    "bilinear scores × sigmoid": partial(scores, BILINEAR, "sigmoid"),
    "bilinear scores × softmax": partial(scores, BILINEAR, "softmax"),
    "elementwise scores × both": lambda b: scores(ELEMENTWISE, "sigmoid", b) and scores(ELEMENTWISE, "softmax", b),
    "several positives": partial(option, case="several positives"),
    "ignored rows": partial(option, case="ignored"),
    "negatives only": partial(option, negatives_only=True),
    'reduction="pairs"': partial(option, reduction="pairs"),
    'reduction="none"': partial(option, reduction="none"),
    "stats=True": stats,
    "the same bits twice": repeatable,
    "second derivatives": second,
    "torch.compile(fullgraph=True)": compiled,
    "torch.func.grad": func_grad,
    "torch.func inside torch.compile": func_in_compile,
    "torch.func.jvp": jvp,
    "torch.func.vmap": vmap,
    "autocast": autocast,
}  # fmt: skip


def probe(name: str, backend: str) -> str:
    """ "yes", or "raises"; AssertionError where the numbers are wrong."""
    try:
        right = PROBES[name](backend)
    except Exception as error:
        if not REFUSAL.search(str(error)):
            raise
        return "raises"
    assert right, f"{name} on {backend}: wrong numbers"
    return "yes"


def page() -> str:
    """The table in Markdown."""
    rows = [[name, *(probe(name, backend) for backend in BACKENDS)] for name in PROBES]
    lines = [["`pairwise_loss`", *(f"`{b}`" for b in BACKENDS)], ["---"] * 4, *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        "# What works where\n\n"
        "Written by `python -m tests.kernels.support`; every cell is a call that ran. yes: its values and gradients agree\n"
        "with float64. raises: it stops with a clear error. `tests/kernels/test_support.py` checks this page. Without a\n"
        "GPU, `triton` runs in Triton's interpreter. With `backend=None` a call on a GPU that `triton` has no kernel for\n"
        "takes `chunked`, and one line in the log says so.\n\n"
        f"{table}\n"
    )


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    text = page()
    PAGE.write_text(text)
    sys.stdout.write(text)
