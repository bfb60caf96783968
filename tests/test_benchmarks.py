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

from benchmarks import gpu, report, run, tables
from benchmarks.cases import cases, make_batch, ours
from benchmarks.correctness import check, errors, results, train, truth
from benchmarks.environment import stamp
from benchmarks.gpu import DRY, REAL
from benchmarks.measure import interleave, peak_bytes, ratio
from benchmarks.peers import EAGER, LIMIT, OURS, PEERS, eager, refusal
from benchmarks.profile import STEPS, gather
from benchmarks.profile import main as profile_main
from benchmarks.targets import judged
from prolap_kernels import OBJECTIVES
from prolap_kernels.scores import LIFTS, SCORES, TILES

ROOT = Path(__file__).parent.parent
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
    """And the bare matrix of every tile, with gradients and without."""
    losses = {f"{score.name.replace('/', '_')}-{objective}" for score in LIFTS + TILES for objective in OBJECTIVES}
    matrices = {f"{score.name.replace('/', '_')}-score{part}" for score in TILES for part in ("", "-forward")}
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


@pytest.mark.parametrize("name", ["csd-sigmoid", "wasserstein2-softmax"])
def test_the_limit_is_the_three_products(name: str) -> None:
    batch = make_batch(cases()[name], (5, 4, 3), "cpu", torch.float32)
    with torch.no_grad():
        x, y = SCORES[batch.case.score].lift_x(batch.x).phi, SCORES[batch.case.score].lift_y(batch.y).phi
    torch.testing.assert_close(PEERS[LIMIT].build()(batch), x @ y.T @ y)
    assert batch.flops() == 6 * 5 * 4 * x.shape[1]


def test_the_limit_follows_the_batch() -> None:
    products = PEERS[LIMIT].build()
    for rows in (6, 5):
        batch = make_batch(cases()["dot-sigmoid"], (rows, rows, 3), "cpu", torch.float32)
        x, y = batch.x.mean.detach(), batch.y.mean.detach()
        torch.testing.assert_close(products(batch), x @ y.T @ y)


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
    monkeypatch.setattr(run, "PEERS", broken)
    rows = run.compare(cases()["csd-sigmoid"], (8, 8, 4), "cpu", "float32", broken.values(), 2, 1.0, lambda *a: 0)
    assert "wrong, so not timed" in rows[0]["failed"]
    assert "seconds" not in rows[0]
    assert rows[1]["seconds"] > 0
    assert "times_ours" not in rows[1]


def test_one_that_raises_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch):
        raise RuntimeError("no such kernel\nand more")

    peers = {OURS: PEERS[OURS], EAGER: PEERS[EAGER]._replace(build=lambda: fail)}
    monkeypatch.setattr(run, "PEERS", peers)
    rows = run.compare(cases()["csd-sigmoid"], (8, 8, 4), "cpu", "float32", peers.values(), 2, 1.0, lambda *a: 0)
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
        return lambda b: order.append(name) or ours()(b)

    found = interleave({"a": noted("a"), "b": noted("b")}, batch, "cpu", repeat=4, patience=60.0)
    assert [len(times) for times in found.values()] == [4, 4]
    turns = "".join(order[4:])  # two calls each warm up
    assert sorted(turns[0:2]) == sorted(turns[2:4]) == ["a", "b"]
    slow = interleave({"a": ours()}, batch, "cpu", repeat=9, patience=0.0)
    assert len(slow["a"]) == 2
    assert ratio([2.0, 4.0, 90.0], [1.0, 2.0, 30.0]) == 2.0


def test_memory_is_the_peak_above_inputs_and_gradients_and_counts_what_is_kept() -> None:
    batch, kept = make_batch(cases()["dot-sigmoid"], (64, 64, 64), "cpu", torch.float32), []
    size = 32 << 20

    def spends(b):
        torch.ones(size // 4).sum()
        return ours()(b)

    def keeps(b):
        if not kept:
            kept.append(torch.ones(size // 4))
        return ours()(b)

    for loss in (spends, keeps):
        # the kernel counts resident pages a little late
        assert size - (1 << 20) <= peak_bytes(loss, batch, "cpu") < size + (8 << 20)
    assert peak_bytes(ours(), batch, "cpu") < 8 << 20


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_one_sentence_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--gpu"]) == 2
    assert capsys.readouterr().err.strip() == gpu.NO_DEVICE
    with pytest.raises(SystemExit, match="2"):
        run.main(["--device", "cuda"])
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_the_gpu_session_runs_dry_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    run.main(["--gpu", "--dry-run", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["dry_run"] is True
    assert list(found["sections"]) == list(gpu.sections())
    everything = [row for rows in found["sections"].values() for row in rows]
    assert not [row for row in everything if "broken" in row]
    timed = [row for name in ("key", "sweep") for row in found["sections"][name] if "absent" not in row]
    assert [row for row in timed if "failed" in row] == []
    assert all(row["peak_bytes"] >= 0 and row["seconds"] > 0 for row in timed)
    assert tables.gpu().count(found["device"]) == 0 or not found["dry_run"]
    assert tables._device(found) == ""  # a dry run is never shown
    shown = tables._device(found | {"dry_run": False})
    assert "unmeasured" in shown
    assert "as shipped" in shown


def test_a_later_session_keeps_what_the_earlier_one_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    words = ["--gpu", "--dry-run", "--json", str(out), "--only"]
    run.main([*words, "launches"])
    run.main([*words, "sanitizer", "targets"])
    found = json.loads(out.read_text())["sections"]
    assert list(found) == ["launches", "sanitizer", "targets"]
    assert any(row["value"] for row in found["targets"])
    monkeypatch.setattr("benchmarks.environment._sources", lambda: "others")
    run.main([*words, "sanitizer"])
    assert list(json.loads(out.read_text())["sections"]) == ["sanitizer"]


def test_a_spent_budget_skips_sections_by_name(tmp_path: Path) -> None:
    session = gpu.Session(DRY._replace(device="cpu"), -1.0, tmp_path / "gpu.json")
    gpu.run(session)
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert all(rows == [{"skipped": "the time budget is spent"}] for name, rows in found.items() if name != "targets")
    assert {row["passed"] for row in found["targets"]} == {None}


def test_targets_are_judged_by_what_was_measured() -> None:
    def row(case, contender, seconds, width=768, rows=65536, **more):
        return {
            "case": case,
            "contender": contender,
            "seconds": seconds,
            "shape": [rows, rows, width],
            "dtype": "bfloat16",
        } | more

    measured = [
        row("csd-sigmoid", OURS, 1.2, peak_bytes=900_000_000),
        row("csd-sigmoid", LIMIT, 1.0),
        row("dot-sigmoid", OURS, 1.19),
        row("dot-sigmoid", "siglip-kernel", 2.0),
        row("dot-sigmoid", "siglip-kernel fp8", 1.5),
    ]
    found = {r["target"]: r for r in judged(REAL, measured, [{"case": "csd-sigmoid", "launches": 9}])}
    limit = found["PPCL over three products, B=65536, D=768"]
    assert limit["value"] == pytest.approx(1.2)
    assert (limit["passed"], limit["stretch"]) == (True, False)
    assert found["siglip-kernel's best over our SigLIP, B=65536, D=768"]["passed"] is False  # 1.5 / 1.19
    assert found["scratch in GB, B=65536, D=768"]["passed"] is False
    assert found["PPCL over our SigLIP, B=65536, D=768"]["passed"] is True
    assert found["launches of the forward call, B=256, D=1024"]["passed"] is True
    assert found["PPCL over three products, B=65536, D=512"]["passed"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted kernels run without a GPU")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in rows that only pad a tile
def test_the_profile_counts_the_flops_of_the_three_products() -> None:
    batch = make_batch(cases()["csd-sigmoid"], (32, 24, 16), "cpu", torch.float32)
    for loss in (eager, ours("triton")):
        found = gather(loss, batch, "cpu")
        assert sum(work.flops for work in found.values()) == STEPS * batch.flops()
        assert all(work.bytes > 0 for work in found.values() if work.flops)


def test_the_profile_prints_a_table_and_the_command_for_counters(capsys: pytest.CaptureFixture[str]) -> None:
    assert profile_main(["csd-sigmoid", "--shape", "64", "64", "32", "--peer", EAGER, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "aten::mm" in text
    assert "ncu --clock-control none" in text
    assert profile_main(["csd-sigmoid", "--shape", "8", "8", "8", "--bare", "--device", "cpu"]) == 0
    with pytest.raises(SystemExit, match="2"):
        profile_main(["dot-softmax", "--peer", "memeff", "--device", "cpu"])


@pytest.mark.parametrize("path", report.DOCUMENTS, ids=lambda p: p.name)
def test_the_documents_show_what_the_result_files_hold(path: Path) -> None:
    text = path.read_text()
    assert report.filled(text, path.name) == text


def test_a_changed_figure_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "page.md"
    marks = "".join(f"<!-- report: {name} -->\n<!-- end -->\n" for name in report.SECTIONS)
    document.write_text(f"before\n{marks}after\n")
    monkeypatch.setattr(report, "DOCUMENTS", (document,))
    report.main([])
    report.main(["--check"])
    written = document.read_text()
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    document.write_text(written.replace("<!-- report: losses -->\n", "<!-- report: losses -->\n0.001 ms\n"))
    with pytest.raises(SystemExit, match="page.md does not show"):
        report.main(["--check"])
    document.write_text(written.replace("report: losses", "report: losess"))
    with pytest.raises(SystemExit, match="losses"):
        report.main(["--check"])


def test_one_call_forward_and_backward_fills_every_leaf() -> None:
    batch = make_batch(cases()["csd-softmax"], (6, 6, 4), "cpu", torch.float32)
    train(ours(), batch)
    assert all(leaf.grad is not None for leaf in batch.leaves.values())
    batch.clear()
    assert all(leaf.grad is None for leaf in batch.leaves.values())


def test_machine_code_becomes_tables_and_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {
        "kernel": "sigmoid_lift_tile",
        "configuration": "bfloat16 128x256x64x8x3 STORE=1 SUMS=1",
        "chip": "sm_90",
        "spills": 0,
        "pairs": 128.0,
        "registers": 255,
        "shared": 2048,
        "matrix": 32,
        "special": 256,
        "instructions": 5120,
    }
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.compiled() == tables.model() == tables.UNMEASURED
    (tmp_path / "compile_check.json").write_text(json.dumps({"kernels": [kernel], "violations": []}))
    assert tables.per_pair(kernel, "special") == 2.0
    assert "255 / 2 / 32 / 2.00" in tables.compiled()
    assert "40 instructions and 2.0 special functions a pair" in tables.model()
