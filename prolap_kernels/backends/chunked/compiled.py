"""Pure functions on blocks, compiled by Inductor into one C++ loop; eager where that does not work.

A program is traced once with symbolic sizes, on example tensors whose sizes are large primes, and called without guards: no
batch size and no ragged edge compiles again, and a program never depends on its first call. A `Signature` stands in for guards:
a program handed other dtypes would read past the end of its arguments.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

OFF = "PROLAP_COMPILE"
"""Environment variable: "0" keeps everything eager."""
OPTIONS = {
    # one loop: a sweep stores no intermediate result, however often it is read
    "realize_opcount_threshold": 1 << 20,
    "realize_reads_threshold": 1 << 20,
    "realize_acc_reads_threshold": 1 << 20,
    # the number of threads is read at the call: set_num_threads and forked workers stay in force
    "cpp.dynamic_threads": True,
    "compile_threads": 1,
    # this cache has no key for a graph that Dynamo did not trace; the shared library is cached all the same
    "fx_graph_cache": False,
}
TRACED, CHECKED = (131, 3989), (19, 37)
"""Block sizes: tracing takes the first, primes so that nothing divides them; checks take both."""
Program = Callable[..., Sequence[Tensor]]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
log = logging.getLogger("prolap_kernels")
_programs: dict[Hashable, Program | None] = {}
_broken: list[str] = []
"""Why this process can compile nothing, once that is known."""
_lock = threading.RLock()


class Signature(NamedTuple):
    """What a program takes for granted of its arguments.

    dtypes: of each; shapes: of each, a tuple of numbers that are the same at every call and of names, "0", "1", ..., of sizes
    that a call sets, by the example that was traced.
    """

    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int | str, ...], ...]

    @classmethod
    def of(cls, arguments: Sequence[Tensor], sizes: tuple[int, ...]) -> Signature:
        """Of arguments whose sizes are among `sizes`, all different and no size of anything else."""
        names = {size: str(k) for k, size in enumerate(sizes)}
        shapes = tuple(tuple(names.get(size, size) for size in t.shape) for t in arguments)
        return cls(tuple(t.dtype for t in arguments), shapes)

    def check(self, arguments: Sequence[Tensor]) -> None:
        """Asserts dtypes, shapes, contiguity and the device of a call's arguments."""
        sizes: dict[int | str, int] = {}
        assert len(arguments) == len(self.dtypes), (
            f"a compiled program takes {len(self.dtypes)} arguments, got {len(arguments)}"
        )
        for k, (t, dtype, shape) in enumerate(zip(arguments, self.dtypes, self.shapes, strict=True)):
            known = tuple(
                sizes.setdefault(n, size) if isinstance(n, str) else n for n, size in zip(shape, t.shape, strict=False)
            )
            fits = t.dtype == dtype and t.shape == known and len(known) == len(shape)
            right = fits and t.is_contiguous() and t.device.type == "cpu"
            assert right, (
                f"argument {k} of a compiled program must be a contiguous CPU tensor of {dtype} with shape {known}, got "
                f"{t.dtype}, {list(t.shape)}, strides {t.stride()}, on {t.device}"
            )


def works(*keys: Hashable) -> bool:
    """Whether compiling is on and has failed for none of these programs; without keys, whether a new one can be compiled."""
    if os.environ.get(OFF, "1") == "0":
        return False
    return all(_programs[key] is not None if key in _programs else not _broken for key in keys or (object(),))


def program(
    key: Hashable,
    function: Program,
    example: Callable[..., list[Tensor]],
    shapes: Shapes = (TRACED, CHECKED),
) -> Program | None:
    """`function`, from tensors to a sequence of tensors, compiled once per key; None where it has to run eagerly.

    example(*shape) makes its arguments: tracing takes those of the first of `shapes`, checks take those of both.
    """
    with _lock:
        if key not in _programs and works():
            _programs[key] = _build(function, example, shapes)
        return _programs.get(key) if works(key) else None


def _build(function: Program, example: Callable[..., list[Tensor]], shapes: Shapes) -> Program | None:
    try:
        with _undisturbed():
            from torch import _inductor
            from torch.fx.experimental.proxy_tensor import make_fx

            graph = make_fx(function, tracing_mode="symbolic")(*example(*shapes[0]))
            symbolic = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
            compiled: Program = _inductor.compile(graph, symbolic, options=OPTIONS)
            signature = Signature.of(example(*shapes[0]), shapes[0])

            def checked(*arguments: Tensor) -> Sequence[Tensor]:
                signature.check(arguments)
                return compiled(*arguments)

            for shape in shapes:
                _check(checked, function, partial(example, *shape))
            return checked
    except Exception as error:  # whatever a compiler can do wrong, the loss is still there
        cause = getattr(error, "inner_exception", error)
        lines = [line.strip() for line in str(cause).strip().splitlines()] or [""]
        reason = f"{type(cause).__name__}: {next((line for line in lines if 'error:' in line), lines[0])}"
        if _concerns_all(cause):
            _broken.append(reason)
            log.warning("no loop can be compiled here, all run eagerly on the CPU, slower: %s", reason)
        else:
            log.warning("one loop could not be compiled and runs eagerly on the CPU, slower: %s", reason)
        return None


def _concerns_all(cause: BaseException) -> bool:
    """Whether every other program must fail too: no Inductor, no compiler, no disk space, a missing header."""
    if isinstance(cause, (ImportError, OSError)):
        return True
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    return "InvalidCxxCompiler" in kinds or ("CppCompileError" in kinds and "fatal error:" in str(cause))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hides the caller's modes and warning filters from the compiler."""
    with warnings.catch_warnings(), _disable_current_modes(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def _check(compiled: Program, function: Program, example: Callable[[], list[Tensor]]) -> None:
    """A compiler's error must not become a wrong loss. Each side gets its own arguments: a program may change them."""
    for value, truth in zip(compiled(*example()), function(*example()), strict=True):
        size = float(truth.abs().max()) if truth.numel() else 0.0
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-4 * size)
