"""The chunked engine, swept eagerly and compiled, against float64; its workspace, its programs, its repeatability."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prolap_kernels import pairwise_loss
from prolap_kernels.backends.chunked import compiled
from prolap_kernels.backends.chunked import pairs as chunked
from prolap_kernels.backends.problem import PairOptions, PairProblem, PairSums
from prolap_kernels.objectives import OBJECTIVES
from prolap_kernels.pairs import counted_pairs, positive_pairs
from tests.kernels.common import pair_sums
from tests.live_memory import peak_bytes
from tests.tolerances import assert_as_exact_as, assert_near, assert_same, likely

LOGIT = 80.0
"""The largest logits: each is known to |logit| eps, and so are its probability and its gradient."""
SIGMOID = PairOptions("dot", "sigmoid", "chunked", False, True, "ieee", False, True, True, True)
COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++", "clang++"))
IDS = {
    "diagonal": lambda n, m: (torch.arange(n), torch.arange(m)),
    "several positives": lambda n, m: (torch.arange(n) // 4, torch.arange(m) // 3),
    "ignored": lambda n, m: (torch.arange(n) % 5 - 1, torch.arange(m) % 4 - 1),
}


@pytest.fixture(params=["eager", "compiled"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every problem, however small, swept in this way."""
    choose(request.param, monkeypatch)
    return request.param


def choose(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "compiled" and not COMPILER:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(chunked, "COMPILE_CELLS", 0)
    monkeypatch.setenv(compiled.OFF, "0" if how == "eager" else "1")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The keys of the programs that are compiled while it lasts, from none; the old ones come back afterwards."""
    made: list[object] = []
    build = compiled._build
    monkeypatch.setattr(compiled, "_programs", {})
    monkeypatch.setattr(compiled, "_broken", [])
    monkeypatch.setattr(compiled, "_build", lambda *a: made.append(a) or build(*a))
    return made


def problem(n: int, m: int, case: str = "ignored", scale: float = 80.0, weight: bool = True) -> PairProblem:
    """Unit rows, so that the logits of the scale 80 lie between -80 and 80 and a little beyond."""
    generator = torch.Generator().manual_seed(n + m)
    phi_x, phi_y = (torch.nn.functional.normalize(torch.randn(k, 8, generator=generator), dim=1) for k in (n, m))
    alpha, beta = (0.1 * torch.randn(k, generator=generator) for k in (n, m))
    scalars = torch.tensor(scale), torch.tensor(-1.0)
    row_weight = torch.randn(n, generator=generator) if weight else torch.empty(0)
    return PairProblem(phi_x, phi_y, alpha, beta, *scalars, *IDS[case](n, m), row_weight)


def dense(problem: PairProblem, options: PairOptions, dtype: torch.dtype) -> PairSums:
    """What a naive formula and autograd make of the same rounded inputs in `dtype`."""
    p = PairProblem(*(t if t.dtype == torch.int64 else t.to(dtype) for t in problem[:9]))
    score = p.phi_x @ p.phi_y.T
    score = score + (p.alpha[:, None] if p.alpha.numel() else 0) + (p.beta if p.beta.numel() else 0)
    logit = (score * p.scale + p.bias).requires_grad_()
    positive, counted = positive_pairs(p.x_id, p.y_id), counted_pairs(p.x_id, p.y_id)
    counted = counted & ~positive if options.negatives_only else counted
    loss = options.objective.dense(logit, positive, counted)
    (grad,) = torch.autograd.grad((loss * (p.row_weight if p.row_weight.numel() else 1)).sum(), logit)
    products = grad @ p.phi_y, grad.T @ p.phi_x
    rest = (grad.new_empty(0) for _ in PairSums._fields[6:])
    return PairSums(loss.detach(), *products, grad.sum(1), grad.sum(0), (grad * score).sum(1), *rest)


def assert_as_exact_as_eager(problem: PairProblem, options: PairOptions) -> PairSums:
    """Against float64 at most twice the error of the naive formula, plus the rounding of a result."""
    got, eager, truth = (
        pair_sums(chunked.add_pairs, problem, options),
        dense(problem, options, torch.float32),
        dense(problem, options, torch.float64),
    )
    lengths = likely(len(problem.x_id) + len(problem.y_id) + problem.phi_x.shape[1])
    assert_as_exact_as(eager[:6], got[:6], truth[:6], terms=LOGIT + lengths)
    return got


@pytest.mark.parametrize("case", IDS)
@pytest.mark.parametrize("form", ["sigmoid", "sigmoid weighted", "negatives only", "softmax"])
def test_no_less_exact_than_eager_torch(how: str, form: str, case: str) -> None:
    options = SIGMOID._replace(
        objective_name=form.split()[0].replace("negatives", "sigmoid"), negatives_only=form == "negatives only"
    )
    assert_as_exact_as_eager(problem(67, 45, case, weight=form == "sigmoid weighted"), options)


def test_small_terms_are_kept(how: str) -> None:
    """A negative at the logit -17 costs 4.1e-8, not 0, and one at -80 its 1.8e-35."""
    for logit in (-17.0, -80.0):
        p = problem(4, 6, weight=False)._replace(scale=torch.tensor(0.0), bias=torch.tensor(logit))
        sums = pair_sums(chunked.add_pairs, p._replace(x_id=torch.arange(4), y_id=torch.arange(4, 10)), SIGMOID)
        exact = 6 * torch.tensor(logit, dtype=torch.float64).exp().log1p()
        for value in (sums.loss, sums.row):
            assert_same(value, exact.expand(4), terms=6 + 4)  # 6 pairs; exp, log1p and their factors


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_float64(how: str, objective: str) -> None:
    if how == "compiled" and objective == "softmax":
        pytest.skip("two more programs that would show nothing new")
    p = problem(23, 31, weight=False)
    p = PairProblem(*(t if t.dtype == torch.int64 else t.double() for t in p[:9]))
    options = SIGMOID._replace(objective_name=objective)
    # softmax divides two probabilities, both of rounded logits
    assert_near(
        pair_sums(chunked.add_pairs, p, options)[:6],
        dense(p, options, torch.float64)[:6],
        terms=2 * LOGIT + 23 + 31 + 8,
    )


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_scores_of_pairs_that_do_not_count_reach_nothing(how: str, objective: str, value: float) -> None:
    clean = problem(29, 31, weight=False)
    broken = clean._replace(
        alpha=clean.alpha.masked_fill(clean.x_id < 0, value), beta=clean.beta.masked_fill(clean.y_id < 0, value)
    )
    options = SIGMOID._replace(objective_name=objective, stats=True)
    for got, want in zip(*(pair_sums(chunked.add_pairs, p, options) for p in (broken, clean)), strict=True):
        assert torch.equal(got, want)


def test_nan_stays_nan(how: str) -> None:
    p = problem(5, 7, "diagonal", weight=False)
    p.phi_x[2, 0] = float("nan")
    sums = pair_sums(chunked.add_pairs, p, SIGMOID)
    assert sums.loss.isnan().tolist() == [False, False, True, False, False]
    assert sums.dphi_y.isnan().all()


def test_both_sweeps_agree_and_repeat_bit_for_bit(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem(300, 257)
    first, second = (pair_sums(chunked.add_pairs, p, SIGMOID) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    choose("eager", monkeypatch)
    assert_near(first[:6], pair_sums(chunked.add_pairs, p, SIGMOID)[:6], terms=LOGIT + likely(300 + 257 + 8))


def test_two_threads_at_once(how: str, builds: list[object]) -> None:
    p = problem(120, 90)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: pair_sums(chunked.add_pairs, p, SIGMOID), range(8)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert len(builds) == (how == "compiled")


def test_no_shape_and_no_flag_compiles_again(builds: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """One program, whatever the sizes, the block sizes, the ids, the frozen sides and the gradient mode."""
    choose("compiled", monkeypatch)
    for n, m in [(1, 1), (1, 50), (50, 1), (2, 2), (64, 64), (33, 129), (0, 5), (5, 0), (16, 5000)]:
        for weight in (False, True):
            assert_as_exact_as_eager(problem(n, m, weight=weight), SIGMOID)
    monkeypatch.setitem(chunked.WORKSPACE, "cpu", 64 << 10)
    p = problem(70, 90, "diagonal", weight=False)
    none = torch.empty(0)
    for flags in [(True, False, False), (False, False, True), (False, False, False)]:
        pair_sums(
            chunked.add_pairs,
            p,
            SIGMOID._replace(need_x=flags[0], need_y=flags[1], need_sums=flags[2], ids_given=False),
        )
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with torch.inference_mode():
            pair_sums(chunked.add_pairs, p._replace(alpha=none, beta=none), SIGMOID)
    finally:
        torch.set_num_threads(threads)
    assert len(builds) == 1


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kilobytes", [1, 64, 200])
def test_any_block_size(how: str, objective: str, kilobytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks change the order of sums, not what they are; some of the products of the first pass are kept for the second."""
    monkeypatch.setitem(chunked.WORKSPACE, "cpu", kilobytes << 10)
    assert_as_exact_as_eager(problem(83, 71, weight=False), SIGMOID._replace(objective_name=objective))


def test_half_precision_blocks_make_room_for_their_wide_copies() -> None:
    for n, m in [(1, 10**6), (10**6, 1), (65536, 65536), (100, 10**5), (3, 3)]:
        for k in (0, 512, 4096):
            height, width = chunked.block_shape(n, m, 16 << 20, live=chunked.LIVE, beside=k, even=False)
            assert 1 <= height <= n
            assert 1 <= width <= m
            assert height * width * chunked.LIVE + k * (height + width) <= 16 << 20


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "prolap_kernels"]


@pytest.mark.parametrize("compiler", ["missing", "broken"])
def test_no_compiler_costs_speed_and_one_line(
    compiler: str, builds: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What concerns every program is tried once in a process: here two objectives, three programs, several calls."""
    choose("compiled", monkeypatch)

    def fail(*args: object, **options: object) -> None:
        from torch._inductor import exc

        if compiler == "missing":
            raise exc.InductorError(exc.InvalidCxxCompiler(), None)
        output = "In file included from loop.cpp:1:\nloop.cpp:1:10: fatal error: Python.h: No such file or directory"
        raise exc.InductorError(exc.CppCompileError(["g++"], output), None)

    p = problem(20, 30)
    monkeypatch.setattr("torch._inductor.compile", fail)
    for objective in (*OBJECTIVES, *OBJECTIVES):
        assert_as_exact_as_eager(p._replace(row_weight=torch.empty(0)), SIGMOID._replace(objective_name=objective))
    assert len(builds) == len(said(caplog)) == 1
    reason = (
        "No working C++ compiler" if compiler == "missing" else "CppCompileError: loop.cpp:1:10: fatal error: Python.h"
    )
    assert reason in said(caplog)[0]
    assert not compiled.works()


def test_a_program_that_fails_leaves_the_others_compiled(
    builds: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    choose("compiled", monkeypatch)
    calls = []

    def program(key: str) -> compiled.Program | None:
        def function(t: Tensor) -> list[Tensor]:
            calls.append(key)
            if key == "broken":
                raise ValueError("no such loop\nand a long story")
            return [t + 1]

        return compiled.program(key, function, lambda *size: [torch.ones(size)], shapes=((7, 5, 11), (3, 2, 13)))

    before = program("before")
    assert program("broken") is None
    assert program("broken") is None
    after = program("after")
    for made in (before, after):
        assert torch.equal(made(torch.zeros(2, 3, 4))[0], torch.ones(2, 3, 4))
    assert program("after") is after
    assert calls.count("broken") == 1
    assert len(builds) == 3
    assert compiled.works("before", "unheard of")
    assert not compiled.works("before", "broken")
    assert said(caplog) == [
        "one loop could not be compiled and runs eagerly on the CPU, slower: ValueError: no such loop"
    ]


def test_inside_a_compiled_and_a_functional_loss(how: str) -> None:
    x, y = problem(40, 30, weight=False)[:2]

    def loss(mean: Tensor) -> Tensor:
        return pairwise_loss(mean, y, score="dot", scale=10.0, bias=-5.0)

    want = torch.autograd.grad(loss(leaf := x.clone().requires_grad_()), leaf)[0]
    assert torch.equal(torch.func.grad(loss)(x), want)
    assert torch.equal(torch.autograd.grad(torch.compile(loss, backend="aot_eager")(leaf), leaf)[0], want)


def test_a_pass_over_8192_rows_stays_within_its_workspace(how: str, tmp_path: Path) -> None:
    """softmax, which holds most: eagerly the temporaries, compiled the products that it keeps."""
    options = PairOptions("dot", "softmax", "chunked", False, True, "ieee", False, True, True, True)

    def run(n: int) -> PairSums:
        ids, none, one = torch.arange(n) // 3, torch.empty(0), torch.tensor(1.0)
        phi = torch.nn.functional.normalize(torch.randn(n, 32), dim=1)
        return pair_sums(
            chunked.add_pairs, PairProblem(phi, phi, phi[:, 0], phi[:, 1], one, one, ids, ids, none), options
        )

    run(2048)  # compiles
    vectors = 4 * 8192 * (3 * 32 + 20)  # inputs and outputs, which are no workspace
    assert peak_bytes(lambda: run(8192), tmp_path) <= chunked.WORKSPACE["cpu"] + vectors


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_float64_compiles_and_leaves_float32_its_program() -> None:
    program = (
        "import torch; from prolap_kernels import ppcl_loss, Gaussian; from prolap_kernels.backends.chunked import compiled\n"
        "for dtype in (torch.float64, torch.float32):\n"
        "    mean = torch.nn.functional.normalize(torch.randn(1100, 4, dtype=dtype)).requires_grad_()\n"
        "    z = Gaussian(mean, torch.zeros(1100, 4, dtype=dtype))\n"
        "    ppcl_loss(z, z, 5.0, -2.0).backward()\n"
        "print([p is not None for p in compiled._programs.values()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[True, True]", done.stderr
