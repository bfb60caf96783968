"""The best columns of every row against a stable sort of the dense float64 matrix: ties, blocks, NaN, dtypes, memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prolap_kernels import SCORES, Gaussian, pairwise_rerank, pairwise_score, pairwise_topk, score_blocks
from prolap_kernels.backends.blocks import block_shape
from prolap_kernels.reference import score_matrix
from prolap_kernels.search import CELL, EDGE, WORKSPACE
from tests.kernels.common import gaussian
from tests.live_memory import peak_bytes
from tests.tolerances import assert_same, largest

SMALL = 6 << 10
"""Bytes of workspace that cut the matrices of these tests into many blocks."""


def named(name: str) -> dict[str, str]:
    """The score and its options by its name in the registry."""
    score, _, convention = name.partition("/")
    return {"score": score, **({"convention": convention} if convention else {})}


def sorted_dense(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Largest first, ties by the lower index: torch promises it of a stable sort."""
    values, indices = matrix.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def float32(z: Gaussian) -> Gaussian:
    return Gaussian(*(part.detach().float() for part in z))


def repeated(m: int, d: int, dtype: torch.dtype = torch.float32) -> Gaussian:
    """M rows of which the second half is the first again, and the third row is the first: ties within and across blocks."""
    z = gaussian(m, d, 2).rows(torch.arange(m) % (m // 2) if m > 1 else torch.zeros(m, dtype=torch.int64))
    mean, logvar = (part.detach().to(dtype).clone() for part in z)
    mean[2], logvar[2] = mean[0], logvar[0]
    return Gaussian(mean, logvar)


def integers(n: int, d: int, seed: int, most: int = 2) -> Tensor:
    """Means whose products are exact in any dtype and any order of sums."""
    return torch.randint(-most, most + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("k", [1, 6, 52])
@pytest.mark.parametrize("name", SCORES)
def test_a_stable_sort_of_the_dense_matrix_whatever_the_blocks(name: str, k: int) -> None:
    x, y = float32(gaussian(19, 5, 1)), repeated(52, 5)
    wide = (Gaussian(*(part.double() for part in z)) for z in (x, y))
    values, indices = sorted_dense(score_matrix(SCORES[name], *wide).float(), k)
    for workspace in (1, SMALL, 5 * SMALL, None):
        found = pairwise_topk(x, y, k, precise=True, workspace=workspace, **named(name))
        assert torch.equal(found[1], indices)
        # both are float64 rounded to float32, which may differ at a boundary
        assert_same(found[0], values, terms=1)
    assert len(list(score_blocks(x, y, precise=True, workspace=SMALL, **named(name)))) > 10


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_ties_go_to_the_lower_index(data: st.DataObject) -> None:
    """Products of small integers are exact and mostly equal."""
    n, m, d = (data.draw(st.integers(low, high)) for low, high in ((0, 12), (1, 40), (1, 4)))
    k, seed = data.draw(st.integers(1, m)), data.draw(st.integers(0, 999))
    dtype = data.draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    x, y = integers(n, d, seed).to(dtype), integers(m, d, seed + 1).to(dtype)
    workspace = data.draw(st.sampled_from([1, 400, 2000, 10_000, None]))
    precise = data.draw(st.booleans())
    values, indices = pairwise_topk(x, y, k, score="dot", precise=precise, workspace=workspace)
    want = sorted_dense(x.double() @ y.double().T, k)
    assert torch.equal(indices, want[1])
    assert torch.equal(values.double(), want[0])
    assert values.dtype == (torch.float64 if dtype == torch.float64 and not precise else torch.float32)
    assert indices.dtype == torch.int64


def test_where_all_scores_are_equal_the_first_columns_win() -> None:
    same = torch.ones(300, 4)
    for k in (1, 7, 300):
        values, indices = pairwise_topk(same, same, k, score="dot", workspace=20 * SMALL)
        assert torch.equal(indices, torch.arange(k).expand(300, k))
        assert (values == 4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["csd", "wasserstein2", "kl", "inclusion"])
def test_the_scores_are_those_of_the_matrix_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    x, y = (Gaussian(*(p.detach() for p in gaussian(n, 6, seed, dtype))) for n, seed in ((17, 1), (33, 2)))
    values, indices = pairwise_topk(x, y, 4, score=name, workspace=SMALL)
    dense = pairwise_score(x, y, score=name)
    assert values.dtype == dense.dtype
    terms = 6 * 4  # sums over 6 dimensions, of a few operations each
    assert_same(values, dense.topk(4, dim=1).values, terms=terms, scale=largest(dense))
    assert_same(values, dense.gather(1, indices), terms=terms, scale=largest(dense))


def test_nan_comes_first_and_moves_nothing_else() -> None:
    x, y = integers(6, 3, 1), integers(30, 3, 2)
    clean = pairwise_topk(x, y, 5, score="dot", workspace=2000)
    broken = y.clone()
    broken[[8, 21]] = torch.nan
    values, indices = pairwise_topk(x, broken, 5, score="dot", workspace=2000)
    assert indices[:, :2].tolist() == [[8, 21]] * 6
    assert values[:, :2].isnan().all()
    rest = (x @ y.T).index_fill(1, torch.tensor([8, 21]), -torch.inf)
    assert torch.equal(indices[:, 2:], sorted_dense(rest, 3)[1])
    assert torch.equal(values[:, 2:], sorted_dense(rest, 3)[0])
    assert pairwise_topk(x, broken, 1, score="dot", workspace=2000)[1].tolist() == [[8]] * 6
    x[2] = torch.nan
    values, indices = pairwise_topk(x, y, 5, score="dot", workspace=2000)
    assert indices[2].tolist() == [0, 1, 2, 3, 4]
    assert values[2].isnan().all()
    others = torch.tensor([0, 1, 3, 4, 5])
    assert torch.equal(values[others], clean[0][others])
    assert torch.equal(indices[others], clean[1][others])


def test_infinite_scores_are_scores() -> None:
    y = torch.tensor([[1.0], [-torch.inf], [torch.inf], [2.0], [torch.inf], [-torch.inf]])
    values, indices = pairwise_topk(torch.ones(1, 1), y, 6, score="dot", workspace=1)
    assert indices.tolist() == [[2, 4, 3, 0, 1, 5]]
    assert values.tolist() == [[torch.inf, torch.inf, 2.0, 1.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("k", [0, -1, 5, 2.0, True, None])
def test_k_out_of_range_is_an_error_that_names_it(k: object) -> None:
    x, y = gaussian(3, 2, 1), gaussian(4, 2, 2)
    for function in (pairwise_topk, pairwise_rerank):
        with pytest.raises((TypeError, ValueError), match=rf"k must be a whole number from 1 to y's 4 rows, got {k}"):
            function(x, y, k)  # type: ignore[arg-type]


def test_other_errors_name_the_argument_at_the_call() -> None:
    x, y = gaussian(3, 2, 1), gaussian(4, 2, 2)
    with pytest.raises(ValueError, match="did you mean 'csd'"):
        score_blocks(x, y, score="cds")
    with pytest.raises(TypeError, match="x must be a Gaussian"):
        score_blocks(x.mean, y)
    with pytest.raises(ValueError, match="y must have x's 2 dimensions, got 3"):
        pairwise_topk(x, gaussian(4, 3, 2), 1)
    with pytest.raises(TypeError, match="takes no option 'temperature'"):
        pairwise_topk(x, y, 1, temperature="1")
    with pytest.raises(ValueError, match="from 1 to y's 0 rows"):
        pairwise_topk(x, gaussian(0, 2, 2), 1)


def test_no_rows_have_no_best() -> None:
    values, indices = pairwise_topk(gaussian(0, 2, 1), gaussian(4, 2, 2), 3)
    assert values.shape == indices.shape == (0, 3)
    assert values.dtype == torch.float64
    assert [t.shape for t in pairwise_rerank(gaussian(0, 2, 1), gaussian(4, 2, 2), 3)] == [(0, 3), (0, 3)]


def test_options_autocast_strides_and_gradients_of_the_caller() -> None:
    x, y = gaussian(8, 6, 1, torch.float32), gaussian(9, 6, 2, torch.float32)
    plain = pairwise_topk(x, y, 3)
    assert not plain[0].requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pairwise_topk(x, y, 3)[0], plain[0])
    strided = Gaussian(*(part.detach().T.contiguous().T for part in x))
    assert_same(pairwise_topk(strided, y, 3)[0], plain[0], terms=2 * 6)
    prolip = pairwise_topk(x, y, 1, score="inclusion", convention="prolip")[0]
    dense = pairwise_score(x, y, score="inclusion", convention="prolip")
    assert_same(prolip[:, 0], dense.amax(1), terms=6 * 4, scale=largest(dense))
    assert not torch.equal(prolip, pairwise_topk(x, y, 1, score="inclusion")[0])


@pytest.mark.parametrize("name", ["dot", "csd", "kl"])
def test_blocks_make_up_the_matrix_in_order_and_skip_what_is_not_wanted(name: str) -> None:
    x, y = gaussian(21, 4, 1), gaussian(34, 4, 2)
    matrix = torch.full((21, 34), torch.nan, dtype=torch.float64)
    places = []
    for rows, columns, block in score_blocks(x, y, score=name, workspace=SMALL):
        assert torch.is_grad_enabled(), "a generator must not leak its mode into the loop"
        assert not block.requires_grad
        assert matrix[rows, columns].isnan().all()
        matrix[rows, columns] = block
        places.append((rows.start, columns.start))
    assert len(places) > 4
    assert places == sorted(places)
    assert_same(matrix, pairwise_score(x, y, score=name), terms=4 * 4)
    selected = [(r, c) for r, c, _ in score_blocks(x, y, score=name, workspace=SMALL, select=lambda r, c: c.stop == 34)]
    assert [c.stop for _, c in selected] == [34] * len({row for row, _ in places})


def test_equal_rows_tie_wherever_they_stand_in_precise_blocks() -> None:
    """Plain float32 products may tell copies of one row apart by a unit in the last place."""
    x, row = gaussian(40, 33, 1, torch.float32), gaussian(1, 33, 2, torch.float32)
    y = row.rows(torch.zeros(500, dtype=torch.int64))
    for workspace in (40 * SMALL, 200 * SMALL, None):
        values, indices = pairwise_topk(x, y, 3, precise=True, workspace=workspace)
        assert indices.tolist() == [[0, 1, 2]] * 40
        assert torch.equal(values, values[:, :1].expand(40, 3))


def test_precise_blocks_take_sides_of_two_dtypes() -> None:
    x, y = integers(5, 3, 1), integers(9, 3, 2).double()
    assert torch.equal(pairwise_topk(x, y, 4, score="dot", precise=True)[1], sorted_dense(x.double() @ y.T, 4)[1])
    with pytest.raises(TypeError, match=r"y.mean must have x.mean's dtype"):
        pairwise_topk(x, y, 4, score="dot")


def test_blocks_fit_their_workspace() -> None:
    for n, m, d, size, workspace in [
        (10**6, 10**6, 256, 4, 64 << 20),
        (10**6, 3, 1024, 8, 64 << 20),
        (3, 10**6, 1024, 8, 64 << 20),
        (5000, 70_000, 0, 4, 1 << 20),
    ]:
        height, width = block_shape(n, m, workspace // size, live=CELL, beside=EDGE * d)
        assert 1 <= height <= n
        assert 1 <= width <= m
        used = size * (CELL * height * width + EDGE * d * (height + width))
        assert used <= workspace
        assert used >= workspace / 2, "blocks as large as they may be"
    assert block_shape(10, 10, 1000 // 8, live=CELL, beside=EDGE * 10**6) == (1, 1)
    assert block_shape(7, 0, 1000 // 4, live=CELL, beside=EDGE * 3) == (7, 1)


def brute_rerank(x: Gaussian, y: Gaussian, k: int, shortlist: str, score: str) -> tuple[Tensor, Tensor]:
    columns = sorted_dense(score_matrix(SCORES[shortlist], x, y), k)[1]
    values, order = score_matrix(SCORES[score], x, y).gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


@pytest.mark.parametrize(("shortlist", "name"), [("csd", "inclusion"), ("dot", "kl"), ("csd", "inclusion/prolip")])
@pytest.mark.parametrize("k", [1, 7, 30])
def test_rerank_orders_the_shortlist_by_the_second_score(shortlist: str, name: str, k: int) -> None:
    x, y = gaussian(12, 5, 1), gaussian(30, 5, 2)
    for workspace in (1, SMALL, None):
        values, indices = pairwise_rerank(x, y, k, shortlist=shortlist, workspace=workspace, **named(name))
        want = brute_rerank(x, y, k, shortlist, name)
        assert torch.equal(indices, want[1])
        assert_same(values, want[0], terms=5 * 8, scale=largest(score_matrix(SCORES[name], x, y)))
        assert not values.requires_grad


def test_rerank_breaks_ties_by_the_place_in_the_shortlist_and_shows_nan() -> None:
    mean = torch.tensor([[0.1], [0.9], [0.5]])
    x, y = Gaussian(torch.ones(1, 1), torch.zeros(1, 1)), Gaussian(mean, torch.zeros(3, 1))
    values, indices = pairwise_rerank(x, y, 3, shortlist="dot")
    assert values.tolist() == [[0.0, 0.0, 0.0]], "equal variances: H is 0 for all"
    assert indices.tolist() == [[1, 2, 0]]
    y.logvar[2] = torch.nan
    values, indices = pairwise_rerank(x, y, 3, shortlist="dot")
    assert indices.tolist() == [[2, 1, 0]]
    assert values.isnan().tolist() == [[True, False, False]]


def test_inclusion_alone_retrieves_the_farthest_and_rerank_does_not() -> None:
    x = Gaussian(torch.tensor([[1.0, 0.0]]), torch.full((1, 2), -3.0))
    angle = torch.tensor([0.1, 0.2, 3.0])
    y = Gaussian(torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([[-2.5], [-2.0], [-2.0]]).expand(3, 2))
    assert pairwise_topk(x, y, 1, score="inclusion")[1].tolist() == [[2]]
    assert pairwise_rerank(x, y, 2)[1].tolist() == [[1, 0]], "of the two that are near, the wider one first"


@pytest.mark.parametrize(
    ("k", "score", "precise", "n"),
    [(10, "csd", False, 9000), (1, "wasserstein2", True, 9000), (5000, "csd", False, 600)],
)
def test_memory_is_the_workspace_and_the_results(k: int, score: str, precise: bool, n: int, tmp_path: Path) -> None:
    """At 9000 x 9000 the matrix alone is 324 MB in float32; thousands of places of 600 rows need narrow strips."""
    x, y = (Gaussian(torch.randn(rows, 32), torch.randn(rows, 32)) for rows in (n, 9000))
    peak = peak_bytes(lambda: pairwise_topk(x, y, k, score=score, precise=precise), tmp_path)
    assert 12 * k * n <= peak <= WORKSPACE["cpu"] + 12 * k * n
