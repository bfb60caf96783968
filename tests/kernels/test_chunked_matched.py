"""Matched rows as compiled loops: their errors, their programs, what they share with the eager ones."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from prolap_kernels import Gaussian, Inclusion, Vib, inclusion_score, matched_losses
from prolap_kernels.backends.chunked import compiled
from prolap_kernels.backends.chunked import matched as chunked_rows
from tests.kernels.common import gaussian
from tests.tolerances import assert_near

TERMS_OF_SUMS = 5 * 12
"""A gradient is a sum over up to 4 links and a bottleneck, each of about 12 operations; sums over 37 dimensions err by less."""
LINKS = torch.tensor([[True, False, True], [True, True, False]])
CHAIN = Inclusion((0, 1, 2), 0.9, "prolip", "none", LINKS)
TERMS = (
    Inclusion((0, 3), 0.3),
    CHAIN,
    Inclusion((3, 4), 2.0, reduce_dims="mean", detach_mean=True),
    Vib(0),
    Vib(3, "prolip"),
)


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(chunked_rows, "COMPILE_CELLS", 0)


def levels(
    width: int = 6, dtype: torch.dtype = torch.float32, rows: tuple[int, ...] = (5, 3, 3, 5, 3)
) -> list[Gaussian]:
    return [gaussian(n, width, seed, dtype) for seed, n in enumerate(rows)]


def results(z: list[Gaussian], terms: tuple[Inclusion | Vib, ...] = TERMS, backend: str = "chunked") -> list[Tensor]:
    """Terms, saturated shares and the gradients of all levels, zeros where nothing arrives."""
    losses, saturated = matched_losses(z, terms, stats=True, backend=backend)
    total = torch.stack([(k + 1) * loss for k, loss in enumerate(losses)]).sum()
    grads = torch.autograd.grad(total, [t for level in z for t in level], materialize_grads=True)
    return [*(loss.detach() for loss in losses), saturated, *grads]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 6, 37])
def test_compiled_rows_are_the_formulas(width: int, dtype: torch.dtype) -> None:
    z = levels(width, dtype)
    wide = [Gaussian(*(t.detach().double().requires_grad_() for t in level)) for level in z]
    for mine, want in zip(results(z), results(wide, backend="reference"), strict=True):
        # gradients of 16-bit means are rounded last, by half an eps
        assert_near([mine], [want], terms=0.51 if mine.dtype == torch.bfloat16 else TERMS_OF_SUMS)
    assert all(compiled._programs[key] is not None for key in compiled._programs if key[0] == "rows")  # type: ignore[index]


def test_neither_shapes_nor_numbers_compile_again() -> None:
    results(levels())
    before = dict(compiled._programs)
    for width, rows in ((1, (1,) * 5), (130, (7, 3, 3, 7, 3)), (9, (0, 3, 3, 0, 0))):
        other = Inclusion((1, 2), 7.0, "exact", "none"), Inclusion((4, 3, 0), 0.1, "prolip"), Vib(1)
        results(levels(width, rows=rows), other)
    assert compiled._programs == before
    assert sum(key[0] == "rows" and key[-1] == torch.float32 for key in before) == 6  # type: ignore[index]


def test_few_elements_and_a_failed_compilation_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    want = results(levels())
    monkeypatch.setattr(compiled, "program", lambda *a, **k: None)
    failed = results(levels())
    monkeypatch.setattr(compiled, "program", lambda *a, **k: pytest.fail("nothing is worth a compilation here"))
    monkeypatch.setattr(chunked_rows, "COMPILE_CELLS", 1 << 19)
    few = results(levels())
    for a, b, c in zip(want, failed, few, strict=True):
        assert torch.equal(b, c)
        assert_near([a], [b], terms=TERMS_OF_SUMS)


@pytest.mark.parametrize("compiled_too", [True, False])
def test_the_order_of_terms_and_idle_levels_do_not_show_in_gradients(
    compiled_too: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients are written first and added to afterwards, row by row; here into memory full of NaN."""
    monkeypatch.setattr(chunked_rows, "COMPILE_CELLS", 0 if compiled_too else 1 << 60)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    terms = (Inclusion((1, 2), 0.5, detach_mean=True), Inclusion((2, 0)), Vib(0))  # 3 rows of level 0, then all 5
    z = levels()
    wide = [Gaussian(*(t.detach().double().requires_grad_() for t in level)) for level in z]
    for order in (terms, terms[::-1]):
        mine, want = (results(side, order, backend)[4:] for side, backend in ((z, "chunked"), (wide, "reference")))
        assert_near(mine, want, terms=TERMS_OF_SUMS, dtype=torch.float32)
        assert not any(t.any() for t in mine[-4:])  # levels 3 and 4 have no term


def test_pieces_and_strides_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = results(levels(37))
    monkeypatch.setattr(chunked_rows, "COMPILED_CELLS", 80)
    for a, b in zip(results(levels(37)), whole, strict=True):
        assert torch.equal(a, b)
    x = levels(37)[0]
    strided = Gaussian(*(t.detach().T.contiguous().T.requires_grad_() for t in x))
    for a, b in zip(results([strided], (Vib(0),)), results([x], (Vib(0),)), strict=True):
        assert torch.equal(a, b)


def test_a_link_turned_around_has_its_sign_turned_to_the_last_bit() -> None:
    x, y = levels(37, rows=(9, 9))
    forth, back = inclusion_score(x, y), inclusion_score(y, x)
    assert torch.equal(forth, -back)
    for a, b in zip(*(torch.autograd.grad(h.sum(), [*x, *y]) for h in (forth, back)), strict=True):
        assert torch.equal(a, -b)


def test_rows_that_do_not_count_may_hold_anything() -> None:
    z = levels()
    with torch.no_grad():
        z[1].logvar[1] = z[2].mean[2] = float("nan")
    valid = torch.tensor([[True, False, True], [False, False, False]])
    got = results(z, (Inclusion((0, 1, 2), valid=valid), Vib(3)))
    assert all(t.isfinite().all() for t in got)
    assert not got[6][1].any()
    assert got[6][0].all()
