"""What becomes of measurements: sessions on a GPU, targets, profiles, tables and the documents that show them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import loss_tables, records, report, run
from benchmarks.cases import cases, make_batch, ours, train
from benchmarks.eager import eager
from benchmarks.peers import EAGER, LIMIT, OURS
from benchmarks.profile import STEPS, gather
from benchmarks.profile import main as profile_main
from benchmarks.session import DRY, REAL, Session
from benchmarks.targets import judged


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_one_sentence_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--gpu"]) == 2
    assert capsys.readouterr().err.strip() == run.NO_DEVICE
    with pytest.raises(SystemExit, match="2"):
        run.main(["--device", "cuda"])
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_the_gpu_session_runs_dry_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    run.main(["--gpu", "--dry-run", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["dry_run"] is True
    assert list(found["sections"]) == list(run.SECTIONS)
    everything = [row for rows in found["sections"].values() for row in rows]
    assert not [row for row in everything if "broken" in row]
    timed = [row for name in ("key", "sweep") for row in found["sections"][name] if "absent" not in row]
    assert [row for row in timed if "failed" in row] == []
    assert all(row["peak_bytes"] >= 0 and row["seconds"] > 0 for row in timed)
    assert loss_tables.gpu().count(found["device"]) == 0 or not found["dry_run"]
    assert loss_tables.device(found) == ""  # a dry run is never shown
    shown = loss_tables.device(found | {"dry_run": False})
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
    monkeypatch.setattr("benchmarks.records.hash_of_sources", lambda: "others")
    run.main([*words, "sanitizer"])
    assert list(json.loads(out.read_text())["sections"]) == ["sanitizer"]


def test_a_spent_budget_skips_sections_by_name(tmp_path: Path) -> None:
    session = Session(DRY._replace(device="cpu"), -1.0, tmp_path / "gpu.json")
    session.run(run.SECTIONS, whatever=("targets",))
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
    assert found["workspace in GB, B=65536, D=768"]["passed"] is False
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
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert loss_tables.compiled() == loss_tables.bilinear_model() == records.UNMEASURED
    (tmp_path / "compile_check.json").write_text(json.dumps({"kernels": [kernel], "violations": []}))
    assert loss_tables.per_pair(kernel, "special") == 2.0
    assert "255 / 2 / 32 / 2.00" in loss_tables.compiled()
    assert "40 instructions and 2.0 special functions a pair" in loss_tables.bilinear_model()
