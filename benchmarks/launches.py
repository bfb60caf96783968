"""The launches of `prolap_kernels.backends.fused`, turned into compilations for a chip that need not be there."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from prolap_kernels.backends import fused, kernels, tiles

from .machine_code import Chip, Facts, read


class AbsentDriver:
    """Answers Triton's questions about the current device for a chip that is not in this machine."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def get_current_target(self) -> GPUTarget:
        return GPUTarget(self.chip.backend, self.chip.arch, self.chip.warp)

    def get_current_device(self) -> str:
        return self.chip.name  # Triton keeps its compiled kernels by device

    def get_current_stream(self, device: object) -> int:
        return 0


def shipped_kernels() -> set[str]:
    """Names of all kernels of the package; functions that only kernels call ask for no program id."""
    modules = [importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    found = {k for module in modules for k in vars(module).values() if isinstance(k, JITFunction)}
    return {k.__name__ for k in found if "tl.program_id" in k.src}


def run_launchers(dtypes: tuple[torch.dtype, ...]) -> None:
    """Calls every launcher in every form that it compiles differently."""
    n, m, width = 64, 48, 64
    ids, scalar, none = torch.arange(n), torch.tensor(1.0), torch.zeros(0)
    for dtype, grad in product(dtypes, (True, False)):
        x, y = torch.zeros(n, width, dtype=dtype), torch.zeros(m, width, dtype=dtype)
        fused.sigmoid_lift(x, y, none, none, scalar, scalar, ids, ids[:m], none, False, grad, grad, grad)
    levels = [torch.zeros(n, width) for _ in range(3)]
    for reduce, kind in fused.CHAIN_MODES:
        fused.inclusion_chain(levels, levels, torch.ones(2, n), 1.0, 0.5, 1.0, reduce, kind, True)
    fused.vib(levels[0], levels[1], False, True)


def _replaced(table: Any, form: tuple[int, ...]) -> Any:
    """A tile table with `form` in all its rows."""
    if isinstance(table, dict):
        return {key: type(row)(*form) for key, row in table.items()}
    return type(table)(*form)


def compile_launches(chip: Chip, forms: dict[str, tuple[int, ...]], only: Collection[str] = ()) -> list[Facts]:
    """Facts of every distinct kernel, or of those named, that the launchers would run on `chip`."""
    facts: dict[tuple[str, str], Facts] = {}

    def compile_only(kernel: Any, programs: int, args: Any, constants: dict[str, Any], form: Any) -> None:
        configuration = _configuration(args, constants, form)
        if (kernel.__name__, configuration) in facts or (only and kernel.__name__ not in only):
            return
        start = time.perf_counter()
        options = tiles.launch_options(form)
        compiled = kernel.run(*args, **constants, **options, grid=(programs,), warmup=True)
        needs_matrix = "tl.dot" in kernel.src + "".join(_called(kernel)) and args[0].dtype.itemsize == 2
        seconds = time.perf_counter() - start
        facts[kernel.__name__, configuration] = read(
            compiled, chip, kernel.__name__, configuration, needs_matrix, seconds
        )

    dtypes = tuple(dtype for kind, dtype in tiles.LIFT if kind == chip.kind)
    driver.set_active(AbsentDriver(chip))
    changes = {name: _replaced(getattr(tiles, name), form) for name, form in forms.items()}
    with ExitStack() as stack:
        for name, value in {**changes, "launch": compile_only, "chip_of": lambda _: chip.kind}.items():
            stack.enter_context(mock.patch.object(tiles, name, value))
        run_launchers(dtypes)
    return list(facts.values())


def _called(kernel: JITFunction) -> Iterator[str]:
    for value in kernel.fn.__globals__.values():
        if isinstance(value, JITFunction) and value.__name__ in kernel.src and value is not kernel:
            yield value.src


def _configuration(args: Any, constants: dict[str, Any], form: Any) -> str:
    kind = str(args[0].dtype).removeprefix("torch.")
    flags = [f"{k}={v:d}" for k, v in constants.items() if k in ("GRAD", "TRANSPOSED", "MODE")]
    return " ".join([kind, "x".join(map(str, form)), *flags])
