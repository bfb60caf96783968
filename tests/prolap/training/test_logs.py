"""Logs and progress display."""

from __future__ import annotations

from pathlib import Path

import pytest

from prolap.training import logs
from prolap.utils.progress import Display, Meter, reporter


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"loss": 1.25, "clips_per_second": 100.0, "data_wait_share": 0.5}
    display = Display(True, 0, 9)
    display.update(1, row)
    assert capsys.readouterr().err == ""  # a line every ten seconds at most
    now = display._last_line + 11
    monkeypatch.setattr("prolap.utils.progress.time.monotonic", lambda: now)
    display.update(2, row)
    assert capsys.readouterr().err == "step 2/9: loss 1.25, 100 clips/s, 50% waiting for data\n"
    display.say("hello")
    Display(False, 0, 9).say("nothing")
    assert capsys.readouterr().err == "hello\n"


def test_the_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr("prolap.utils.progress.time.perf_counter", lambda: now)
    meter = Meter()
    meter.add(30, 0.5)
    meter.add(10, 0.5)
    now = 14.0
    assert meter.read() == {"clips_per_second": 10.0, "data_wait_share": 0.25}
    now = 15.0
    assert meter.read() == {"clips_per_second": 0.0, "data_wait_share": 0.0}


def test_logs_drop_later_rows_and_a_line_cut_short(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = logs.Logs(tmp_path, 2)
    log.write("train", {"step": 3, "loss": 0.5})
    log.close()
    assert logs.read(tmp_path / "train.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5}]


def test_work_on_data_is_announced_once_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with reporter(None) as progress:
        for done in (0, 600, 1200):
            progress("rendering", done, 1200)
    assert capsys.readouterr().err == "rendering: 1,200\n"
