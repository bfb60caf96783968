"""Tables say what the result files hold, and the documents show them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import compile_check, cost_model, records, report


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


def test_machine_code_becomes_tables_and_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {
        "kernel": "sigmoid_tile",
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
    assert compile_check.report() == cost_model.report() == records.UNMEASURED
    (tmp_path / "compile_check.json").write_text(json.dumps({"kernels": [kernel], "violations": []}))
    assert compile_check.per_pair(kernel, "special") == 2.0
    assert "255 / 2 / 32 / 2.00" in compile_check.report()
    assert "40 instructions and 2.0 special functions a pair" in cost_model.report()
