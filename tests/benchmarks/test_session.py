"""Sessions on a GPU: sections, budget, what a later session keeps, and the targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, run
from benchmarks.peers import LIMIT, OURS
from benchmarks.session import DRY, REAL, Session, judged


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
    record = json.loads(out.read_text())
    assert record["dry_run"] is True
    assert list(record["sections"]) == list(run.SECTIONS)
    everything = [row for rows in record["sections"].values() for row in rows]
    assert not [row for row in everything if "broken" in row]
    timed = [row for name in ("key", "sweep") for row in record["sections"][name] if "absent" not in row]
    assert [row for row in timed if "failed" in row] == []
    assert all(row["peak_bytes"] >= 0 and row["seconds"] > 0 for row in timed)
    assert gpu.report().count(record["device"]) == 0 or not record["dry_run"]
    assert gpu.device_report(record) == ""  # a dry run is never shown
    shown = gpu.device_report(record | {"dry_run": False})
    assert "unmeasured" in shown
    assert "as shipped" in shown


def test_a_later_session_keeps_what_the_earlier_one_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "gpu.json"
    words = ["--gpu", "--dry-run", "--json", str(out), "--only"]
    run.main([*words, "launches"])
    run.main([*words, "sanitizer", "targets"])
    sections = json.loads(out.read_text())["sections"]
    assert list(sections) == ["launches", "sanitizer", "targets"]
    assert any(row["value"] for row in sections["targets"])
    monkeypatch.setattr("benchmarks.records.hash_of_sources", lambda: "others")
    run.main([*words, "sanitizer"])
    assert list(json.loads(out.read_text())["sections"]) == ["sanitizer"]


def test_a_spent_budget_skips_sections_by_name(tmp_path: Path) -> None:
    session = Session(DRY._replace(device="cpu"), -1.0, tmp_path / "gpu.json")
    session.run(run.SECTIONS, whatever=("targets",))
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert all(
        rows == [{"skipped": "the time budget is spent"}] for name, rows in sections.items() if name != "targets"
    )
    assert {row["passed"] for row in sections["targets"]} == {None}


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
    targets = {r["target"]: r for r in judged(REAL, measured, [{"case": "csd-sigmoid", "launches": 9}])}
    limit = targets["PPCL over three products, B=65536, D=768"]
    assert limit["value"] == pytest.approx(1.2)
    assert (limit["passed"], limit["stretch"]) == (True, False)
    assert targets["siglip-kernel's best over our SigLIP, B=65536, D=768"]["passed"] is False  # 1.5 / 1.19
    assert targets["workspace in GB, B=65536, D=768"]["passed"] is False
    assert targets["PPCL over our SigLIP, B=65536, D=768"]["passed"] is True
    assert targets["launches of the forward call, B=256, D=1024"]["passed"] is True
    assert targets["PPCL over three products, B=65536, D=512"]["passed"] is None
