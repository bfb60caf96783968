"""The benchmark of batch, chunk and checkpointing: what is measured, what is left out, and the table of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import batch_memory, records
from benchmarks.batch_memory import CPU, CUDA, Case
from benchmarks.measure import child
from benchmarks.records import stamp


def test_a_row_is_a_real_step() -> None:
    row = batch_memory.measure(Case("quickstart", 64, 16, True), "cpu", 1)
    assert row["peak_bytes"] > 0
    assert row["pairs_per_second"] == pytest.approx(64 / row["seconds_per_step"])
    assert row["held_bytes"] > 4 * 4 * 1_000_000  # weights, gradients and two moments of the small model


def test_the_published_size_is_there_with_and_without_chunks() -> None:
    published = [case for case in CPU if case.size == "published"]
    assert {case.batch for case in published if not case.chunk and not case.checkpointing} == {2, 4, 8}
    assert any(case.chunk and case.batch > 8 for case in published)
    assert set(CPU) < set(CUDA)
    assert len(set(CUDA)) == len(CUDA)


def fake(monkeypatch: pytest.MonkeyPatch, free: float = 1e12, **failing: dict[str, Any]) -> None:
    def measured(module: str, *words: Any, timeout: float) -> dict[str, Any]:
        assert words[words.index("--steps") + 1] == 1
        case = Case(*json.loads(words[words.index("--one") + 1]))
        figures = {"peak_bytes": case.batch * 10**8, "pairs_per_second": float(case.batch), "steps": 1}
        return failing.get(f"{case.size}_{case.batch}", figures)

    monkeypatch.setattr(batch_memory, "child", measured)
    monkeypatch.setattr(batch_memory, "free_bytes", lambda: free)


def test_what_has_no_room_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cpu" / "batch_memory.json"
    fake(monkeypatch, free=0.7e9)
    assert batch_memory.main(["--size", "published", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record.keys() >= stamp("cpu").keys()
    absent = [(row["batch"], row["chunk"], row.get("absent")) for row in record["rows"]]
    assert absent == [(2, 0, None), (4, 0, None), (8, 0, "no room"), (8, 0, "no room"), (8, 2, None), (16, 2, None)]
    assert "published   batch 8     chunk -                     no room" in capsys.readouterr().out
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert "| published | 4 | - | - | 0.40 | 4.00 | not measured | - |" in batch_memory.report()
    assert "| published | 8 | - | yes | no room | - | not measured | - |" in batch_memory.report()
    assert "| published | 16 | 2 | - | 1.60 | 16 | not measured | - |" in batch_memory.report()
    assert "GPU: not measured" in batch_memory.report()


def test_failures_and_the_end_of_the_time_are_rows_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake(monkeypatch, quickstart_1024={"failed": "MemoryError"})
    assert batch_memory.main(["--size", "quickstart", "--json", str(tmp_path / "cpu" / "batch_memory.json")]) == 1
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert "| quickstart | 1,024 | 128 | - | failed | - | not measured | - |" in batch_memory.report()
    rows = batch_memory.compare(CPU, "cpu", 1, 0.0, None)
    assert {row["absent"] for row in rows} == {"no time left"}


def test_a_process_that_dies_says_of_what() -> None:
    row = child("benchmarks.batch_memory", "--one", json.dumps(Case("nothing", 2)), timeout=100.0)
    assert "KeyError" in row["failed"]
    words = ("--one", json.dumps(Case("quickstart", 2)))
    assert child("benchmarks.batch_memory", *words, timeout=0.1) == {"absent": "took more than 0 s"}


def test_a_gpu_has_columns_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    assert batch_memory.report() == records.UNMEASURED
    row = Case("published", 64, 32)._asdict() | {"peak_bytes": 8e9, "pairs_per_second": 123.4}
    (tmp_path / "cuda").mkdir()
    content = stamp("cpu") | {"device": "a GPU", "rows": [row]}
    (tmp_path / "cuda" / "batch_memory.json").write_text(json.dumps(content))
    assert "| published | 64 | 32 | - | not measured | - | 8.00 | 123 |" in batch_memory.report()
    assert "CPU: not measured; GPU: a GPU" in batch_memory.report()
