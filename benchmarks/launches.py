"""The launches of the fused kernels, turned into compilations for a chip that need not be there."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from prolap_kernels import OBJECTIVES, Gaussian
from prolap_kernels.backends import triton as kernels
from prolap_kernels.backends.chunked import elementwise
from prolap_kernels.backends.links import SCORE, SUM, Link
from prolap_kernels.backends.problem import PairOptions, PairProblem, PairSums
from prolap_kernels.backends.triton import configs, matched, sigmoid
from prolap_kernels.backends.triton.elementwise import SUMS
from prolap_kernels.backends.triton.gemm import FusedGaussian
from prolap_kernels.scores import BILINEAR, ELEMENTWISE, Score


class AbsentDriver:
    """Answers Triton's questions about the current device for a chip that is not in this machine."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target.arch)  # Triton keeps its compiled kernels by device

    def get_current_stream(self, device: object) -> int:
        return 0


def shipped_kernels() -> set[str]:
    """Names of all kernels of the package; functions that only kernels call ask for no program id."""
    modules = [importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    functions = {k for module in modules for k in vars(module).values() if isinstance(k, JITFunction)}
    return {k.__name__ for k in functions if "tl.program_id" in k.src}


def missing(compiled: Collection[str], only: Collection[str] = ()) -> list[str]:
    """Kernels of the package, or those in `only`, that no launch compiled."""
    names = (set(only) or shipped_kernels()).difference(compiled)
    return [f"{name}: never compiled; add a launch to benchmarks/launches.py" for name in sorted(names)]


class Form(NamedTuple):
    """A form of the pair engine that compiles to its own code."""

    ids: bool = False
    negatives_only: bool = False
    weighted: bool = False
    stats: bool = False
    store: bool = True
    sums: bool = True
    offsets: bool = True
    precision: str = "ieee"
    given: bool = False


MAIN = (Form(), Form(ids=True), Form(given=True))
"""What training asks for."""
OTHER = (
    Form(store=False, sums=False), Form(ids=True, negatives_only=True), Form(negatives_only=True),
    Form(ids=True, weighted=True), Form(stats=True, ids=True), Form(stats=True), Form(sums=False), Form(store=False),
    Form(ids=True, store=False, sums=False), Form(offsets=False), Form(given=True, ids=True, stats=True),
    Form(given=True, store=False, sums=False), Form(weighted=True, stats=True, ids=True, negatives_only=True),
)  # fmt: skip


def run_pairs(form: Form, objective: str, dtype: torch.dtype) -> None:
    """One launch of the pair engine."""
    n, m, width = 64, 48, 64
    ids, one, none = torch.arange(n), torch.tensor(1.0), torch.zeros(0)
    x, y = torch.zeros(n, width, dtype=dtype), torch.zeros(m, width, dtype=dtype)
    offsets = (torch.zeros(n), torch.zeros(m)) if form.offsets else (none, none)
    problem = PairProblem(x, y, *offsets, one, one, ids, ids[:m], torch.ones(n) if form.weighted else none)
    flags = form.negatives_only, form.ids, form.precision, form.stats
    options = PairOptions(BILINEAR[0].name, objective, "triton", *flags, form.store, form.store, form.sums)
    given = mock.patch.object(configs, "vendor_scores", return_value=form.given)
    with given, mock.patch.object(sigmoid, "put_scores"):
        OBJECTIVES[objective].launchers["triton"](problem, options, PairSums.empty(problem, options), True)


def run_launchers(dtypes: tuple[torch.dtype, ...], forms: Sequence[Form]) -> None:
    """Calls every launcher in every form that it compiles differently."""
    for dtype, form in product(dtypes, forms):
        precisions = ("ieee", "tf32") if dtype == torch.float32 and form in MAIN else ("ieee",)
        for precision in precisions:
            run_pairs(form._replace(precision=precision), "sigmoid", dtype)
    for dtype, form in product(dtypes, (Form(), Form(store=False, sums=False))):
        run_pairs(form, "softmax", dtype)
    for width, per_row in ((64, False), (64, True), (40, False)):
        run_matched(width, per_row, dtypes)
    z = FusedGaussian(torch.zeros(64, 64), torch.zeros(64, 64))
    z.half_trace_gradient(z.half_trace)


def run_matched(width: int, per_row: bool, dtypes: tuple[torch.dtype, ...]) -> None:
    """The three launches of matched rows."""
    links = [Link(SCORE if per_row else SUM, 0, 1, 0, 1.0, 0.5, 1.0, moves_mean=True, flagged=False, rows=64)]
    rows, valid, logvar = [64, 64], torch.zeros(0, dtype=torch.bool), torch.zeros(128, width)
    for dtype in dtypes:
        mean = torch.zeros(128, width, dtype=dtype)
        results = matched.matched_rows(mean, logvar, valid, rows, links)
        _, shares = matched.matched_means(results, valid, rows, links)
        g = results[0] if per_row else shares[0]
        matched.matched_gradients(mean, logvar, results, shares, g, rows, links, (True, True))


def run_elementwise(scores: Sequence[Score]) -> None:
    """A block of the matrix and the gradients of both sides of these scores."""
    z = Gaussian(torch.zeros(64, 64), torch.zeros(64, 64))
    for score in scores:
        elementwise.block_scores(SUMS, score, z, z)
        for side in "xy":
            elementwise.block_gradients(SUMS, score, z, z, torch.zeros(64, 64), side)


def _replaced(table: Any, numbers: tuple[int, ...]) -> Any:
    """A table of configurations with these numbers in all its rows."""
    if isinstance(table, dict):
        return {key: type(row)(*numbers) for key, row in table.items()}
    return type(table)(*numbers)


class Compiled(NamedTuple):
    """A kernel in one configuration; pairs: of a tile, per thread, 0 where a kernel has none; code: what Triton returns."""

    kernel: str
    configuration: str
    needs_matrix: bool
    pairs: float
    seconds: float
    code: Any


def compile_launches(
    target: GPUTarget, kind: str, tables: dict[str, tuple[int, ...]], only: Collection[str] = (), main: bool = False
) -> list[Compiled]:
    """Every distinct kernel, or those in `only`, that the launchers would run on a chip.

    kind: names the chip's rows in tables of configurations; tables: numbers to try in every row of such a table; main: in
    bfloat16 and the MAIN forms alone.
    """
    compiled: dict[tuple[str, str], Compiled] = {}

    def compile_only(kernel: Any, programs: int, args: Any, constants: dict[str, Any], config: Any) -> None:
        key = kernel.__name__, _configuration(kernel, args, constants, config)
        if key in compiled or (only and kernel.__name__ not in only):
            return
        start = time.perf_counter()
        options = configs.launch_options(config)
        if target.backend == "hip":  # as there, where torch itself says so
            options.pop("maxnreg", None)
        code = kernel.run(*args, **constants, **options, grid=(programs,), warmup=True)
        seconds = time.perf_counter() - start
        products = "tl.dot" in kernel.src + "".join(_called(kernel))
        needs_matrix, pairs = products and _dtype(args).itemsize == 2, _pairs(kernel, constants, config, target)
        compiled[key] = Compiled(*key, needs_matrix, pairs, round(seconds, 2), code)

    dtypes = tuple(dtype for row, dtype in configs.ACCUMULATE if row == kind)
    driver.set_active(AbsentDriver(target))
    answers = {name: _replaced(getattr(configs, name), numbers) for name, numbers in tables.items()}
    answers |= {"launch": compile_only, "chip_of": lambda _: kind, "generation": lambda _: generation(target)}
    with mock.patch.multiple(configs, **answers):
        run_launchers((torch.bfloat16,) if main else dtypes, MAIN if main else MAIN + OTHER)
        run_elementwise(ELEMENTWISE[:1] if main else ELEMENTWISE)
    return list(compiled.values())


def _called(kernel: JITFunction) -> Iterator[str]:
    for value in kernel.fn.__globals__.values():
        if isinstance(value, JITFunction) and value.__name__ in kernel.src and value is not kernel:
            yield value.src


def generation(target: GPUTarget) -> int:
    """`configs.generation` of a chip that is not here."""
    return int(target.arch) // 10 if target.backend == "cuda" else 0


def _dtype(args: Any) -> torch.dtype:
    first = args[0]
    dtype: torch.dtype = (first if isinstance(first, torch.Tensor) else first.base).dtype
    return dtype


def _pairs(kernel: Any, constants: dict[str, Any], config: Any, target: GPUTarget) -> float:
    """Pairs that a thread of a pair kernel works on, 0 for other kernels."""
    if not kernel.__name__.endswith("_tile"):
        return 0.0
    return float(constants["BLOCK_M"] * constants["BLOCK_N"] / (config.warps * target.warp_size))


SHOWN = ("IDS", "SWAPPED", "NEGATIVES_ONLY", "WEIGHTED", "STORE", "SUMS", "STATS", "GIVEN", "OFFSETS", "TRANSPOSED", "MODE",
         "PER_ROW")  # fmt: skip


def _configuration(kernel: JITFunction, args: Any, constants: dict[str, Any], config: Any) -> str:
    """dtype, configuration, the flags that are set and the sizes that are no multiple of 16: what was compiled, in one line."""
    kind = str(_dtype(args)).removeprefix("torch.")
    flags = [f"{k}={v:d}" for k, v in constants.items() if k in SHOWN and (v or k == "MODE")]
    flags += [f"{k}={v.__module__.split('.')[-1]}" for k, v in constants.items() if isinstance(v, JITFunction)]
    tf32 = ["tf32"] if constants.get("PRECISION") == "tf32" else []
    # Triton compiles these apart: loads of rows that start anywhere do not vectorise
    sizes = zip(kernel.params, args, strict=False)
    odd = [f"{p.name}%16" for p, n in sizes if type(n) is int and n > 1 and n % 16 and not p.do_not_specialize]
    return " ".join([kind, "x".join(str(int(n)) for n in config), *flags, *tf32, *odd])
