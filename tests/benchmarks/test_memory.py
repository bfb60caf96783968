"""The benchmark of memory: a process for each figure, sizes that do not fit are computed, the table shows both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import memory, records
from benchmarks.records import stamp
from tests.tolerances import assert_same, likely


@pytest.mark.parametrize("name", memory.CASES)
def test_blocks_and_the_matrix_give_one_answer(name: str) -> None:
    inputs = memory._inputs(70, 70, 8)
    for ours, dense in zip(memory.CASES[name].blocks(*inputs), memory.CASES[name].matrix(*inputs), strict=True):
        assert_same(ours.flatten(), dense.flatten(), terms=likely(70 + 8))


def test_figures_come_from_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "memory.json"
    words = ["--case", "topk-csd", "--shape", "4000", "4000", "8", "--repeat", "1", "--json", str(out)]
    assert memory.main(words) == 0
    record = json.loads(out.read_text())
    assert record.keys() >= stamp("cpu").keys()
    blocks, matrix = record["rows"]
    assert matrix["peak_bytes"] >= matrix["matrix_bytes"] == 4 * 4000**2 > blocks["peak_bytes"]
    assert blocks["seconds"] > 0
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    (tmp_path / "cpu").mkdir()
    out.rename(tmp_path / "cpu" / "memory.json")
    assert f"| {blocks['peak_bytes'] / 1e6:,.0f} | {blocks['seconds']:.2f} |" in memory.report()


def test_a_matrix_without_room_is_computed_and_a_failure_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
    monkeypatch.setattr(memory, "child", lambda *a: {"peak_bytes": 5_000_000, "seconds": 1.0, "calls": 1})
    rows = memory.compare("ranks-csd", (10_000, 10_000, 4), 1)
    assert [row.get("absent") for row in rows] == [None, "the matrix does not fit"]
    for row in rows:
        memory.print_row(row)
    assert "N x M: 800 MB" in capsys.readouterr().out
    monkeypatch.setattr(memory, "child", lambda *a: {"failed": "MemoryError"})
    rows += memory.compare("topk-csd", (10_000, 10_000, 4), 1)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "memory.json").write_text(json.dumps(stamp("cpu") | {"rows": rows}))
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert "| 5 | 1.00 | 800 alone | - |" in memory.report()
    assert "| failed | - | 400 alone | - |" in memory.report()
    assert memory.main(["--case", "topk-csd", "--shape", "9", "9", "2"]) == 1
