"""The benchmarks measure what they say: right results only, memory that cannot hide, peers that are missing by name."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import comparison, run
from benchmarks.cases import cases, make_batch, ours, train
from benchmarks.comparison import compare
from benchmarks.correctness import check, errors
from benchmarks.measure import interleave, ratio
from benchmarks.peers import EAGER, LIMIT, OURS, PEERS, eager, refusal
from benchmarks.records import stamp
from benchmarks.truth import results, truth
from prolap_kernels import OBJECTIVES
from prolap_kernels.scores import BILINEAR, ELEMENTWISE, SCORES
from tests.tolerances import assert_same

ROOT = Path(__file__).parents[2]
PUBLIC_SIGNATURES = {
    "siglip-kernel": (
        "siglip_kernel",
        "fused_siglip_loss",
        ["img_features", "txt_features", "log_temperature", "bias"],
    ),
    "memeff": ("memeff.clip_loss", "MemoryEfficientCLIPLoss", ["temperature", "normalized_inputs", "stable"]),
    "inf-cl": ("inf_cl.flash", "cal_flash_loss", ["q", "k", "scale", "head_dim"]),
}


def test_every_score_and_objective_is_a_case() -> None:
    """And the bare matrix of every elementwise score, with gradients and without."""
    losses = {
        f"{score.name.replace('/', '_')}-{objective}" for score in BILINEAR + ELEMENTWISE for objective in OBJECTIVES
    }
    matrices = {f"{score.name.replace('/', '_')}-score{part}" for score in ELEMENTWISE for part in ("", "-forward")}
    assert {case.name for case in cases().values() if case.pairs == "diagonal"} == losses | matrices
    assert {"csd-sigmoid-ids", "csd-sigmoid-negatives", "dot-softmax-ids"} <= set(cases())
    assert "dot-softmax-negatives" not in cases()


@pytest.mark.parametrize("name", list(cases()))
@pytest.mark.parametrize("shape", [(16, 16, 8), (18, 13, 7)])
def test_eager_torch_computes_our_loss_and_gradients(name: str, shape: tuple[int, int, int]) -> None:
    batch = make_batch(cases()[name], shape, "cpu", torch.float64)
    want = truth(batch)
    got = errors(results(eager, batch), want)
    frozen = {"x.logvar"} if "mahalanobis" in name else set()  # it looks at the spread of y alone
    assert set(got) == {"loss"} | (set() if batch.case.forward else {*batch.leaves} - frozen)
    # squares of differences of nearly equal means and deviations cancel in a lift
    assert max(got.values()) < (1e-11 if "distance" in name or "wasserstein" in name else 1e-13)


def test_cases_look_like_training() -> None:
    """Neither all positives nor all negatives are settled, or gradients would be zeros and checks empty."""
    for name in ("csd-sigmoid", "csd_distance-sigmoid", "wasserstein2-sigmoid"):
        found = results(ours(), make_batch(cases()[name], (64, 64, 32), "cpu", torch.float64))
        assert 0.5 < float(found["loss"]) < 30
        assert all(float(g.abs().max()) > 1e-6 for g in found.values() if g is not None)


def test_one_call_forward_and_backward_fills_every_leaf() -> None:
    batch = make_batch(cases()["csd-softmax"], (6, 6, 4), "cpu", torch.float32)
    train(ours(), batch)
    assert all(leaf.grad is not None for leaf in batch.leaves.values())
    batch.clear()
    assert all(leaf.grad is None for leaf in batch.leaves.values())


@pytest.mark.parametrize("name", ["csd-sigmoid", "wasserstein2-softmax"])
def test_the_limit_is_the_three_products(name: str) -> None:
    batch = make_batch(cases()[name], (5, 4, 3), "cpu", torch.float32)
    with torch.no_grad():
        x, y = SCORES[batch.case.score].factor_x(batch.x).phi, SCORES[batch.case.score].factor_y(batch.y).phi
    assert_same(PEERS[LIMIT].build()(batch), x @ y.T @ y, terms=6 + 6 + 6)
    assert batch.flops() == 6 * 5 * 4 * x.shape[1]


def test_the_limit_follows_the_batch() -> None:
    products = PEERS[LIMIT].build()
    for rows in (6, 5):
        batch = make_batch(cases()["dot-sigmoid"], (rows, rows, 3), "cpu", torch.float32)
        x, y = batch.x.mean.detach(), batch.y.mean.detach()
        assert_same(products(batch), x @ y.T @ y, terms=6 + 6 + 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_our_loss_passes_its_check(dtype: torch.dtype) -> None:
    batch = make_batch(cases()["csd-sigmoid-ids"], (40, 30, 16), "cpu", dtype)
    verdict = check(PEERS[OURS], ours(), batch, truth(batch))
    assert verdict.why == ""
    assert verdict.worst > 0


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_a_wrong_loss_does_not(wrong: float) -> None:
    batch = make_batch(cases()["csd-sigmoid"], (24, 24, 16), "cpu", torch.float32)
    verdict = check(PEERS[OURS], lambda b: ours()(b) * wrong, batch, truth(batch))
    assert "loss errs by" in verdict.why
    assert "x.mean errs by" in verdict.why


def test_a_peer_must_compute_the_same_function_and_what_it_lacks_is_known() -> None:
    batch = make_batch(cases()["dot-softmax"], (24, 24, 16), "cpu", torch.float32)
    fixed = PEERS["memeff"]._replace(package=None, devices=())

    def numb(b):
        return eager(b._replace(scale=b.scale.detach()))

    assert "scale" in check(PEERS[EAGER], numb, batch, truth(batch)).why
    assert check(fixed, numb, batch, truth(batch)).why == ""
    assert check(fixed, lambda b: 1.1 * numb(b), batch, truth(batch)).why != ""


def test_a_failed_check_suppresses_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {OURS: PEERS[OURS]._replace(build=lambda: lambda b: ours()(b) * 1.01), LIMIT: PEERS[LIMIT]}
    monkeypatch.setattr(comparison, "peak_row", lambda *a: {})
    monkeypatch.setattr(comparison, "PEERS", broken)
    rows = compare(cases()["csd-sigmoid"], (8, 8, 4), "cpu", "float32", broken.values(), 2, 1.0)
    assert "wrong, so not timed" in rows[0]["failed"]
    assert "seconds" not in rows[0]
    assert rows[1]["seconds"] > 0
    assert "times_ours" not in rows[1]


def test_one_that_raises_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch):
        raise RuntimeError("no such kernel\nand more")

    peers = {OURS: PEERS[OURS], EAGER: PEERS[EAGER]._replace(build=lambda: fail)}
    monkeypatch.setattr(comparison, "peak_row", lambda *a: {})
    monkeypatch.setattr(comparison, "PEERS", peers)
    rows = compare(cases()["csd-sigmoid"], (8, 8, 4), "cpu", "float32", peers.values(), 2, 1.0)
    assert rows[0]["seconds"] > 0
    assert rows[1]["failed"] == "RuntimeError: no such kernel"


def test_refusals_say_why() -> None:
    case, shape = cases()["dot-sigmoid"], (8, 8, 4)
    here = PEERS["siglip-kernel"]._replace(package=None)
    absent = here._replace(package=("no_such_package_here", "no-such-package"))
    assert refusal(absent, case, shape, "cuda") == "not installed (pip install no-such-package)"
    assert "cuda only" in str(refusal(here, case, shape, "cpu"))
    anywhere = here._replace(devices=())
    assert refusal(anywhere, case, shape, "cpu") is None
    assert refusal(anywhere, case, (8, 9, 4), "cpu") == "takes square batches only, got 8 x 9"
    assert refusal(anywhere, cases()["csd-sigmoid"], shape, "cpu") == "computes dot-sigmoid only"
    assert refusal(anywhere, cases()["dot-sigmoid-ids"], shape, "cpu") == "has diagonal pairs only"
    assert "GB are free" in str(refusal(PEERS["literal"], case, (1 << 16, 1 << 16, 1024), "cpu"))


@pytest.mark.parametrize("name", list(PUBLIC_SIGNATURES))
def test_peers_are_called_by_their_public_signature(name: str) -> None:
    """Read off the source: these packages import only where there is a driver."""
    module, function, wanted = PUBLIC_SIGNATURES[name]
    package = importlib.util.find_spec(module.split(".")[0])
    if package is None or package.origin is None:
        pytest.skip(f"{name} is not installed")
    path = Path(package.origin).parent.joinpath(*module.split(".")[1:])
    text = path.with_suffix(".py").read_text() if "." in module else Path(package.origin).read_text()
    found = next(n for n in ast.walk(ast.parse(text)) if getattr(n, "name", "") == function)
    if isinstance(found, ast.ClassDef):
        found = next(n for n in found.body if getattr(n, "name", "") == "__init__")
    assert isinstance(found, ast.FunctionDef)
    assert set(wanted) <= {a.arg for a in found.args.args}


def test_contenders_take_turns_and_a_slow_one_stops_after_two_calls() -> None:
    batch, order = make_batch(cases()["dot-sigmoid"], (4, 4, 2), "cpu", torch.float32), []

    def noted(name):
        return lambda: order.append(name) or train(ours(), batch)

    found = interleave({"a": noted("a"), "b": noted("b")}, "cpu", repeat=4, patience=60.0)
    assert [len(times) for times in found.values()] == [4, 4]
    turns = "".join(order[4:])  # two calls each warm up
    assert sorted(turns[0:2]) == sorted(turns[2:4]) == ["a", "b"]
    slow = interleave({"a": noted("a")}, "cpu", repeat=9, patience=0.0)
    assert len(slow["a"]) == 2
    assert ratio([2.0, 4.0, 90.0], [1.0, 2.0, 30.0]) == 2.0


SPENDING = """
import torch
from benchmarks.cases import cases, make_batch, ours
from benchmarks.comparison import peak_bytes
from tests.tolerances import assert_same
batch, kept, size = make_batch(cases()["dot-sigmoid"], (64, 64, 64), "cpu", torch.float32), [], 32 << 20
def spends(b):
    torch.ones(size // 4).sum()
    return ours()(b)
def keeps(b):
    if not kept:
        kept.append(torch.ones(size // 4))
    return ours()(b)
print(*(peak_bytes(loss, batch) for loss in (spends, keeps, ours())))
"""


def test_memory_is_the_peak_above_inputs_and_gradients_and_counts_what_is_kept() -> None:
    """In a process of its own: what other tests left to the allocator is no part of it."""
    done = subprocess.run([sys.executable, "-c", SPENDING], cwd=ROOT, check=True, capture_output=True, text=True)
    spends, keeps, neither = map(int, done.stdout.split())
    size = 32 << 20
    for peak in (spends, keeps):
        # the kernel counts resident pages a little late
        assert size - (1 << 20) <= peak < size + (8 << 20)
    assert neither < 8 << 20


def test_a_run_writes_time_memory_and_where_they_come_from(tmp_path: Path) -> None:
    out, plots = tmp_path / "rows.json", tmp_path / "plots"
    command = [
        sys.executable,
        "-m",
        "benchmarks.run",
        "--sizes",
        "96",
        "160",
        "--width",
        "160",
        "--repeat",
        "3",
        "--json",
        str(out),
    ]
    command += ["--plot", str(plots), "--peers", OURS, EAGER, "literal", "memeff", LIMIT]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    content = json.loads(out.read_text())
    assert content.keys() >= stamp("cpu").keys()
    assert content["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    rows = {row["contender"]: row for row in content["rows"] if row["shape"] == [160, 160, 160]}
    assert "absent" in rows["memeff"]
    assert "absent" in done.stdout
    timed = [row for row in rows.values() if "absent" not in row]
    assert all(row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1] for row in timed)
    assert rows[OURS]["times_ours"] == rows[LIMIT]["times_limit"] == 1.0
    assert rows["literal"]["peak_bytes"] > 160**3 * 4 > rows[OURS]["peak_bytes"]  # N x M x D float32 once
    assert [p.name for p in plots.iterdir()] == ["csd-sigmoid-float32-160.png"]


@pytest.mark.parametrize(
    "words",
    [["--shape", "0", "4", "4"], ["--case", "csd"], ["--peers", "nobody"], ["--sizes", "8", "-1"], ["--dtype", "int8"]],
)
def test_bad_arguments_are_errors_of_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run.main(words)
    assert words[0] in capsys.readouterr().err.splitlines()[-1]
